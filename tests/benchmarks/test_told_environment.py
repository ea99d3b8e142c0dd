"""Every script under benchmarks/ that writes results.json says in it on what machine, with what versions, by which command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
WRITES = [path for path in SCRIPTS if '/ "results.json"' in (text := path.read_text("utf-8")) and "write_text(" in text]


def test_there_are_scripts_that_write_results() -> None:
    assert len(WRITES) > 8


@pytest.mark.parametrize("path", WRITES, ids=lambda path: path.stem)
def test_a_script_that_writes_results_tells_its_environment(path: Path) -> None:
    assert "script_environment(" in path.read_text("utf-8")


def test_the_order_of_two_recorded_runs_is_told_with_its_command(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "fidelity_and_accuracy.py"
    runs = ["benchmarks/fidelity-gsm8k-again", "benchmarks/accuracy-gsm8k-again"]
    done = subprocess.run(
        [sys.executable, script, *runs, "--out", tmp_path], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert found["command"] == f"python benchmarks/fidelity_and_accuracy.py {' '.join(runs)} --out {tmp_path.name}"
    assert found["machine"]["cores"] >= 1
    assert "laconic" in found["versions"]
    recorded = json.loads((ROOT / "benchmarks" / "fidelity-and-accuracy" / "results.json").read_text("utf-8"))
    assert found["ratios"] == recorded["ratios"]
