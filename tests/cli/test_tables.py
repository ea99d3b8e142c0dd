"""Tables say the same in the terminal and in Markdown."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from laconic.cli import tables
from laconic.cli.tables import Table
from laconic.errors import LaconicError

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


WIDE = Table(
    "Figures",
    [("name", "left"), ("share of all", "right"), ("spread", "right", 2), ("tokens", "right", 1)],
    [
        ["a heading that is as long as it likes, and longer than a narrow terminal", "", "", ""],
        ["first", "71.5 [65.0, 77.5]", "1,234-5,678", "12,345"],
        ["second", "60.0 [53.0, 67.0]", "–", "678"],
    ],
    ["A note."],
)


def shown(table: Table, width: int | None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width or 1000, color_system=None)
    console.print(table.rich(width, "They are in table.md."), soft_wrap=width is None)
    return out.getvalue()


@pytest.mark.parametrize("width", [None, 200, 100, 80, 60, 48, 40, 35])
def test_no_cell_is_broken_at_any_width_and_what_is_left_out_is_named(width: int | None) -> None:
    lines = shown(WIDE, width).splitlines()
    assert width is None or all(len(line) <= width for line in lines)
    text = " ".join(" ".join(lines).split())
    for row in WIDE.rows[1:]:
        for title, cell in zip(WIDE.titles, row, strict=True):
            hidden = title in text.partition("Left out for want of room:")[2]
            assert any(cell in line for line in lines) or hidden, (title, cell)
    assert text.startswith("Figures ")
    assert "a heading that is as long as it likes, and longer than a narrow terminal" in text
    assert "A note." in text


def test_the_columns_of_the_highest_rank_go_first() -> None:
    whole = shown(WIDE, 60)
    assert "Left out" not in whole
    some = " ".join(shown(WIDE, 40).split())
    assert "Left out for want of room: spread. They are" in some
    assert "12,345" in some
    few = " ".join(shown(WIDE, 26).split())
    assert "Left out for want of room: spread; tokens. They are in table.md." in few
    assert "71.5 [65.0, 77.5]" in few


def test_where_not_even_the_first_columns_fit_each_row_is_a_block_that_lacks_nothing() -> None:
    lines = [line.rstrip() for line in shown(WIDE, 24).splitlines()]
    at = lines.index("second")
    assert [line.split()[-1] for line in lines[at + 2 : at + 5] if line.startswith("  ")][-2:] == ["–", "678"]
    text = " ".join(" ".join(lines).split())
    assert "Left out" not in text
    for cell in ("71.5 [65.0, 77.5]", "1,234-5,678", "12,345"):
        assert cell in text


def test_titles_wrap_before_a_column_is_left_out() -> None:
    table = Table("t", [("name", "left"), ("a title of many words", "right")], [["x", "1"]])
    assert shown(table, 11).splitlines()[1:5] == ["          a", "      title", "         of", "       many"]
    assert shown(table, 40).splitlines()[1].split(maxsplit=1) == ["name", "a title of many words"]


def test_wide_characters_count_as_two_cells() -> None:
    table = Table("t", [("name", "left"), ("n", "right")], [["数学", "1"], ["ab", "22"]])
    assert shown(table, 40).splitlines()[3:5] == ["数学   1", "ab    22"]
