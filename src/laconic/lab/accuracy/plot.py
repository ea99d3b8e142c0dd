"""The plot of `bench accuracy`: pass@1 against what the cache held (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from laconic.errors import InputError
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
    policy_name,
    set_x_limits,
)
from laconic.lab.shared.reporting import Report


def accuracy_plot(report: Report, path: str | Path) -> None:
    """pass@1 against mean KV tokens: a line a policy with 95 % bars, full KV as a band across.

    report: an accuracy result (`rows` as `AccuracyRow.to_json` makes them). Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    baseline = next((row for row in rows if row["family"] == "full"), None)
    with figure(path, 7.6, 5.0) as (axes,):
        if baseline is not None:
            mean, low, high = (100 * baseline["accuracy"][key] for key in ("mean", "low", "high"))
            axes.axhspan(low, high, color=GREY, alpha=0.13, lw=0)
            axes.axhline(mean, color=GREY, lw=1.3, ls="--", label=f"full KV ({baseline['mean_kv_tokens']:,.0f} tokens)")
        families = _families(rows)
        places = [row["mean_kv_tokens"] for row in rows if row is not baseline] or [rows[0]["mean_kv_tokens"]]
        one_size = is_one_size(rows)
        gap = 14 if one_size else 2.5
        for index, (family, points) in enumerate(families):
            points = sorted(points, key=lambda row: row["mean_kv_tokens"])
            means = [100 * row["accuracy"]["mean"] for row in points]
            below = [mean - 100 * row["accuracy"]["low"] for mean, row in zip(means, points, strict=True)]
            above = [100 * row["accuracy"]["high"] - mean for mean, row in zip(means, points, strict=True)]
            axes.errorbar(
                [row["mean_kv_tokens"] for row in points],
                means,
                yerr=[below, above],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=policy_name(family),
                lw=1.6,
                ms=6,
                capsize=3,
                elinewidth=0.9,
                # Budgets are matched, so points share a place: set them a little apart on the page, not in the data.
                transform=aside(axes, gap * (index - (len(families) - 1) / 2)),
            )
        axes.set_xlabel(kv_label(one_size))
        axes.set_ylabel("pass@1, %")
        set_x_limits(axes, [row["mean_kv_tokens"] for row in rows] if one_size else places, one_size)
        axes.set_ylim(0, min(105.0, 5 + max(100 * row["accuracy"]["high"] for row in rows)))
        first = rows[0]
        axes.set_title(
            f"Accuracy against cache size: {first['problems']} problems, {count_of(first['samples'], 'sample')} each,"
            " 95 % intervals",
            loc="left",
            fontsize=10,
        )
        legend_beside(axes)


def _families(rows: Sequence[Report]) -> list[tuple[str, list[Report]]]:
    found: dict[str, list[Report]] = {}
    for row in rows:
        if row["family"] != "full":
            found.setdefault(row["family"], []).append(row)
    return list(found.items())
