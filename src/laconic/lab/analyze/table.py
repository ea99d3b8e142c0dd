"""The tables of `laconic analyze`: entropy by length, and redundancy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.cli.tables import MISSING, Table, alone, interval, number
from laconic.lab.shared.reporting import Report


def analysis_tables(report: Report) -> list[Table]:
    """Two tables of an analysis: n-gram entropy by length, and redundancy."""
    groups = report["groups"]
    orders = sorted({int(n) for group in groups for point in group["entropy"] for n in point["bits"]})
    rows = [
        [
            group["group"],
            number(point["length"]),
            str(point["traces"]),
            *(f"{by_order(point['bits'], n):.2f} / {by_order(point['bound'], n):.2f}" for n in orders),
        ]
        for group in groups
        for point in group["entropy"]
    ]
    entropy = Table(
        title="n-gram entropy of token ids, bits (and the most possible at that length)",
        columns=[
            ("traces of", "left"),
            ("first tokens", "right"),
            ("traces", "right", len(orders)),
            *((f"{n}-grams", "right", len(orders) - 1 - place) for place, n in enumerate(orders)),
        ],
        rows=rows,
        notes=["Means over the traces that are that long; compare at equal lengths only."]
        if rows
        else ["No trace is as long as the shortest length asked for."],
    )
    first = groups[0]
    said = (
        "TF-IDF of word uni- and bigrams: comparable among these rows, not with published sentence-embedding rates"
        if first["embedder"] == "tfidf"
        else first["embedder"]
    )
    redundancy = Table(
        title=f"Redundancy: spans whose cosine with an earlier one exceeds {first['threshold']:g}",
        columns=[
            ("traces of", "left"),
            ("traces", "right", 2),
            ("mean length", "right", 1),
            ("spans a trace", "right", 3),
            ("redundant, %", "right"),
        ],
        rows=[
            [
                group["group"],
                str(group["traces"]),
                number(group["mean_length"]),
                number(group["spans"], 1),
                MISSING if group["redundancy"] is None else interval(**group["redundancy"]),
            ]
            for group in groups
        ],
        notes=[f"Vectors: {said}.", *_over(groups)],
    )
    return [entropy, redundancy]


def _over(groups: Sequence[Report]) -> list[str]:
    """What the intervals of an analysis are over; older results don't say how many problems there were."""
    known = [group.get("problems") for group in groups]
    if all(known):
        few = min(count for count in known if count)
        most = max(count for count in known if count)
        problems = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        return [f"In brackets: 95 % intervals over problems ({problems}).", *alone(few)]
    if any(known) or "problems" in groups[0]:
        return ["In brackets: 95 % intervals over traces: what names no problem counts as one of its own."]
    return ["In brackets: 95 % intervals over traces."]


def by_order(values: Mapping[Any, float], n: int) -> float:
    """JSON turns the orders into strings; both are read."""
    return values[n] if n in values else values[str(n)]
