"""What there is to choose from, for people and as JSON: policies, strategies and judges are listed alike."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from laconic.errors import InputError
from laconic.settings import find_name

UNBROKEN = 10_000
"""Columns where no terminal says how many there are: no line is wrapped, so each can be searched for."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One thing that has a name. forms: how it is written on the command line; source: its paper, "" for none.

    settings: dicts of `field`, `type`, `default` (as it is typed; "": it has to be given) and `meaning`.
    """

    name: str
    forms: tuple[str, ...]
    summary: str
    source: str
    settings: Sequence[dict[str, str]]

    @property
    def line(self) -> str:
        return f"{self.summary} ({self.source})" if self.source else self.summary


def pick(entries: Iterable[CatalogEntry], name: str | None, kind: str) -> list[CatalogEntry]:
    """All of them, or the one of that name. Raises InputError for an unknown name (lists the known ones)."""
    found = list(entries)
    if name is None:
        return found
    meant = find_name(name.partition(":")[0], [entry.name for entry in found])
    picked = [entry for entry in found if entry.name == meant]
    if not picked:
        raise InputError(f"{kind} {name!r} is unknown; expected one of {', '.join(entry.name for entry in found)}")
    return picked


def show(entries: Sequence[CatalogEntry], hint: str, as_json: bool) -> None:
    """The list on stdout. hint: how one is used, the last line."""
    if as_json:
        typer.echo(json.dumps([_record(entry) for entry in entries], indent=2))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if told else UNBROKEN)
    with console.capture() as capture:
        for entry in entries:
            console.print(Text.assemble((", ".join(entry.forms), "bold"), "  ", entry.line))
            table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
            table.add_column(no_wrap=True)
            table.add_column(style="cyan")
            table.add_column()
            for setting in entry.settings:
                default = f"= {setting['default']}" if setting["default"] else "(required)"
                table.add_row(f"  {setting['field']}", default, Text(f"{setting['meaning']} ({setting['type']})"))
            if table.row_count:
                console.print(table)
            console.print()
        console.print(Text(hint, style="dim"))
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())


def _record(entry: CatalogEntry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "forms": list(entry.forms), "settings": list(entry.settings)}
