"""The tables of `bench throughput`: what was timed, and whole runs estimated from it."""

from __future__ import annotations

from laconic.cli.tables import MISSING, Table, number, percent, ratio, size
from laconic.lab.shared.reporting import Report

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
