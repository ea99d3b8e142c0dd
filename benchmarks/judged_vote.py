"""From which skill on does the judged vote beat the priced vote at equal tokens? `bench parallel` with simulated judges.

    python benchmarks/judged_vote.py runs/judged-vote --out benchmarks/judged-vote

The run has priced votes at several prices and judged votes with the judges `simulated:auroc=A` and `perfect` (1). The priced
vote of equal tokens lies between the two prices that cost just less and just more a problem, in a straight line; the
difference is taken problem by problem, over the orders of its traces, with the interval over problems.
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text
from laconic.jsonl import read_object
from laconic.lab.shared.figure import COLOURS, MARKERS, figure, legend_beside
from laconic.statistics import paired_difference

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.judge_break_even import auroc_of, crossing

Points = list[dict[str, float]]


def outcomes(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """By entry and problem."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("kind") == "result":
            found.setdefault(record["entry"], {})[record["problem"]] = record
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def tokens(entry: dict[str, dict[str, Any]]) -> float:
    """A problem, the judge's among them."""
    return mean([record["generated"] + record["judged"] for record in entry.values()])


def at_equal_tokens(curve: Sequence[tuple[float, Sequence[float]]], spent: float) -> list[float] | None:
    """Each problem's share of right votes at so many tokens a problem. curve: (tokens, shares), rising; None beyond it."""
    costs = [cost for cost, _ in curve]
    k = bisect_left(costs, spent)
    if k < len(costs) and costs[k] == spent:
        return list(curve[k][1])
    if k in (0, len(costs)):
        return None
    part = (spent - costs[k - 1]) / (costs[k] - costs[k - 1])
    return [(1 - part) * low + part * high for low, high in zip(curve[k - 1][1], curve[k][1], strict=True)]


def compare(run: dict[str, Any], found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Points]:
    """By judged vote: points by rising AUROC, with tokens, accuracy, and points above the priced and the plain vote."""
    problems = sorted(next(iter(found.values())))
    rows = {f"{row['family']} n={row['n']} {row['compress']}": row for row in run["rows"]}
    priced = sorted(
        (tokens(found[label]), [mean(found[label][name]["right"]) for name in problems])
        for label, row in rows.items()
        if row["strategy"].startswith("priced-vote")
    )
    curves: dict[str, Points] = {}
    for label, row in rows.items():
        skill = auroc_of(row.get("judge") or "")
        if skill is None or not row["strategy"].startswith("judged-vote"):
            continue
        spent = tokens(found[label])
        theirs = at_equal_tokens(priced, spent)
        if theirs is None:
            raise SystemExit(f"error: {label} costs {spent:.0f} tokens; expected priced votes that cost less and more")
        above = paired_difference([found[label][name]["right"] for name in problems], [[share] for share in theirs])
        fates = row["fates"]
        point: dict[str, float] = {
            "auroc": skill,
            "mean": 100 * above.mean,
            "low": 100 * above.low,
            "high": 100 * above.high,
            "plain": 100 * row["equal_cost"]["mean"],
            "plain_low": 100 * row["equal_cost"]["low"],
            "plain_high": 100 * row["equal_cost"]["high"],
            "accuracy": 100 * row["accuracy"]["mean"],
            "tokens": spent,
            "finished": fates["finished"],
            "read": fates["pruned"],
        }
        curves.setdefault(row["strategy"], []).append(point)
    return {name: sorted(points, key=lambda point: point["auroc"]) for name, points in curves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    run = read_object(asked.run / "results.json")
    curves = compare(run, outcomes(asked.run / "results.jsonl"))
    names = ("command", "date", "versions", "machine", "settings")
    report: dict[str, Any] = {
        **script_environment(__file__),
        "run": {name: run[name] for name in names if name in run},
        "priced": [
            {"strategy": row["strategy"], "tokens": row["total_tokens"], "accuracy": 100 * row["accuracy"]["mean"]}
            for row in run["rows"]
            if row["strategy"].startswith("priced-vote")
        ],
        "curves": [
            {
                "strategy": name,
                "break_even": crossing(points, "mean"),
                "beyond_interval": crossing(points, "low"),
                "points": points,
            }
            for name, points in curves.items()
        ],
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "results.json", json.dumps(report, indent=1) + "\n")
    write_text(asked.out / "table.md", table(report))
    draw(asked.out / "plot.png", report)
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """A line a judged vote and judge."""
    lines = [
        "**The judged vote by the judge's AUROC (simulated, independent errors)**",
        "",
        "| strategy | AUROC | tokens a problem | finished | read alone | accuracy, % | to the priced vote of equal tokens | "
        "to the plain vote of equal tokens |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for curve in report["curves"]:
        for p in curve["points"]:
            skill = "perfect" if p["auroc"] == 1 else f"{p['auroc']:g}"
            lines.append(
                f"| {curve['strategy']} | {skill} | {p['tokens']:,.0f} | {p['finished']:.1f} | {p['read']:.1f} | "
                f"{p['accuracy']:.1f} | {p['mean']:+.1f} [{p['low']:+.1f}, {p['high']:+.1f}] | "
                f"{p['plain']:+.1f} [{p['plain_low']:+.1f}, {p['plain_high']:+.1f}] |"
            )
    lines += ["", "| priced votes | tokens a problem | accuracy, % |", "|---|---:|---:|"]
    lines += [f"| {row['strategy']} | {row['tokens']:,.0f} | {row['accuracy']:.1f} |" for row in report["priced"]]
    notes = [
        "- To the priced vote: points, paired by problem; between the two prices that cost just less and just more.",
        "- Finished, read alone (stopped where their excerpt ends, for good): traces a problem, of the recorded order.",
        "- In brackets: 95 % intervals over problems. Simulated judges run no tokens.",
    ]
    return "\n".join([*lines, "", *notes, ""])


def draw(path: Path, report: dict[str, Any]) -> None:
    """Points above the priced vote of equal tokens by AUROC, a line a price."""
    with figure(path, 6.2, 3.6, 1) as panels:
        axes = panels[0]
        for which, curve in enumerate(report["curves"]):
            colour, marker = COLOURS[which % len(COLOURS)], MARKERS[which % len(MARKERS)]
            at = [point["auroc"] for point in curve["points"]]
            middle, lows, highs = ([point[end] for point in curve["points"]] for end in ("mean", "low", "high"))
            axes.plot(at, middle, f"{marker}-", ms=4, color=colour, label=curve["strategy"])
            axes.fill_between(at, lows, highs, color=colour, alpha=0.12, lw=0)
        axes.axhline(0, color="0.5", lw=0.8)
        axes.set_xlabel("AUROC of the judge")
        axes.set_ylabel("points above the priced vote\nof equal tokens")
        legend_beside(axes)


if __name__ == "__main__":
    main()
