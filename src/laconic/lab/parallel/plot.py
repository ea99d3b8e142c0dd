"""The plot of `bench parallel`: accuracy against tokens, a panel each number of traces (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.lab.parallel.labels import Label, place
from laconic.lab.parallel.table import blocks_of, compression_name, name_of
from laconic.lab.shared.figure import COLOURS, GREY, MARKERS, figure
from laconic.lab.shared.reporting import Report


def parallel_plot(report: Report, path: str | Path) -> None:
    """Accuracy against tokens, as a share of cons@n with full KV: a panel an n, a colour a family of strategies, a
    marker a compression. Names stand at the points of the first compression that a strategy has.

    Raises InputError without matplotlib or rows.
    """
    rows = list(report["rows"])
    if not rows:
        raise InputError("The results hold no rows to draw")
    blocks = blocks_of(report)
    colours = _colours(rows)
    policies = list(dict.fromkeys(row["compress"] for row in rows))
    low = min(100 * row["accuracy"]["low"] for row in rows)
    high = max(100 * row["accuracy"]["high"] for row in rows)
    with figure(path, 1.6 + 6.2 * len(blocks), 6.0, columns=len(blocks)) as panels:
        for axes, n in zip(panels, blocks, strict=True):
            mine = [row for row in rows if row["block"] == n]
            axes.set_xscale("log")
            _whole_votes(axes, mine, report.get("plain") or [])
            for row in mine:
                mean = 100 * row["accuracy"]["mean"]
                axes.errorbar(
                    100 * row["token_share"],
                    mean,
                    yerr=[[mean - 100 * row["accuracy"]["low"]], [100 * row["accuracy"]["high"] - mean]],
                    color=colours[_key(row)],
                    marker=MARKERS[policies.index(row["compress"]) % len(MARKERS)],
                    ls="none",
                    ms=6,
                    mec="white",
                    mew=0.5,
                    elinewidth=0.6,
                    ecolor=(colours[_key(row)], 0.35),
                )
            shares = [100 * row["token_share"] for row in mine]
            axes.set_xlim(min(shares) / 1.6, max(shares) * 1.6)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axes.set_xticks(*_ticks(min(shares) / 1.6, max(shares) * 1.6))
            axes.set_xticks([], minor=True)
            axes.set_xlabel(f"tokens, judge included, as % of cons@{n} with full KV")
            axes.set_ylabel("accuracy, %")
            axes.set_title(f"n = {n}, {mine[0]['problems']} problems, 95 % intervals", loc="left", fontsize=10)
        for index, policy in enumerate(policies):
            marker = MARKERS[index % len(MARKERS)]
            panels[-1].plot([], [], marker, color=GREY, ms=6, label=compression_name(policy))
        panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
        for axes, n in zip(panels, blocks, strict=True):
            mine = [row for row in rows if row["block"] == n]
            first: dict[str, Report] = {}
            for row in mine:
                first.setdefault(name_of(row), row)
            labels = [
                Label(100 * row["token_share"], 100 * row["accuracy"]["mean"], name, colours[_key(row)])
                for name, row in first.items()
            ]
            place(axes, labels, [(100 * row["token_share"], 100 * row["accuracy"]["mean"]) for row in mine])


def _whole_votes(axes: Any, rows: Sequence[Report], curve: Sequence[Report]) -> None:
    """A line through the votes of more and more whole traces with full KV: what tokens buy without any pruning. curve: cons@1,
    cons@2, ... over many orders; empty: only the rows' own are known."""
    whole = next(row for row in rows if (row["family"], row["compress"], row["n"]) == ("cons", "none", row["block"]))
    line = {"color": GREY, "lw": 0.9, "zorder": 1}
    if not curve:
        plain = [row for row in rows if row["compress"] == "none" and row["family"] in ("pass@1", "cons")]
        points = sorted((100 * row["token_share"], 100 * row["accuracy"]["mean"]) for row in plain)
        axes.plot([x for x, _ in points], [y for _, y in points], ls="--", **line)
        return
    curve = curve[: whole["n"]]
    shares = [100 * vote["tokens"] / whole["total_tokens"] for vote in curve]
    axes.plot(shares, [100 * vote["accuracy"] for vote in curve], ls="--", label="cons@k", **line)
    if curve[0]["by_confidence"] is not None:
        sure = [100 * vote["by_confidence"] for vote in curve]
        axes.plot(shares, sure, ls=":", label="cons@k, ties by confidence", **line)


def _key(row: Report) -> str:
    """What shares a colour: all plain votes, a strategy with its settings whatever they are, a judge of its own."""
    if row["judge"] is not None:
        return str(row["family"])
    if row["family"].startswith("pool "):
        return "pool"
    return str(row["strategy"].partition(":")[0])


def _colours(rows: Sequence[Report]) -> dict[str, str]:
    keys = list(dict.fromkeys(_key(row) for row in rows))
    # Plain votes are what all else is compared with: black.
    others = [colour for colour in COLOURS if colour != "#000000"]
    return {key: "#000000" if i == 0 else others[(i - 1) % len(others)] for i, key in enumerate(keys)}


def _ticks(least: float, most: float) -> tuple[list[float], list[str]]:
    marks = [m for m in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if least <= m <= most]
    return marks, [f"{mark:g}" for mark in marks]
