"""`laconic policies`: what compression policies there are, and their settings."""

from __future__ import annotations

import dataclasses

from laconic.cli.options import AsJson, ListedName


def policies(name: ListedName = None, as_json: AsJson = False) -> None:
    """List the compression policies with their settings, third parties' included; or one of them.

    --json prints one array: name, forms, summary, source, settings of each.
    """
    from laconic.cli.listing import CatalogEntry, show
    from laconic.cli.messages import print_to_stderr
    from laconic.compress import broken, get, known, settings_of

    found = known() if name is None else {get(name).name: get(name)}
    if name is None:
        for reason in broken().values():
            print_to_stderr(f"warning: {reason}")
    entries = [
        CatalogEntry(key, (key,), cls.summary, cls.source, [dataclasses.asdict(s) for s in settings_of(key)])
        for key, cls in found.items()
    ]
    show(entries, "Use one as --policy NAME, or NAME:setting=value,setting=value.", as_json)
