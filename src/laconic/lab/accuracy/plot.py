"""The plot of `bench accuracy`: pass@1 against what the cache held, or by policy where all held as much (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.lab.shared.figure import (
    COLOURS,
    GREY,
    KV_LABEL,
    MARKERS,
    aside,
    count_of,
    draw_ranked,
    family_of,
    figure,
    is_one_size,
    legend_beside,
    names_at_one_size,
    policy_name,
    set_x_limits,
    sizes_label,
)
from laconic.lab.shared.reporting import Report


def accuracy_plot(report: Report, path: str | Path) -> None:
    """pass@1 with 95 % intervals. Where caches differ: against mean KV tokens, a line a policy, full KV as a band across.
    Where all are about equal: a line of the picture a policy, the most accurate on top, and no axis of sizes.

    report: an accuracy result (`rows` as `AccuracyRow.to_json` makes them). Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    baseline = next((row for row in rows if row["family"] == "full"), None)
    compressed = [row for row in rows if row is not baseline]
    if is_one_size(rows):
        _by_policy(path, baseline, compressed)
    else:
        _by_size(path, baseline, compressed)


def _by_policy(path: str | Path, baseline: Report | None, rows: Sequence[Report]) -> None:
    named = sorted(
        zip(names_at_one_size(rows), rows, strict=True), key=lambda each: each[1]["accuracy"]["mean"], reverse=True
    )
    with figure(path, 7.6, 1.4 + 0.32 * len(rows)) as (axes,):
        if baseline is not None:
            mean, low, high = _percent(baseline)
            axes.axvspan(low, high, color=GREY, alpha=0.13, lw=0)
            axes.axvline(mean, color=GREY, lw=1.3, ls="--", label=f"full KV ({baseline['mean_kv_tokens']:,.0f} tokens)")
            axes.legend(frameon=False, fontsize=9, loc="lower right")
        draw_ranked(axes, [(name, *_percent(row), {"color": COLOURS[0], "marker": "o"}) for name, row in named])
        axes.set_xlim(0, min(105.0, 5 + _most([*rows, *([baseline] if baseline else [])])))
        axes.set_xlabel("pass@1, %" + (f" ({sizes_label(rows)})" if rows else ""))
        axes.set_title(f"Accuracy at one cache size: {_asked(baseline or rows[0])}", loc="left", fontsize=10)


def _by_size(path: str | Path, baseline: Report | None, rows: Sequence[Report]) -> None:
    with figure(path, 7.6, 5.0) as (axes,):
        if baseline is not None:
            mean, low, high = _percent(baseline)
            axes.axhspan(low, high, color=GREY, alpha=0.13, lw=0)
            axes.axhline(mean, color=GREY, lw=1.3, ls="--", label=f"full KV ({baseline['mean_kv_tokens']:,.0f} tokens)")
        families = _families(rows)
        for index, points in enumerate(families):
            points = sorted(points, key=lambda row: row["mean_kv_tokens"])
            means, lows, highs = zip(*(_percent(row) for row in points), strict=True)
            axes.errorbar(
                [row["mean_kv_tokens"] for row in points],
                means,
                yerr=[
                    [mean - low for mean, low in zip(means, lows, strict=True)],
                    [high - mean for mean, high in zip(means, highs, strict=True)],
                ],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=policy_name(family_of(points[0])),
                lw=1.6,
                ms=6,
                capsize=3,
                elinewidth=0.9,
                # Budgets are matched, so points share a place: set them a little apart on the page, not in the data.
                transform=aside(axes, 2.5 * (index - (len(families) - 1) / 2)),
            )
        axes.set_xlabel(KV_LABEL)
        axes.set_ylabel("pass@1, %")
        set_x_limits(axes, [row["mean_kv_tokens"] for row in rows])
        axes.set_ylim(0, min(105.0, 5 + _most([*rows, *([baseline] if baseline else [])])))
        axes.set_title(f"Accuracy against cache size: {_asked(baseline or rows[0])}", loc="left", fontsize=10)
        legend_beside(axes)


def _percent(row: Report) -> tuple[float, float, float]:
    """A row's mean, low and high."""
    found: Any = row["accuracy"]
    return 100 * found["mean"], 100 * found["low"], 100 * found["high"]


def _most(rows: Sequence[Report]) -> float:
    return max(_percent(row)[2] for row in rows)


def _asked(row: Report) -> str:
    return f"{row['problems']} problems, {count_of(row['samples'], 'sample')} each, 95 % intervals"


def _families(rows: Sequence[Report]) -> list[list[Report]]:
    found: dict[str, list[Report]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return list(found.values())
