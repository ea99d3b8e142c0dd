"""What is written and printed of a paper's merged results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from laconic.environment import environment, hide_directories
from laconic.lab.paper.cells import Cell, Paper, TracesCell
from laconic.lab.paper.merge import merge
from laconic.lab.paper.table import paper_tables
from laconic.lab.shared.reporting import write_report

FORMAT = "laconic.paper/1"


def has_tables(cells: Sequence[Cell]) -> bool:
    """Whether there is a table for one of these cells."""
    return any(not isinstance(cell, TracesCell) for cell in cells)


def show_merged(paper: Paper, cells: Sequence[Cell], roots: Sequence[Path], out: Path, as_json: bool) -> None:
    """The tables of these cells, merged from the roots: results.json and table.md in out, and stdout."""
    report = {
        "format": FORMAT,
        **environment(),
        "paper": paper.cited,
        "merged": [hide_directories(str(root)) for root in roots],
        **merge(roots, paper, cells),
    }
    write_report(report, paper_tables(report), None, out, False, as_json)
