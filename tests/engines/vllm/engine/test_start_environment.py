"""What vLLM's processes are started with, and that their output stays out of ours. Needs no vLLM."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from laconic.engines.vllm.engine.start_environment import vllm_environment

SCRIPT = """
import subprocess, sys, tempfile
from laconic.engines.vllm.engine.start_environment import redirect_output
with tempfile.TemporaryFile() as log:
    print("before")
    with redirect_output(log):
        print("hidden")
        print("hidden too", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
    print("after")
    log.seek(0)
    print(sorted(log.read().decode().split()))
"""


def test_output_goes_to_the_log_also_that_of_processes_and_comes_back() -> None:
    """In a process of its own: pytest replaces stdout."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n['a', 'child', 'hidden', 'hidden', 'too']\n"
    assert done.stderr == ""


def test_the_users_environment_wins_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://sys.stdout")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    before = dict(os.environ)
    with vllm_environment(eager=True):
        assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stdout"
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        assert os.environ["TORCH_COMPILE_DISABLE"] == "1"
        os.environ["VLLM_ITSELF"] = "1"
    assert dict(os.environ) == before
    with vllm_environment(eager=False):
        assert "TORCH_COMPILE_DISABLE" not in os.environ
