"""Rows of the throughput table: medians, ratios inside a repeat, and where they stand against the roofline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from laconic.journal import Record
from laconic.lab.throughput.decoding import DecodingCase
from laconic.lab.throughput.run import FULL, ThroughputExperiment, by_cell, expected_bytes, schedule_of


def summarise(experiment: ThroughputExperiment, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row a cell and method, as JSON values.

    tokens_per_second, step_ms: median over repeats, with the least and the most; step_ms is the mean step of a timed
    piece, compressions included. to_full: median over repeats of this method's speed over full KV's in the same
    repeat. predicted: the same ratio if time were bytes; of_predicted: measured over predicted. bytes_per_step:
    weights and KV read, by arithmetic. bandwidth_share: those bytes over the step's time, as a share of the measured
    memory bandwidth. compression_ms: what a compressing step takes more. peak_bytes: median. live_bytes,
    reserved_bytes: of KV at the end, as the engine counts; expected_live_bytes: what the schedule says. failed: why
    there are no figures.
    """
    found = by_cell(experiment, records)
    roof = next(max(record["copy"], record["read"]) for record in records if record["kind"] == "bandwidth")
    weights = {record["shape"]: record for record in records if record["kind"] == "weights"}
    rows = []
    for cell in experiment.cells:
        for method in experiment.methods:
            row: dict[str, Any] = {
                "cell": cell.key,
                "shape": cell.shape,
                "batch": cell.batch,
                "prompt": cell.prompt,
                "length": cell.length,
                "mode": cell.mode,
                "method": method,
            }
            samples = found[cell.key, method]
            failures = [record["reason"] for record in samples if record["kind"] == "failed"]
            samples = [record for record in samples if record["kind"] == "sample"]
            if failures or not samples:
                rows.append({**row, "failed": failures[0] if failures else "not measured"})
                continue
            size = weights[cell.shape]
            full = [record for record in found.get((cell.key, FULL), []) if record["kind"] == "sample"]
            rows.append({**row, "failed": None, **_figures(cell, method, samples, full, size, roof)})
    return rows


def _figures(
    cell: DecodingCase, method: str, samples: Sequence[Record], full: Sequence[Record], size: Record, roof: float
) -> dict[str, Any]:
    speeds = [record["tokens"] / record["seconds"] for record in samples]
    steps = [1000 * record["seconds"] / record["steps"] for record in samples]
    reference = {record["repeat"]: record["tokens"] / record["seconds"] for record in full}
    ratios = [
        speed / reference[record["repeat"]]
        for speed, record in zip(speeds, samples, strict=True)
        if record["repeat"] in reference
    ]
    read, live = expected_bytes(cell, method, size["weight_bytes"], size["kv_bytes_per_token"])
    read_full, _ = expected_bytes(cell, FULL, size["weight_bytes"], size["kv_bytes_per_token"])
    to_full = statistics.median(ratios) if ratios else None
    predicted = read_full / read
    last = samples[-1]
    return {
        "repeats": len(samples),
        "tokens_per_second": _spread(speeds),
        "step_ms": _spread(steps),
        "to_full": to_full,
        "to_full_range": [min(ratios), max(ratios)] if ratios else None,
        "predicted": predicted,
        "of_predicted": to_full / predicted if to_full is not None else None,
        "bytes_per_step": read,
        "bandwidth_share": read / (statistics.median(steps) / 1000) / roof,
        "compressions": last["compressions"],
        "compression_ms": 1000 * statistics.median(record["compression_seconds"] for record in samples),
        "peak_bytes": _median([record["peak_bytes"] for record in samples]),
        "attended": last["attended"],
        "live_bytes": last["live_bytes"],
        "expected_live_bytes": live,
        "reserved_bytes": last["reserved_bytes"],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _median(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def estimates(
    experiment: ThroughputExperiment, records: Sequence[Record], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """`estimate_whole` of every shape, batch, length and method that has one, with its ratio to full KV."""
    rows = []
    for shape, batch in dict.fromkeys((cell.shape, cell.batch) for cell in experiment.cells):
        for length in lengths:
            made = [estimate_whole(experiment, records, shape, batch, method, length) for method in experiment.methods]
            full = next((row["tokens_per_second"] for row in made if row and row["method"] == FULL), None)
            for row in filter(None, made):
                rows.append({**row, "to_full": row["tokens_per_second"] / full if full else None})
    return rows


def estimate_whole(
    experiment: ThroughputExperiment, records: Sequence[Record], shape: str, batch: int, method: str, length: int
) -> dict[str, Any] | None:
    """tokens/s of a whole run to `length`, estimated from windows of this shape and batch ("at" cells); None without
    two.

    A step, its compression aside, takes a time that depends on the tokens it attends to: piecewise linear between the
    windows' medians (and beyond them, by the nearest piece). Summed over all steps of the schedule, plus the median
    compression times the schedule's rounds. An estimate, and marked as one: it was not run.
    """
    cells = [c for c in experiment.cells if c.shape == shape and c.batch == batch and c.mode == "at"]
    found = by_cell(experiment, records)
    points, extra = [], []
    schedule = schedule_of(method)
    for cell in cells:
        samples = [record for record in found[cell.key, method] if record["kind"] == "sample"]
        if not samples:
            if cell.end <= length:
                return None  # it failed at a length that the run would pass
            continue
        attended = statistics.median(record["attended"] for record in samples) / (cell.batch * cell.timed)
        points.append((attended, statistics.median(_quiet_step(record) for record in samples)))
        extra += [record["compression_seconds"] for record in samples if record["compressions"]]
    points = sorted(dict(points).items())
    if len(points) < 2:
        return None
    prompt = cells[0].prompt
    rounds = schedule.rounds(length - 1)
    if rounds and not extra and rounds < length // 4:
        return None  # compressions are rare enough to matter one by one, and none was timed
    seconds = rounds * (statistics.median(extra) if extra else 0.0)
    start = 0
    while start < length - 1:
        boundary = schedule.next_boundary(start)
        end = length - 1 if boundary is None else min(boundary, length - 1)
        held = schedule.physical(start, prompt)
        # Linear in the tokens attended, so a stretch without a compression is its steps times the time of its middle,
        # in pieces short enough for the corners of the curve.
        for first in range(start, end, 64):
            last = min(first + 64, end)
            middle = held + (first + last + 1) / 2 - start
            seconds += (last - first) * _interpolate(points, middle)
        start = end
    return {
        "shape": shape,
        "batch": batch,
        "prompt": prompt,
        "length": length,
        "method": method,
        "tokens_per_second": batch * (length - 1) / seconds,
        "estimated": True,
    }


def _quiet_step(record: Record) -> float:
    """Seconds of a window's mean step without what its compressions took."""
    return float(record["seconds"] - record["compressions"] * record["compression_seconds"]) / int(record["steps"])


def _interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    index = next((i for i in range(1, len(points) - 1) if at <= points[i][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return max(0.0, y0 + (y1 - y0) * (at - x0) / (x1 - x0))
