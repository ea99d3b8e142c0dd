"""Tables of paired differences: who is in one, in which order, and what is said where a pair is missing."""

from __future__ import annotations

from typing import Any

from laconic.cli.tables import MISSING
from laconic.lab.shared.pairs import pair_tables


def row(label: str, value: float, others: dict[str, float]) -> dict[str, Any]:
    return {"label": label, "value": value, "to_others": {name: {"mean": found} for name, found in others.items()}}


def test_groups_of_three_and_more_lowest_rank_first() -> None:
    rows = [
        row("a", 3, {"b": 2, "c": 1}),
        row("b", 1, {"a": -2, "c": -1}),
        row("c", 2, {"a": -1, "b": 1}),
        row("x", 1, {"y": 0}),
        row("y", 1, {"x": 0}),
        row("alone", 0, {}),
    ]
    (table,) = pair_tables(rows, "less", lambda row: row["value"], lambda found: f"{found['mean']:+g}")
    assert table.title == "less"
    assert table.titles == ["policy", "b", "c", "a"]
    assert [list(cells) for cells in table.rows] == [
        ["b", MISSING, "-1", "-2"],
        ["c", "+1", MISSING, "-1"],
        ["a", "+2", "+1", MISSING],
    ]
