"""The plot of `bench fidelity`: KL against what the cache held, and along the trace (matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.lab.fidelity.table import names_of
from laconic.lab.shared.figure import (
    COLOURS,
    GREY,
    MARKERS,
    aside,
    count_of,
    figure,
    is_one_size,
    kv_label,
    legend_beside,
    set_x_limits,
)
from laconic.lab.shared.reporting import Report

Line = tuple[str, list[Mapping[str, Any]]]


def fidelity_plot(report: Report, path: str | Path) -> None:
    """Two panels: KL against mean KV tokens, a line a policy with 95 % bars; KL against position, a line a policy at its
    smallest cache. Raises InputError without matplotlib or rows.

    report: a fidelity result (`rows` as `FidelityRow.to_json` makes them).
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    lines = _lines(rows)
    one_size = is_one_size(rows)
    gap = 14 if one_size else 2.5
    with figure(path, 12.5, 5.0, columns=2) as (left, right):
        for index, (name, points) in enumerate(lines):
            style = {**_look(index, points[0]["family"] == "full"), "label": name}
            points = sorted(points, key=lambda row: row["mean_kv_tokens"])
            means = [row["kl"]["mean"]["mean"] for row in points]
            left.errorbar(
                [row["mean_kv_tokens"] for row in points],
                means,
                yerr=[_ends(points, means, "low"), _ends(points, means, "high")],
                lw=1.6,
                ms=6,
                capsize=3,
                elinewidth=0.9,
                # Caches are equal, so points share a place: set them a little apart on the page, not in the data.
                transform=aside(left, gap * (index - (len(lines) - 1) / 2)),
                **style,
            )
            bins = points[0]["by_position"]
            middles = [(each["low"] + each["high"]) / 2 for each in bins]
            right.plot(middles, [each["kl"]["mean"] for each in bins], lw=1.6, ms=4, **style)
        left.set_xlabel(kv_label(one_size))
        left.set_ylabel("KL(full KV || policy), nats a token")
        left.set_ylim(0, 1.05 * max(_top(row) for row in rows) or 1.0)
        set_x_limits(left, [row["mean_kv_tokens"] for row in rows], one_size)
        right.set_xlabel("generated token")
        right.set_ylim(bottom=0)
        first = rows[0]
        left.set_title(
            f"{count_of(first['traces'], 'trace')}, {first['tokens']:,} tokens, 95 % intervals", loc="left", fontsize=10
        )
        right.set_title("along the trace, at each policy's smallest cache", loc="left", fontsize=10)
        legend_beside(right)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line a policy, interval and window: what only the ratio tells apart is connected."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], row["interval"], row["window"]), []).append(row)
    names = names_of([{**points[0], "ratio": None} for points in found.values()])
    return list(zip(names, found.values(), strict=True))


def _top(row: Mapping[str, Any]) -> float:
    """The upper end of a row's interval, or its mean."""
    interval = row["kl"]["mean"]
    return float(interval["mean"] if interval["high"] is None else interval["high"])


def _look(index: int, full: bool) -> dict[str, str]:
    """Full KV is grey. Of more lines than colours, those of one colour have other markers."""
    marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
    return {"color": GREY if full else COLOURS[index % len(COLOURS)], "marker": marker}


def _ends(rows: Sequence[Mapping[str, Any]], means: Sequence[float], end: str) -> list[float]:
    """How far an end of each interval is from its mean; 0 where it can't be told."""
    ends = [row["kl"]["mean"][end] for row in rows]
    return [0.0 if value is None else abs(mean - value) for mean, value in zip(means, ends, strict=True)]
