"""`laconic strategies`: what ways of thinking in parallel there are, and their settings."""

from __future__ import annotations

import dataclasses

from laconic.cli.options import AsJson, ListedName


def strategies(name: ListedName = None, as_json: AsJson = False) -> None:
    """List the strategies over parallel traces with their settings; or one of them.

    --json prints one array: name, forms, summary, source, settings of each.
    """
    from laconic.cli.listing import CatalogEntry, pick, show
    from laconic.prune.strategies.registry import listings

    entries = [
        CatalogEntry(a.name, a.forms, a.summary, a.source, [dataclasses.asdict(s) for s in a.settings])
        for a in listings()
    ]
    show(
        pick(entries, name, "strategy"),
        "Use one as --strategy NAME, or NAME:setting=value,setting=value, such as deepprune:K2=4.",
        as_json,
    )
