"""Tables say the same in the terminal and in Markdown."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from laconic.errors import LaconicError
from laconic.report import tables
from laconic.report.tables import Table

TABLE = Table(
    "Accuracy [n = 2]",
    [("policy", "left"), ("pass@1, %", "right")],
    [["full KV", "71.5 [65.0, 77.5]"], ["rpc | c = 4", "60.0 [53.0, 67.0]"]],
    ["Chance is 10 %."],
)


def test_markdown_parses_back_to_the_same_cells() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "**Accuracy [n = 2]**"
    body = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in body}) == 1  # padded
    cells = [[cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")] for line in body]
    assert cells[0] == ["policy", "pass@1, %"]
    assert set(cells[1][0]) == {"-"}
    assert cells[1][1].endswith("-:")
    assert [[cell.replace("\0", "|") for cell in row] for row in cells[2:]] == [list(row) for row in TABLE.rows]
    assert lines[-1] == "- Chance is 10 %."


def test_the_terminal_shows_every_cell_with_its_brackets() -> None:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(TABLE.rich())
    for text in ("Accuracy [n = 2]", "full KV", "71.5 [65.0, 77.5]", "rpc | c = 4", "Chance is 10 %."):
        assert text in out.getvalue()


def test_ragged_rows_and_unknown_alignments_are_refused() -> None:
    with pytest.raises(LaconicError, match="has 1 cells; expected 2"):
        Table("t", [("a", "left"), ("b", "left")], [["x"]])
    with pytest.raises(LaconicError, match="expected left or right"):
        Table("t", [("a", "middle")], [["x"]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (tables.number(1234.56), "1,235"),
        (tables.number(1.25, 1), "1.2"),
        (tables.number(None), "–"),
        (tables.number(math.nan), "–"),
        (tables.number(math.inf), "∞"),
        (tables.percent(0.4567), "45.7"),
        (tables.percent(None), "–"),
        (tables.interval(0.5, 0.25, 0.75), "50.0 [25.0, 75.0]"),
        (tables.difference(-0.035, -0.08, 0.01), "-3.5 [-8.0, +1.0]"),
        (tables.size(512), "512 B"),
        (tables.size(1536), "1.50 KiB"),
        (tables.size(3 * 2**40), "3072.00 GiB"),
        (tables.size(None), "–"),
        (tables.ratio(1.678), "1.68x"),
        (tables.ratio(None), "–"),
    ],
)
def test_cells(made: str, text: str) -> None:
    assert made == text
