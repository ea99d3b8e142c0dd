"""Where the results of an experiment go: results.json, table.md, plot.png, and the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from laconic.cli.tables import Table

Report = Mapping[str, Any]
"""The results of an experiment as results.json holds them: plain JSON values."""


def check_plot(plot: bool | None) -> None:
    from laconic.errors import InputError
    from laconic.lab.shared.figure import available

    if plot and not available():  # before hours of work, not after
        raise InputError("Plots need matplotlib: install laconic-llm[plots], or leave --plot out")


def write_report(
    report: dict[str, Any], tables: Sequence[Table], draw: Any, out: Path | None, plot: bool | None, as_json: bool
) -> None:
    """results.json, table.md and plot.png into `out`, where one is given; then the tables (or the JSON) on stdout, so that
    nothing that goes wrong on a terminal costs the files."""
    from laconic.cli.messages import print_to_stderr
    from laconic.cli.tables import print_tables
    from laconic.files import write_text
    from laconic.lab.shared.figure import available

    files = []
    if out is not None:
        write_text(out / "results.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        write_text(out / "table.md", "\n".join(table.markdown() for table in tables))
        files = ["results.json", "table.md"]
        if plot or (plot is None and available()):
            draw(report, out / "plot.png")
            files.append("plot.png")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif out is None:
        print_tables(tables)
    else:
        print_tables(tables, f"They are in {out / 'table.md'}.")
    if files:
        print_to_stderr(f"Written to {out}: {', '.join(files)}.")
