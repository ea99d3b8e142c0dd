"""What `laconic learn` made and what its check showed, for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from laconic.cli.tables import MISSING, Column, Table, alone
from laconic.lab.learn.check import LEARNED, RATIO, SelectorCheck
from laconic.statistics import Interval


def facts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A selector's recipe, as `learn_selector` and the command write it."""
    hits = [share for name, share in recipe["hits"].items() if name != "guess"]
    mean = sum(hits) / len(hits)
    counts = recipe["traces"]
    return [
        ("model", recipe["model"]),
        ("traces", f"{counts['learned']:,} to learn from, {counts['checked']:,} for the check"),
        ("tokens", f"{recipe['tokens']:,} in each of {len(hits)} layers"),
        ("rotation", recipe["rotation"]),
        (
            "hits",
            f"{mean:.1%} of the top quarter of tokens of traces held out (a guess: {recipe['hits']['guess']:.0%}); "
            f"by layer {min(hits):.1%} to {max(hits):.1%}",
        ),
    ]


def check_table(check: SelectorCheck) -> Table:
    """A row for each policy of the check, the nearest to full KV first."""
    rows = []
    for name, row in sorted(check.rows.items(), key=lambda item: item[1].kl["mean"].mean):
        difference = check.differences.get(name)
        agreement = row.agreement
        rows.append(
            [
                name,
                _ends(row.kl["mean"]),
                MISSING if difference is None else _ends(difference, "+"),
                f"{agreement.mean:.1%}",
            ]
        )
    columns: list[Column] = [
        ("policy", "left"),
        ("KL(full KV || policy), nats a token", "right"),
        (f"{LEARNED} less it", "right"),
        ("same top token", "right", 1),
    ]
    some = next(iter(check.rows.values()))
    return Table(
        title=f"The check: {check.traces:,} traces, ratio {RATIO}, interval {check.cell.interval}, window {check.cell.window}",
        columns=columns,
        rows=rows,
        notes=[
            "All scorers are on RPC's schedule; hindsight knows what later tokens attend to: a ceiling.",
            "Brackets: 95 % intervals over problems; differences are paired, below 0 the selector is better.",
            *alone(some.problems),
        ],
    )


def _ends(interval: Interval, sign: str = "") -> str:
    mean = f"{interval.mean:{sign}.4f}"
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return mean
    return f"{mean} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
