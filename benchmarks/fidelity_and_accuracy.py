"""Whether fidelity orders policies as accuracy does: two recorded runs, policy by policy, at each ratio.

    python benchmarks/fidelity_and_accuracy.py benchmarks/fidelity-NAME benchmarks/accuracy-NAME --out DIRECTORY

The policies that both ran are compared at each ratio: mean KL (the lower, the better) beside pass@1. Kendall's tau-b counts the
pairs of policies that both order alike, less those that they order otherwise; 1 is the same order, 0 none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text


def by_policy(path: Path) -> dict[tuple[float, str], dict[str, Any]]:
    """A run's rows by ratio and policy."""
    found = json.loads((path / "results.json").read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row.get("ratio")]
    by = {(row["ratio"], row["family"]): row for row in rows}
    if len(by) < len(rows):
        sys.exit(f"error: {path} has a policy twice at one ratio; expected a run of one interval and one window")
    return by


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b (Biometrika 33:239, 1945) of two lists of figures; not a number where one of them tells nothing apart."""
    signs = [(_sign(one[i] - one[j]), _sign(other[i] - other[j])) for i, j in combinations(range(len(one)), 2)]
    untied = [sum(1 for pair in signs if pair[side]) for side in (0, 1)]
    return sum(a * b for a, b in signs) / (untied[0] * untied[1]) ** 0.5 if all(untied) else math.nan


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fidelity", type=Path)
    parser.add_argument("accuracy", type=Path)
    parser.add_argument("--out", type=Path, help="write results.json there")
    asked = parser.parse_args()
    moved, right = by_policy(asked.fidelity), by_policy(asked.accuracy)
    both = [key for key in right if key in moved]
    found: dict[str, Any] = {
        **script_environment(__file__),
        "fidelity": asked.fidelity.name,
        "accuracy": asked.accuracy.name,
        "ratios": {},
    }
    for ratio in sorted({ratio for ratio, _ in both}):
        names = [name for each, name in both if each == ratio]
        kl = [moved[ratio, name]["kl"]["mean"]["mean"] for name in names]
        accuracy = [right[ratio, name]["accuracy"]["mean"] for name in names]
        found["ratios"][f"{ratio:g}"] = {
            "policies": {name: {"kl": k, "accuracy": a} for name, k, a in zip(names, kl, accuracy, strict=True)},
            "tau": tau([-value for value in kl], accuracy),
        }
        print(f"c = {ratio:g}: tau {tau([-value for value in kl], accuracy):+.2f} of {len(names)} policies")
        for name, k, a in sorted(zip(names, kl, accuracy, strict=True), key=lambda row: row[1]):
            print(f"  {name:<14}{k:.4f} nats{100 * a:7.1f} %")
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_text(asked.out / "results.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
