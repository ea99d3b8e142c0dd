"""The plot of `bench throughput`: tokens a second, and what bytes predict (matplotlib)."""

from __future__ import annotations

from pathlib import Path

from laconic.errors import InputError
from laconic.lab.shared.figure import COLOURS, GREY, figure, legend_beside, policy_name
from laconic.lab.shared.reporting import Report


def throughput_plot(report: Report, path: str | Path) -> None:
    """Tokens a second: a panel a shape and batch, a group of bars a length, ticks where bytes predict them from full
    KV.

    report: a throughput result. Raises InputError without matplotlib or without a single measured row.
    """
    rows = [row for row in report["rows"] if not row["failed"]]
    if not rows:
        raise InputError("The results hold no measured rows to draw")
    panels = list(dict.fromkeys((row["shape"], row["batch"]) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    width = 0.8 / len(methods)
    with figure(path, 2.4 + 4.0 * len(panels), 4.6, columns=len(panels)) as drawn:
        for axes, (shape, batch) in zip(drawn, panels, strict=True):
            mine = [row for row in rows if (row["shape"], row["batch"]) == (shape, batch)]
            groups = list(dict.fromkeys((row["mode"], row["length"]) for row in mine))
            for index, method in enumerate(methods):
                for row in (row for row in mine if row["method"] == method):
                    place = groups.index((row["mode"], row["length"])) + (index - (len(methods) - 1) / 2) * width
                    speed = row["tokens_per_second"]
                    middle = speed["median"]
                    axes.bar(
                        place,
                        middle,
                        0.92 * width,
                        color=GREY if method == "generate" else COLOURS[(index - 1) % len(COLOURS)],
                        yerr=[[middle - speed["least"]], [speed["most"] - middle]],
                        error_kw={"lw": 0.9, "capsize": 2},
                    )
                    full = next((r for r in mine if r["cell"] == row["cell"] and r["method"] == "full"), None)
                    if full is not None:
                        expected = full["tokens_per_second"]["median"] * row["predicted"]
                        axes.hlines(expected, place - width / 2, place + width / 2, color="black", lw=1.6)
            names = [f"{'at' if mode == 'at' else 'to'} {length:,}" for mode, length in groups]
            axes.set_xticks(range(len(groups)), names)
            axes.set_title(f"{shape}, batch {batch}")
            axes.set_ylabel("tokens a second")
            axes.grid(axis="x", visible=False)
        last = drawn[-1]
        for index, method in enumerate(methods):
            colour = GREY if method == "generate" else COLOURS[(index - 1) % len(COLOURS)]
            last.bar(0, 0, color=colour, label="plain generate" if method == "generate" else policy_name(method))
        last.plot([], [], color="black", lw=1.6, label="predicted by bytes")
        legend_beside(last)
