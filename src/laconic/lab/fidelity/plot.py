"""The plot of `bench fidelity`: KL against what the cache held, or by policy, and along the trace (matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.lab.fidelity.table import names_of
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
    set_x_limits,
    sizes_label,
)
from laconic.lab.shared.reporting import Report

Line = tuple[str, list[Mapping[str, Any]]]


def fidelity_plot(report: Report, path: str | Path) -> None:
    """Two panels. KL with 95 % bars: where caches differ, against mean KV tokens, a line a policy; where all are about equal,
    by policy, the nearest to full KV on top. And KL against position, a line a policy at its smallest cache.

    report: a fidelity result (`rows` as `FidelityRow.to_json` makes them). Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    one_size = is_one_size(rows)
    lines = _lines(rows, one_size)
    with figure(path, 12.5, 5.0, columns=2) as (left, right):
        for index, (name, points) in enumerate(lines):
            style = {**_look(index, points[0]["family"] == "full"), "label": name}
            points = sorted(points, key=lambda row: row["mean_kv_tokens"])
            if not one_size:
                _against_size(left, points, style, 2.5 * (index - (len(lines) - 1) / 2))
            bins = points[0]["by_position"]
            middles = [(each["low"] + each["high"]) / 2 for each in bins]
            right.plot(middles, [each["kl"]["mean"] for each in bins], lw=1.6, ms=4, **style)
        what, most = "KL(full KV || policy), nats a token", 1.05 * max(_top(row) for row in rows) or 1.0
        if one_size:
            _by_policy(left, lines)
            left.set_xlim(0, most)
            compressed = [row for row in rows if row["family"] != "full"] or rows
            left.set_xlabel(f"{what}\n({sizes_label(compressed)})")
        else:
            left.set_xlabel(KV_LABEL)
            left.set_ylabel(what)
            left.set_ylim(0, most)
            set_x_limits(left, [row["mean_kv_tokens"] for row in rows])
        right.set_xlabel("generated token")
        right.set_ylim(bottom=0)
        first = rows[0]
        left.set_title(
            f"{count_of(first['traces'], 'trace')}, {first['tokens']:,} tokens, 95 % intervals", loc="left", fontsize=10
        )
        right.set_title("along the trace, at each policy's smallest cache", loc="left", fontsize=10)
        legend_beside(right)


def _against_size(axes: Any, points: list[Mapping[str, Any]], style: Mapping[str, Any], apart: float) -> None:
    """apart: points of the page. Caches are equal, so marks share a place: set apart on the page, not in the data."""
    means = [row["kl"]["mean"]["mean"] for row in points]
    axes.errorbar(
        [row["mean_kv_tokens"] for row in points],
        means,
        yerr=[_ends(points, means, "low"), _ends(points, means, "high")],
        lw=1.6,
        ms=6,
        capsize=3,
        elinewidth=0.9,
        transform=aside(axes, apart),
        **style,
    )


def _by_policy(axes: Any, lines: Sequence[Line]) -> None:
    entries = []
    for index, (name, points) in enumerate(lines):
        for row in points:
            mean = row["kl"]["mean"]["mean"]
            low, high = _ends([row], [mean], "low")[0], _ends([row], [mean], "high")[0]
            entries.append((name, mean, mean - low, mean + high, _look(index, row["family"] == "full")))
    draw_ranked(axes, sorted(entries, key=lambda entry: entry[1]))


def _lines(rows: Sequence[Mapping[str, Any]], one_size: bool) -> list[Line]:
    """A line a policy, interval and window: what only the ratio tells apart is connected."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], row["interval"], row["window"]), []).append(row)
    names = names_of([{**points[0], "family": family_of(points[0]), "ratio": None} for points in found.values()])
    if one_size and len(found) == len({row["family"] for row in rows}):
        names = names_at_one_size([points[0] for points in found.values()])
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
