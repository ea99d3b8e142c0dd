"""From which skill on does pruning beat the vote of equal cost? Runs of `bench parallel` with simulated judges, by AUROC.

    python benchmarks/judge_break_even.py runs/break-even-48 runs/break-even-96 --out benchmarks/judge-break-even

Each directory is a run with the judges `simulated:auroc=A` and `perfect` (1) at one excerpt. Of every strategy in it: points
above the plain vote that costs the same, by AUROC, with the interval over problems; where the mean crosses 0, and where the
interval's lower end does, between neighbours in a straight line.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text
from laconic.jsonl import read_object
from laconic.lab.shared.figure import COLOURS, MARKERS, figure, legend_beside

SIMULATED = re.compile(r"simulated:auroc=([0-9.]+)(?:,shared=([0-9.]+))?$")


def auroc_of(judge: str) -> float | None:
    """Of a judge's spec; None for one that is not simulated."""
    if judge == "perfect":
        return 1.0
    match = SIMULATED.match(judge)
    return float(match[1]) if match else None


def curves(run: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """By strategy: points by rising AUROC, in points above the vote of equal cost."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in run["rows"]:
        skill = auroc_of(row.get("judge") or "")
        if skill is None or row["equal_cost"] is None:
            continue
        name = f"{row['strategy'].partition(':')[2]}, n = {row['n']}"
        gain = {end: 100 * row["equal_cost"][end] for end in ("mean", "low", "high")}
        found.setdefault(name, []).append(
            {"auroc": skill, **gain, "accuracy": 100 * row["accuracy"]["mean"], "tokens": row["total_tokens"]}
        )
    return {name: sorted(points, key=lambda point: point["auroc"]) for name, points in found.items()}


def crossing(points: Sequence[dict[str, float]], end: str) -> float | None:
    """The AUROC from which on a curve stays above 0; None where its last point does not."""
    at: float | None = None
    for one, other in pairwise(points):
        if one[end] <= 0 < other[end]:
            at = one["auroc"] + (other["auroc"] - one["auroc"]) * -one[end] / (other[end] - one[end])
    if points[-1][end] <= 0:
        return None
    return points[0]["auroc"] if at is None else at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for place in asked.runs:
        try:
            run = read_object(place / "results.json")
        except OSError:
            parser.error(f"there is no {place / 'results.json'}; expected the --out of a run of laconic bench parallel")
        excerpt = re.search(r"--excerpt '?([a-z]+:[0-9]+)", run["command"])
        if excerpt is None:
            parser.error(f"{place} names no excerpt; expected a run of laconic bench parallel with --excerpt tokens:K")
        for name, points in curves(run).items():
            above = {"break_even": crossing(points, "mean"), "beyond_interval": crossing(points, "low")}
            found.append(
                {
                    "excerpt": excerpt[1],
                    "strategy": name,
                    "command": run["command"],
                    **above,
                    "points": points,
                }
            )
            told = {key: "never" if value is None else f"{value:.2f}" for key, value in above.items()}
            print(
                f"{found[-1]['excerpt']}, {name}: from {told['break_even']}, beyond the interval from {told['beyond_interval']}"
            )
    asked.out.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {**script_environment(__file__), "curves": found}
    write_text(asked.out / "results.json", json.dumps(written, indent=1) + "\n")
    write_text(asked.out / "table.md", table(found))
    draw(asked.out / "plot.png", found)


def table(found: Sequence[dict[str, Any]]) -> str:
    """Points above the vote of equal cost, a line a curve."""
    skills = sorted({point["auroc"] for curve in found for point in curve["points"]})
    heads = ["perfect" if skill == 1 else f"{skill:g}" for skill in skills]
    lines = [
        "**Points above the plain vote of equal cost, by the judge's AUROC (simulated, independent errors)**",
        "",
        f"| excerpt | strategy | {' | '.join(heads)} | break-even |",
        f"|---|---|{'---:|' * len(heads)}---:|",
    ]
    for curve in found:
        by = {point["auroc"]: point for point in curve["points"]}
        cells = [f"{by[s]['mean']:+.1f} [{by[s]['low']:+.1f}, {by[s]['high']:+.1f}]" if s in by else "" for s in skills]
        from_ = "never" if curve["break_even"] is None else f"{curve['break_even']:.2f}"
        lines.append(f"| {curve['excerpt']} | {curve['strategy']} | {' | '.join(cells)} | {from_} |")
    return "\n".join([*lines, "", "- In brackets: 95 % intervals over problems; differences are paired.", ""])


def draw(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """A panel an excerpt."""
    excerpts = list(dict.fromkeys(curve["excerpt"] for curve in found))
    names = list(dict.fromkeys(curve["strategy"] for curve in found))
    with figure(path, 4.2 * len(excerpts) + 2, 3.6, len(excerpts)) as panels:
        for axes, excerpt in zip(panels, excerpts, strict=True):
            for curve in found:
                if curve["excerpt"] != excerpt:
                    continue
                which = names.index(curve["strategy"])
                colour, marker = COLOURS[which % len(COLOURS)], MARKERS[which % len(MARKERS)]
                points = curve["points"]
                at = [point["auroc"] for point in points]
                axes.plot(
                    at, [point["mean"] for point in points], f"{marker}-", ms=4, color=colour, label=curve["strategy"]
                )
                lows, highs = ([point[end] for point in points] for end in ("low", "high"))
                axes.fill_between(at, lows, highs, color=colour, alpha=0.12, lw=0)
            axes.axhline(0, color="0.5", lw=0.8)
            axes.set_title(f"read: {excerpt}", fontsize=10)
            axes.set_xlabel("AUROC of the judge")
        panels[0].set_ylabel("points above the vote of equal cost")
        legend_beside(panels[-1])


if __name__ == "__main__":
    main()
