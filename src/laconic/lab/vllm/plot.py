"""The plot of `bench vllm`: tokens a second against the size of the KV cache (matplotlib)."""

from __future__ import annotations

from pathlib import Path

from laconic.errors import InputError
from laconic.lab.shared.figure import COLOURS, GREY, MARKERS, figure, legend_beside
from laconic.lab.shared.reporting import Report
from laconic.lab.vllm.table import STOCK, name_of


def vllm_plot(report: Report, path: str | Path) -> None:
    """Tokens a second against the size of the KV cache, a line a contender: medians, and bars from the least to the most.

    Raises InputError without matplotlib or without a measured row.
    """
    rows = [row for row in report["rows"] if row["repeats"]]
    if not rows:
        raise InputError("The results hold no measured rows to draw")
    labels = list(dict.fromkeys(row["contender"] for row in rows))
    with figure(path, 7.6, 4.8) as (axes,):
        others = 0
        for index, label in enumerate(labels):
            points = sorted((row for row in rows if row["contender"] == label), key=lambda row: row["cache"])
            speeds = [row["tokens_per_second"] for row in points]
            stock = label == STOCK
            axes.errorbar(
                [100 * row["cache"] for row in points],
                [speed["median"] for speed in speeds],
                yerr=[
                    [speed["median"] - speed["least"] for speed in speeds],
                    [speed["most"] - speed["median"] for speed in speeds],
                ],
                color=GREY if stock else COLOURS[others % len(COLOURS)],
                ls="--" if stock else "-",
                marker=MARKERS[index % len(MARKERS)],
                label=name_of(label),
                lw=1.6,
                ms=6,
                capsize=3,
                elinewidth=0.9,
            )
            others += not stock
        shares = sorted({100 * row["cache"] for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_xticks([], minor=True)
        axes.set_xlim(shares[0] / 1.15, shares[-1] * 1.15)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("KV cache, % of what full KV needs for all requests at once")
        axes.set_ylabel("tokens a second, all requests")
        settings = report["settings"]
        axes.set_title(
            f"vLLM {settings['vllm']}, {settings['model']['name']}: {settings['requests']} requests of "
            f"{settings['prompt']:,} + {settings['output']:,} tokens",
            loc="left",
            fontsize=10,
        )
        legend_beside(axes)
