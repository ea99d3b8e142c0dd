"""The script for GPUs, on the one backend that a CPU has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_its_path_for_cpus(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "vllm_gpu_check.py"
    arguments = ["--backend", "CPU_ATTN", "--dtype", "float32", "--tokens", "140", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=1200, check=False
    )
    record = json.loads((tmp_path / "results.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert record["passed"]
    assert [(row["check"], row["result"]) for row in record["checks"]] == [
        ("eager: layout round trip", "PASS"),
        ("eager: blocks after every step", "PASS"),
        ("eager: policy none = stock", "PASS"),
        ("eager: none = reference", "PASS"),
        ("eager: rpc, layer = reference", "PASS"),
        ("eager: rpc, group = reference", "PASS"),
        ("eager: streamingllm = reference", "PASS"),
    ]
    assert str(tmp_path.parent) not in json.dumps(record)
