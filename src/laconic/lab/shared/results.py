"""Results as tables: which columns a benchmark shows, in which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laconic.cli.tables import MISSING, Table, alone, difference, interval, number, percent, ratio, size

Report = Mapping[str, Any]


def accuracy_table(report: Report) -> Table:
    """The table of an accuracy result: a row a policy and ratio."""
    rows = []
    for row in report["rows"]:
        delta = row["difference"]
        rows.append(
            [
                "full KV" if row["label"] == "full" else row["label"],
                interval(**row["accuracy"]),
                MISSING if delta is None else difference(**delta),
                number(row["mean_kv_tokens"]),
                number(row["peak_kv_tokens"]),
                number(row["mean_length"]),
                percent(row["unanswered"]),
                number(row["tokens_per_second"]),
            ]
        )
    first = report["rows"][0]
    model = report["settings"]["model"]["name"]
    return Table(
        title=f"pass@1 of {model}: {first['problems']} problems x {first['samples']} samples",
        columns=[
            ("policy", "left"),
            ("pass@1, %", "right"),
            ("to full KV, points", "right", 1),
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
            "Differences are paired: same problems, same random streams.",
            "Fixed budgets are matched to RPC's mean cache on full KV's lengths; what was really held is shown.",
            "tok/s is what this run happened to reach (batches shrink as traces end), not a speed claim.",
        ],
    )


METHODS = {"generate": "plain generate", "full": "full KV"}


def throughput_table(report: Report) -> Table:
    """The table of a throughput result: a row a cell and method."""
    rows: list[list[str]] = []
    cell = None
    for row in report["rows"]:
        if row["cell"] != cell:  # a line of its own: as a column it would leave no room for figures
            cell = row["cell"]
            rows.append([cell, *[""] * 9])
        method = "  " + METHODS.get(row["method"], row["method"])
        if row["failed"]:
            # The reason is too long for a cell; it stands below the table.
            rows.append([f"{method}: failed", *[MISSING] * 9])
            continue
        speed, step = row["tokens_per_second"], row["step_ms"]
        rows.append(
            [
                method,
                number(speed["median"], 1),
                f"{number(speed['least'], 1)}-{number(speed['most'], 1)}",
                number(step["median"], 2),
                ratio(row["to_full"]),
                ratio(row["predicted"]),
                size(row["bytes_per_step"]),
                percent(row["bandwidth_share"], 0),
                size(row["peak_bytes"]),
                size(row["live_bytes"]),
            ]
        )
    bandwidth = report["bandwidth"]
    device = report["settings"]["device"]
    threads = report["settings"]["threads"]
    return Table(
        title=f"Decoding speed on {device if device != 'cpu' else report['machine']['cpu']}"
        + (f", {threads} thread{'s' if threads > 1 else ''}" if threads else "")
        + f", {report['settings']['dtype']}",
        columns=[
            ("method", "left"),
            ("tok/s", "right"),
            ("range", "right", 4),
            ("ms a step", "right", 5),
            ("to full KV", "right", 1),
            ("bytes predict", "right", 2),
            ("bytes a step", "right", 3),
            ("bandwidth, %", "right", 4),
            ("peak memory", "right", 5),
            ("live KV", "right", 3),
        ],
        rows=rows,
        notes=[
            f"Medians of up to {report['settings']['repeats']} interleaved repeats; ratios to full KV within a repeat.",
            "Bytes a step: all weights and the KV attended, by arithmetic; they predict a time in proportion to them.",
            f"Bandwidth, measured: copy {size(bandwidth['copy'])}/s, matrix-vector {size(bandwidth['read'])}/s; "
            "the larger is the roof.",
            "Peak memory: of the process on a CPU (Python, torch and weights included), of torch's allocator on a GPU.",
            *(
                f"{METHODS.get(row['method'], row['method'])}, {row['cell']}: {row['failed']}"
                for row in report["rows"]
                if row["failed"]
            ),
        ],
    )


def estimate_table(report: Report) -> Table:
    """Whole runs that were estimated from windows: a row a shape, batch and method, a column a length."""
    lengths = sorted({row["length"] for row in report["estimates"]})
    groups: dict[tuple[str, int, str], dict[int, Report]] = {}
    for row in report["estimates"]:
        groups.setdefault((row["shape"], row["batch"], row["method"]), {})[row["length"]] = row
    rows = []
    for (shape, batch, method), found in groups.items():
        cells = [
            f"{number(found[length]['tokens_per_second'])} ({ratio(found[length]['to_full'])})"
            if length in found
            else MISSING
            for length in lengths
        ]
        rows.append([shape, str(batch), METHODS.get(method, method), *cells])
    return Table(
        title="Whole runs, tok/s (and to full KV), estimated from the windows above",
        columns=[
            ("shape", "left"),
            ("batch", "right"),
            ("method", "left"),
            *((f"to {number(length)}", "right") for length in lengths),
        ],
        rows=rows,
        notes=[
            "Estimated: step times between the measured windows, summed over the schedule; not run from end to end."
        ],
    )


def analysis_tables(report: Report) -> list[Table]:
    """Two tables of an analysis: n-gram entropy by length, and redundancy."""
    groups = report["groups"]
    orders = sorted({int(n) for group in groups for point in group["entropy"] for n in point["bits"]})
    rows = [
        [
            group["group"],
            number(point["length"]),
            str(point["traces"]),
            *(f"{_by_order(point['bits'], n):.2f} / {_by_order(point['bound'], n):.2f}" for n in orders),
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


def _by_order(values: Mapping[Any, float], n: int) -> float:
    """JSON turns the orders into strings; both are read."""
    return values[n] if n in values else values[str(n)]
