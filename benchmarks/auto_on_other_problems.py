"""What `auto` chooses on half of a calibration's problems, tried on the other half, against plain votes that cost as much.

    laconic calibrate TRACES --orders 60 --out FILE.json
    python benchmarks/auto_on_other_problems.py FILE.*.results.jsonl --splits 200 --out DIRECTORY

The choice is made by `Calibration.choose` on the one half; on the other its accuracy is compared with the plain vote of its
mean cost there, ties by index and by confidence. Means over random splits; intervals are over problems, of their means over the
splits.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text
from laconic.lab.parallel.equal_cost import plain_votes
from laconic.prune.budget import PoolBudget
from laconic.prune.calibration import CalibratedRow, Calibration

BUDGETS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
Outcome = tuple[float, float]  # share of orders in which a problem was solved, tokens


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, list[Outcome]]]:
    """pass@1's record of each problem, and each strategy's outcomes, problems in the same order."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # One that was played back again counts once, as it was told last.
    results = {
        (record["entry"], record["problem"]): record for record in records if record["kind"] == "result"
    }.values()
    singles = [record for record in results if record["entry"].startswith("pass@1")]
    found: dict[str, list[Outcome]] = {}
    for record in results:
        name = record["entry"].rpartition(" n=")[0]
        if ":" in name:
            found.setdefault(name, []).append((sum(record["right"]) / len(record["right"]), record["generated"]))
    return singles, found


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write results.json and table.md there")
    asked = parser.parse_args()
    singles, strategies = read(asked.results)
    count = len(singles)
    by_index, by_confidence = plain_votes(singles), plain_votes(singles, by_confidence=True)
    assert by_index is not None, "the journal has no classes of answers"
    sure = by_confidence or by_index
    drawn = random.Random(0)
    splits = [drawn.sample(range(count), count) for _ in range(asked.splits)]
    lines = [
        "| budget | traces | accuracy, % | to the vote of equal cost | the same, ties by confidence | chosen most often |",
        "|---|---|---|---|---|---|",
    ]
    found_rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        gains: list[list[list[float]]] = [[[] for _ in range(count)] for _ in range(2)]
        costs, rights, chosen = [], [], []
        for order in splits:
            known, other = order[: count // 2], order[count // 2 :]
            length = mean([singles[p]["generated"] for p in known])
            rows = [
                CalibratedRow(
                    "self-consistency:ties=confidence", k + 1, float(k + 1), mean([sure.right[p][k] for p in known])
                )
                for k in range(len(sure.tokens))
            ]
            rows += [
                CalibratedRow(
                    name,
                    len(sure.tokens),
                    mean([found[p][1] for p in known]) / length,
                    mean([found[p][0] for p in known]),
                )
                for name, found in strategies.items()
            ]
            row = Calibration("m", "w", max(count // 2, 50), 16, length, tuple(rows)).choose(PoolBudget(traces=budget))
            chosen.append(f"{row.strategy.partition(',')[0]} n={row.n}")
            if row.strategy in strategies:
                got = [strategies[row.strategy][p] for p in other]
            else:
                got = [(sure.right[p][row.n - 1], singles[p]["generated"] * row.n) for p in other]
            # Tokens of the other half, in its own mean trace, then on the scale of all problems' plain votes.
            cost = mean([tokens for _, tokens in got]) / mean([singles[p]["generated"] for p in other])
            costs.append(cost)
            rights.append(mean([right for right, _ in got]))
            for place, plain in enumerate((by_index, sure)):
                votes = plain.at(cost * plain.tokens[0])
                for p, (right, _) in zip(other, got, strict=True):
                    gains[place][p].append(right - votes[p])
        ends = []
        for place in range(2):
            values = [mean(each) for each in gains[place] if each]
            centre = mean(values)
            half = 1.96 * math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1) / len(values))
            ends.append({"mean": centre, "low": centre - half, "high": centre + half})
        often = max(set(chosen), key=chosen.count)
        share = chosen.count(often) / len(chosen)
        found_rows.append(
            {
                "budget": budget,
                "traces": mean(costs),
                "accuracy": mean(rights),
                "equal_cost": ends[0],
                "equal_cost_by_confidence": ends[1],
                "chosen": {name: chosen.count(name) for name in sorted(set(chosen))},
            }
        )
        told = [f"{100 * e['mean']:+.1f} [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]" for e in ends]
        lines.append(
            f"| {budget}x | {mean(costs):.1f} | {100 * mean(rights):.1f} | {told[0]} | {told[1]} | {often} ({share:.0%}) |"
        )
    text = "\n".join(
        [f"{count} problems, {asked.splits} random halves; cost and accuracy on the half not chosen on", "", *lines]
    )
    print(text)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_text(asked.out / "table.md", text + "\n")
        written: dict[str, Any] = {
            **script_environment(__file__),
            "problems": count,
            "splits": asked.splits,
            "rows": found_rows,
        }
        write_text(asked.out / "results.json", json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
