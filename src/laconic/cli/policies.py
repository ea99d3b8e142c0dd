"""`laconic policies`: what compression policies there are, and their settings."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer


def policies(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: name, summary, settings.")] = False,
) -> None:
    """List the compression policies with their settings, third parties' included."""
    from laconic.cli.common import complain
    from laconic.compress import broken, known, settings_of

    found = known()
    for reason in broken().values():
        complain(f"warning: {reason}")
    if as_json:
        listing = [
            {"name": name, "summary": cls.summary, "settings": [dataclasses.asdict(s) for s in settings_of(name)]}
            for name, cls in found.items()
        ]
        typer.echo(json.dumps(listing, indent=2))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, cls in found.items():
        console.print(Text.assemble((name, "bold"), "  ", cls.summary))
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(style="cyan")
        table.add_column()
        for setting in settings_of(name):
            default = f"= {setting.default}" if setting.default else "(required)"
            table.add_row(f"  {setting.field}", default, Text(f"{setting.meaning} ({setting.type})"))
        if table.row_count:
            console.print(table)
        console.print()
    console.print(Text("Use one as --policy NAME, or NAME:setting=value,setting=value.", style="dim"))
