"""The table of `bench accuracy`: a row a policy and ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from laconic.cli.tables import MISSING, Column, Table, alone, difference, interval, number, percent
from laconic.lab.shared.pairs import pair_tables
from laconic.lab.shared.reporting import Report


def accuracy_tables(report: Report) -> list[Table]:
    """All tables of an accuracy result: the rows, then the policies of each cache size against one another."""
    pairs = pair_tables(
        report["rows"],
        "Row less column, pass@1 in points, at one cache size",
        rank=lambda row: -float(row["accuracy"]["mean"]),
        told=lambda found: difference(**found),
    )
    return [accuracy_table(report), *pairs]


def accuracy_table(report: Report) -> Table:
    """The table of an accuracy result: a row a policy and ratio."""
    rows = []
    beside = any(row.get("to_random") for row in report["rows"])
    to_random: list[Column] = [("to random, points", "right", 2)] if beside else []
    for row in report["rows"]:
        delta = row["difference"]
        rows.append(
            [
                "full KV" if row["label"] == "full" else row["label"],
                interval(**row["accuracy"]),
                MISSING if delta is None else difference(**delta),
                *([difference(**row["to_random"]) if row.get("to_random") else MISSING] if beside else []),
                number(row["mean_kv_tokens"]),
                number(row["peak_kv_tokens"]),
                number(row["mean_length"]),
                percent(row["unanswered"]),
                number(row["tokens_per_second"]),
            ]
        )
    first = report["rows"][0]
    model = report["settings"]["model"]["name"]
    engine = report["settings"].get("engine", {"name": "hf"})
    inside = f" inside vLLM {engine['version']}" if engine["name"] == "vllm" else ""
    return Table(
        title=f"pass@1 of {model}{inside}: {first['problems']} problems x {first['samples']} samples",
        columns=[
            ("policy", "left"),
            ("pass@1, %", "right"),
            ("to full KV, points", "right", 1),
            *to_random,
            ("mean KV", "right", 2),
            ("peak KV", "right", 3),
            ("length", "right", 4),
            ("no answer, %", "right", 4),
            ("tok/s", "right", 5),
        ],
        rows=rows,
        notes=[
            "KV: tokens held in one layer, prompt included: mean over steps, then traces; peak: the most of any trace.",
            "In brackets: 95 % intervals over problems and samples.",
            *alone(first["problems"]),
            *_fed(report["rows"]),
            "Differences are paired: same problems, same random streams.",
            "Fixed budgets are matched to RPC's mean cache on full KV's lengths; what was really held is shown.",
            "tok/s is what this run happened to reach (batches shrink as traces end), not a speed claim.",
        ],
    )


def _fed(rows: Sequence[Any]) -> list[str]:
    """What a length counts, where a policy feeds tokens."""
    return [
        f"The length of {row['label']} counts the {number(row['mean_fed'])} tokens a trace that nobody drew: each thought's "
        "cache and continue tokens."
        for row in rows
        if row.get("mean_fed")
    ]
