"""The plot of `laconic analyze`: entropy by length, and redundancy beside it (matplotlib)."""

from __future__ import annotations

import re
from pathlib import Path

from laconic.errors import InputError
from laconic.lab.analyze.table import by_order
from laconic.lab.shared.figure import COLOURS, GREY, MARKERS, figure, policy_name
from laconic.lab.shared.reporting import Report


def analysis_plot(report: Report, path: str | Path) -> None:
    """n-gram entropy by length (colour: what made the traces, dashes: n), and redundancy beside it.

    report: an analysis (`groups` as `analyse` makes them). Raises InputError without matplotlib or groups.
    """
    groups = list(report["groups"])
    if not groups:
        raise InputError("The analysis holds no groups to draw")
    dashes = {1: ":", 2: "--", 3: "-"}
    with figure(path, 9.6, 4.4, columns=2) as (left, right):
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            for n, dash in dashes.items():
                points = [(point["length"], by_order(point["bits"], n)) for point in group["entropy"]]
                left.plot(
                    [length for length, _ in points],
                    [bits for _, bits in points],
                    dash,
                    color=colour,
                    marker=MARKERS[index % len(MARKERS)],
                    ms=4.5,
                    label=policy_name(group["group"]) if n == 3 else None,
                )
            rate = group["redundancy"]
            if rate is not None:
                mean = 100 * rate["mean"]
                errors = [[mean - 100 * rate["low"]], [100 * rate["high"] - mean]]
                right.bar(index, mean, 0.7, color=colour, yerr=errors, error_kw={"lw": 0.9, "capsize": 3})
        for n, dash in dashes.items():
            left.plot([], [], dash, color=GREY, label=f"{n}-grams")
        lengths = sorted({point["length"] for group in groups for point in group["entropy"]})
        if lengths:
            left.set_xscale("log", base=2)
            left.set_xticks(lengths, [f"{length:,}" for length in lengths])
        left.set_xlabel("first tokens of a trace")
        left.set_ylabel("entropy, bits")
        left.set_title("n-gram entropy of token ids")
        left.legend(frameon=False, fontsize=8)
        right.set_xticks(range(len(groups)), [_folded(policy_name(group["group"])) for group in groups], fontsize=8)
        right.set_ylabel("redundant spans, %")
        right.set_ylim(0, 100)
        right.set_title(f"Spans like an earlier one (cosine > {groups[0]['threshold']:g}, {groups[0]['embedder']})")
        right.grid(axis="x", visible=False)


def _folded(name: str) -> str:
    """A name with its settings below it, one a line."""
    return "\n".join(re.split(r", | (?=\S+=)", name))
