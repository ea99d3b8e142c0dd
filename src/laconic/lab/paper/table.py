"""The merged tables of a paper: the published figure, and ours beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from laconic.cli.tables import MISSING, Column, Table, alone, difference, interval, number, ratio
from laconic.lab.paper.deepprune import CONS, NAMES
from laconic.lab.shared.reporting import Report

Row = dict[str, Any]


def paper_tables(report: Report) -> list[Table]:
    """A table a kind of cell that the paper has, of the rows that `merge` makes."""
    made: dict[str, Callable[[str, Sequence[Row], Sequence[str]], Table]] = {
        "accuracy": _accuracy,
        "speed": _speed,
        "votes": _votes,
        "judge": _judge,
    }
    tables = []
    for kind, make in made.items():
        notes = [
            f"{other['place']}: ours has {', '.join(other['differs'])}; in brackets the paper's."
            for other in report["other"]
            if other["place"].startswith(f"{kind}/")
        ]
        if report[kind]:
            tables.append(make(report["paper"], report[kind], notes))
    return tables


def _title(paper: str, kind: str) -> str:
    titles = {
        "accuracy": "pass@1, %",
        "speed": "speed and memory",
        "votes": "votes over parallel traces",
        "judge": "the judge by itself",
    }
    return f"{paper}: {titles[kind]}, published and ours"


def _under_headings(rows: Iterable[tuple[str, list[str]]]) -> list[list[str]]:
    """A line of its own wherever the heading changes."""
    found: list[list[str]] = []
    last = None
    for heading, cells in rows:
        if heading != last:
            last = heading
            found.append([heading, *[""] * (len(cells) - 1)])
        found.append([f"  {cells[0]}", *cells[1:]])
    return found


def _accuracy(paper: str, rows: Sequence[Row], notes: Sequence[str]) -> Table:
    columns: list[Column] = [
        ("method", "left"),
        ("published", "right"),
        ("ours", "right"),
        ("to full KV, points", "right", 1),
        ("mean KV", "right", 2),
        ("length", "right", 3),
    ]
    lines = []
    for row in rows:
        ours = row["ours"]
        cells = [row["method"], number(row["published"], 1)]
        if ours is None:
            cells += [row["lacks"] or MISSING, *[MISSING] * 3]
        else:
            delta = ours["difference"]
            cells += [
                interval(**ours["accuracy"]),
                MISSING if delta is None else difference(**delta),
                number(ours["mean_kv_tokens"]),
                number(ours["mean_length"]),
            ]
        lines.append((f"{row['model']}, {row['benchmark']}", cells))
    known = [row["ours"] for row in rows if row["ours"] is not None]
    scored = [row for row in rows if row["ours"] is not None and "scores" in row["ours"]]
    return Table(
        _title(paper, "accuracy"),
        columns,
        _under_headings(lines),
        [
            "In brackets: 95 % intervals over problems; differences are paired. KV: mean tokens of one layer, with the prompt.",
            *alone(min((ours["problems"] or 0 for ours in known), default=0)),
            *([HARNESS_NOTE] if scored else []),
            *[_all_scores(row) for row in scored if len(row["ours"]["scores"]) > 1],
            *notes,
        ],
    )


HARNESS_NOTE = (
    "ifeval is lm-eval's score, livecodebench lighteval's: intervals by their standard errors, mean KV over tokens, not "
    "traces."
)


def _all_scores(row: Row) -> str:
    told = ", ".join(f"{name} {number(100 * value, 1)}" for name, value in row["ours"]["scores"].items())
    return f"{row['cell']}: {told}."


def _speed(paper: str, rows: Sequence[Row], notes: Sequence[str]) -> Table:
    lines, failed = [], []
    for row in rows:
        ours, theirs = row["ours"], row["published"]
        cells = [
            "full KV" if row["method"] == "full" else row["method"],
            "OOM" if theirs["out_of_memory"] else number(theirs["tokens_per_second"]),
            number(theirs["gigabytes"], 1),
            ratio(theirs["to_full"]),
        ]
        if ours is None:
            cells += [MISSING] * 3
        elif ours["failed"]:
            failed.append(f"{row['cell']}, {cells[0]}: {ours['failed']}.")
            cells += ["failed", MISSING, MISSING]
        else:
            peak = ours["peak_bytes"]
            cells += [
                number(ours["tokens_per_second"]["median"]),
                number(None if peak is None else peak / 1e9, 1),
                ratio(ours["to_full"]),
            ]
        lines.append((f"{row['shape']}, {row['batch']} rows, to {row['length']:,} tokens", cells))
    devices = {row["device"] for row in rows if row["device"] is not None}
    return Table(
        _title(paper, "speed"),
        [
            ("method", "left"),
            ("published tok/s", "right"),
            ("published GB", "right", 1),
            ("published to full KV", "right", 3),
            ("ours tok/s", "right"),
            ("ours GB", "right", 1),
            ("ours to full KV", "right", 2),
        ],
        _under_headings(lines),
        [
            *([f"Ours on {', '.join(sorted(devices))}: medians of interleaved repeats."] if devices else []),
            *failed,
            *notes,
        ],
    )


def _votes(paper: str, rows: Sequence[Row], notes: Sequence[str]) -> Table:
    lines = []
    voted = [row for row in rows if row["strategy"] == CONS]
    published = {row["cell"]: row["published"]["tokens"] for row in voted}
    spent = {(row["cell"], row["ours"]["n"]): row["ours"]["trace_tokens"] for row in voted if row["ours"] is not None}
    for row in rows:
        ours, theirs = row["ours"], row["published"]
        name = str(NAMES.get(row["strategy"]) or row["strategy"])
        cells: list[str] = [
            name if ours is None or ours["judge"] is None else f"{name}, {ours['judge']}",
            number(theirs["accuracy"], 1),
            number(theirs["tokens"], 2),
            _saved(theirs["tokens"], published[row["cell"]]),
        ]
        if ours is None:
            cells += [MISSING] * 5
        else:
            cells += [
                str(ours["n"]),
                interval(**ours["accuracy"]),
                number(ours["trace_tokens"] / 1e8, 2 if ours["trace_tokens"] >= 1e7 else 6),
                _saved(ours["trace_tokens"], spent.get((row["cell"], ours["n"]))),
                number(ours["judge_tokens"] / 1e8, 2 if ours["judge_tokens"] >= 1e7 else 6),
            ]
        lines.append((f"{row['model']}, {row['benchmark']}", cells))
    known = [row["ours"] for row in rows if row["ours"] is not None]
    return Table(
        _title(paper, "votes"),
        [
            ("strategy", "left"),
            ("published %", "right"),
            ("published 1e8 tokens", "right", 1),
            ("published to cons", "right", 2),
            ("n", "right", 3),
            ("ours %", "right"),
            ("ours 1e8 tokens", "right", 1),
            ("ours to cons", "right", 2),
            ("judge's, 1e8 tokens", "right", 4),
        ],
        _under_headings(lines),
        [
            "Tokens: generated by all traces of all problems; to cons: less or more than the vote over all traces. In "
            "brackets: 95 % intervals over problems.",
            *alone(min((ours["problems"] for ours in known), default=0)),
            *notes,
        ],
    )


def _saved(tokens: float | None, whole: float | None) -> str:
    return MISSING if tokens is None or not whole or tokens == whole else f"{100 * (tokens / whole - 1):+.1f} %"


def _judge(paper: str, rows: Sequence[Row], notes: Sequence[str]) -> Table:
    lines = []
    for row in rows:
        ours, theirs = row["ours"], row["published"]
        cells = [row["variant"], number(theirs["auroc"], 3), number(theirs["tnr"], 3)]
        cells += (
            [MISSING] * 3
            if ours is None
            else [
                number(ours["auroc"], 3),
                number(ours["tnr"], 3),
                f"{ours['models']} of {ours['of']}",
            ]
        )
        lines.append((f"excerpts {row['excerpt']}", cells))
    return Table(
        _title(paper, "judge"),
        [
            ("training", "left"),
            ("published AUROC", "right"),
            ("published TNR@FNR.2", "right", 1),
            ("ours AUROC", "right"),
            ("ours TNR@FNR.2", "right", 1),
            ("models", "right", 2),
        ],
        _under_headings(lines),
        ["Means over the reasoners that the judge has not seen.", *notes],
    )
