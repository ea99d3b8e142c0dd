"""Tables of every paired difference between rows that can be compared: those that name each other in `to_others`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laconic.cli.tables import MISSING, Table

Row = Mapping[str, Any]


def pair_tables(
    rows: Sequence[Row], title: str, rank: Callable[[Row], float], told: Callable[[Mapping[str, Any]], str]
) -> list[Table]:
    """For each group of three or more: a row and a column each, the lowest `rank` first. told: a difference as text."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("to_others"):
            groups.setdefault(tuple(sorted([row["label"], *row["to_others"]])), []).append(row)
    tables = []
    for group in groups.values():
        if len(group) > 2:
            ranked = sorted(group, key=rank)
            cells = []
            for row in ranked:
                found = [row["to_others"].get(other["label"]) for other in ranked]
                cells.append([row["label"], *(MISSING if each is None else told(each) for each in found)])
            tables.append(
                Table(
                    title=title,
                    columns=[("policy", "left"), *((row["label"], "right") for row in ranked)],
                    rows=cells,
                    notes=["In brackets: 95 % intervals over problems; differences are paired."],
                )
            )
    return tables
