"""examples/vllm_engine.py on the bundled reasoner, as a program of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "vllm_engine.py"


def test_the_example_votes_inside_vllm() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"^\d (?:finished|abandoned)", done.stdout, re.MULTILINE)) == 8, done.stdout
    counts = re.search(r"(\d+) compressions evicted (\d+) tokens", done.stdout)
    assert counts
    assert int(counts[1]) > 0
    assert int(counts[2]) > 0
