"""Several recorded `bench accuracy` runs over different problems, as one: paired differences and their 95 % intervals.

    python benchmarks/accuracy_pooled.py benchmarks/accuracy-ONE benchmarks/accuracy-OTHER ... --out DIRECTORY

A run's files hold each policy's paired differences with intervals, not single answers; those of one pair of policies in runs
over different problems are independent. They are weighted by their numbers of problems, and the interval's half-width is the
root of the sum of the squared, weighted half-widths (normal approximation). Runs over the same problems are refused, since they
aren't independent.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text

Rows = dict[str, dict[str, Any]]
"""A run's rows by label."""


def read(place: Path) -> dict[str, Any]:
    path = place / "results.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(
            f"error: {path} can't be read ({error}); expected a directory that `laconic bench accuracy --out` wrote"
        )
    if not str(found.get("format", "")).startswith("laconic.accuracy/"):
        sys.exit(f"error: {path} holds no accuracy run; expected a directory that `laconic bench accuracy --out` wrote")
    name_by_meaning(found)
    return found


def name_by_meaning(run: dict[str, Any]) -> None:
    """One name for one policy: older specs of `learned` say nothing of its fading, which was 0 then and is 1 by default now."""
    names, run["selectors"] = {}, {}
    for label, spec in run["settings"].get("policies", {}).items():
        found = re.search(r"\blearned:(?P<settings>\S*)", spec)
        if found is not None:
            parts = [part.partition("=") for part in found["settings"].split(",")]
            given = {key: value for key, sign, value in parts if sign}
            file = next((f" {key}" for key, sign, _ in parts if not sign), "")
            ratio = f" c={float(given['ratio']):g}" if "ratio" in given else ""
            names[label] = f"learned{file} fading={float(given.get('fading', 0)):g}{ratio}"
            digest = re.match(r"selector (\S+) in ", spec)
            run["selectors"][names[label]] = "untold" if digest is None else digest[1]
    if len(set(names.values())) < len(names):
        sys.exit(f"error: rows of one run mean the same policy: {', '.join(names)}; expected each once")
    for row in run["rows"]:
        row["label"] = names.get(row["label"], row["label"])
        others = row.get("to_others") or {}
        row["to_others"] = {names.get(label, label): part for label, part in others.items()}


def refuse_mixed(places: list[Path], runs: list[dict[str, Any]]) -> None:
    """Ends with a sentence where the runs can't be one table."""
    first = runs[0]["settings"]
    for place, run in zip(places[1:], runs[1:], strict=True):
        ours = run["settings"]
        differ = [name for name in ("model", "engine") if ours[name] != first[name]]
        differ += [
            name for name, value in first["sampling"].items() if name != "seed" and ours["sampling"][name] != value
        ]
        if differ:
            sys.exit(
                f"error: {place} has another {', '.join(differ)} than {places[0]}; "
                "expected runs that differ in problems and seeds alone"
            )
    digests = [run["settings"]["problems"]["digest"] for run in runs]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            sys.exit(
                f"error: {places[number]} has the problems of {places[digests.index(digest)]}; "
                "expected other problems in each run"
            )


def pooled(parts: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """(problems, difference) of each run -> the difference over all."""
    total = sum(count for count, _ in parts)
    mean = sum(count * part["mean"] for count, part in parts) / total
    half = math.sqrt(sum((count / total * (part["high"] - part["low"]) / 2) ** 2 for count, part in parts))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def difference(rows: Rows, one: str, other: str) -> dict[str, float] | None:
    """The run's paired difference of one policy to another, from whichever of the two has it."""
    if other == "full":
        found: dict[str, float] | None = rows[one]["difference"]
        return found
    if other in (rows[one].get("to_others") or {}):
        found = rows[one]["to_others"][other]
        return found
    return None


def table(runs: list[dict[str, Any]], to: list[str]) -> list[dict[str, Any]]:
    """A row a policy that any run has, those of most problems first."""
    by = [({row["label"]: row for row in run["rows"]}, run["settings"]["problems"]["count"]) for run in runs]
    labels = list(dict.fromkeys(label for rows, _ in by for label in rows))
    found = []
    for label in labels:
        mine = [(rows, count) for rows, count in by if label in rows]
        total = sum(count for _, count in mine)
        row: dict[str, Any] = {"label": label, "runs": len(mine), "problems": total}
        row["accuracy"] = sum(count * rows[label]["accuracy"]["mean"] for rows, count in mine) / total
        row["mean_kv_tokens"] = sum(count * rows[label]["mean_kv_tokens"] for rows, count in mine) / total
        for other in to:
            both = [(count, rows) for rows, count in mine if other in rows and other != label]
            parts = [(count, part) for count, rows in both if (part := difference(rows, label, other)) is not None]
            row[f"to {other}"] = {**pooled(parts), "problems": sum(count for count, _ in parts)} if parts else None
        selectors = [run["selectors"].get(label) for run in runs if label in {each["label"] for each in run["rows"]}]
        row["selectors"] = list(dict.fromkeys(each for each in selectors if each is not None))
        found.append(row)
    return sorted(found, key=lambda row: -row["problems"])


def points(part: dict[str, float] | None) -> str:
    return "–" if part is None else f"{100 * part['mean']:+.1f} [{100 * part['low']:+.1f}, {100 * part['high']:+.1f}]"


def written(rows: list[dict[str, Any]], to: list[str]) -> str:
    heads = ["policy", "runs", "problems", "pass@1, %", "mean KV", *(f"to {other}, points" for other in to)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [
            row["label"],
            row["runs"],
            row["problems"],
            f"{100 * row['accuracy']:.1f}",
            f"{row['mean_kv_tokens']:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, [*cells, *(points(row[f"to {other}"]) for other in to)])) + " |")
    several = [f"{row['label']} ({', '.join(row['selectors'])})" for row in rows if len(row["selectors"]) > 1]
    if several:
        lines += [
            "",
            f"- Each run had a selector of its own, made by the same command from other traces: {'; '.join(several)}.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument(
        "--to", default="full;random c=4;streamingllm c=4", help="labels to compare with, by semicolons"
    )
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    runs = [read(place) for place in asked.runs]
    refuse_mixed(asked.runs, runs)
    to = asked.to.split(";")
    rows = table(runs, to)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {**script_environment(__file__), "of": [place.name for place in asked.runs], "to": to, "rows": rows}
    write_text(asked.out / "results.json", json.dumps(found, indent=1) + "\n")
    write_text(asked.out / "table.md", written(rows, to))
    print(written(rows, to))


if __name__ == "__main__":
    main()
