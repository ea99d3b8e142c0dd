"""`laconic judges`: who can say which traces will agree, and their settings."""

from __future__ import annotations

import dataclasses

from laconic.cli.options import AsJson, ListedName


def judges(name: ListedName = None, as_json: AsJson = False) -> None:
    """List the judges with their settings; or one of them.

    --json prints one array: name, forms, summary, source, settings of each.
    """
    from laconic.cli.listing import CatalogEntry, pick, show
    from laconic.judges.registry import known, settings

    entries = [
        CatalogEntry(key, (judge.form,), judge.meaning, judge.source, [dataclasses.asdict(s) for s in settings(key)])
        for key, judge in known().items()
    ]
    show(
        pick(entries, name, "judge"),
        "Use one as --judge FORM; those with settings as NAME:setting=value,setting=value, such as random:p=0.3,seed=1.",
        as_json,
    )
