"""benchmarks/judged_vote.py: judged votes against the priced vote of equal tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "judged_vote.py"
NAMES = [f"p{i}" for i in range(60)]


def row(family: str, judge: str | None = None) -> dict[str, Any]:
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    strategy = family.partition(", ")[0]
    common: dict[str, Any] = {"accuracy": share, "equal_cost": share, "fates": {"finished": 3.0, "pruned": 4.0}}
    return {
        "family": family,
        "n": 16,
        "compress": "none",
        "strategy": strategy,
        "judge": judge,
        "total_tokens": 1.0,
    } | common


def recorded(place: Path, judged: int) -> Path:
    """Priced votes that are right on every third problem for 100 tokens and on two of three for 300; a judged vote for `judged`
    that is right where the dearer one is."""
    entries = {
        "priced-vote:price=0.02": (100, [float(i % 3 == 0) for i in range(60)], None),
        "priced-vote": (300, [float(i % 3 != 1) for i in range(60)], None),
        "judged-vote, simulated:auroc=0.9": (judged, [float(i % 3 != 1) for i in range(60)], "simulated:auroc=0.9"),
        "judged-vote, perfect": (judged, [1.0] * 60, "perfect"),
    }
    place.mkdir()
    report = {
        "command": "laconic bench parallel",
        "rows": [row(name, judge) for name, (_, _, judge) in entries.items()],
    }
    (place / "results.json").write_text(json.dumps(report))
    lines = [{"kind": "entry", "entry": "priced-vote n=16 none"}]
    for name, (tokens, right, _) in entries.items():
        for problem, share in zip(NAMES, right, strict=True):
            record: dict[str, Any] = {
                "kind": "result",
                "entry": f"{name} n=16 none",
                "problem": problem,
                "right": [share, share],
            }
            lines.append(record | {"generated": tokens - 20, "judged": 20})
    (place / "results.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return place


def run(place: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, place, "--out", out], capture_output=True, text=True, check=False, timeout=600
    )


def test_the_priced_vote_lies_between_its_prices(tmp_path: Path) -> None:
    found = run(recorded(tmp_path / "run", 200), tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plot.png", "results.json", "table.md"]
    (curve,) = json.loads((tmp_path / "out" / "results.json").read_text())["curves"]
    noisy, perfect = curve["points"]
    # Halfway between a third and two thirds.
    assert noisy["mean"] == pytest.approx(100 * (2 / 3 - 0.5))
    assert perfect["mean"] == pytest.approx(50)
    assert noisy["low"] < noisy["mean"] < noisy["high"]
    assert (noisy["auroc"], perfect["auroc"], perfect["tokens"]) == (0.9, 1.0, 200)
    assert curve["break_even"] == 0.9  # ahead from the first point on
    assert "| judged-vote | 0.9 | 200 | 3.0 | 4.0 |" in (tmp_path / "out" / "table.md").read_text()


def test_what_no_priced_vote_costs_is_refused(tmp_path: Path) -> None:
    found = run(recorded(tmp_path / "run", 400), tmp_path / "out")
    assert found.returncode == 1
    assert found.stderr.startswith(
        "error: judged-vote, simulated:auroc=0.9 n=16 none costs 400 tokens; expected priced"
    )
