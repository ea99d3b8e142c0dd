"""`laconic solve` and `think` on vLLM: the same as on the HF engine, from the same command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laconic.engines.vllm.engine.client import VLLMClient

SOLVE = ("--strategy", "deepprune", "--n", 8, "--seed", 3, "--policy", "rpc", "--json")


def verdict(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    for clocked in ("seconds", "phases"):
        record.pop(clocked, None)
    return record


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[VLLMClient]:
    """Those that were started."""
    found: list[VLLMClient] = []
    start = VLLMClient.__init__

    def noted(self: VLLMClient, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(VLLMClient, "__init__", noted)
    return found


def test_the_bundled_reasoner_and_judge_under_compression(invoke: Any, clients: list[VLLMClient]) -> None:
    want = verdict(invoke("solve", *SOLVE))
    got = verdict(invoke("solve", "--engine", "vllm:bundled", *SOLVE))
    assert len(clients) == 1
    assert clients[0].closed
    for mine, theirs in zip(got["traces"], want["traces"], strict=True):
        sure = mine.pop("confidence"), theirs.pop("confidence")
        assert mine == theirs
        assert sure[0] == pytest.approx(sure[1], abs=1e-2)  # logits of two engines
    assert (got["answer"], got["votes"], got["clusters"]) == (want["answer"], want["votes"], want["clusters"])
    assert got["tokens"] == want["tokens"]
    assert got["policy"] == want["policy"] == "rpc:interval=128,ratio=4,window=32"


def test_one_trace_as_it_comes(invoke: Any, clients: list[VLLMClient]) -> None:
    options = ("--bundled", 5, "--seed", 2)
    want = invoke("think", *options)
    got = invoke("think", "--engine", "vllm", *options, "--engine-set", "max_model_len=2048")
    assert got.exit_code == 0, got.output
    assert got.stdout == want.stdout
    assert len(got.stdout) > 500
    assert "compressions: " in got.stderr
    assert clients[0].config.model_config.max_model_len == 2048
    assert clients[0].closed


def test_what_is_wrong_is_one_sentence(invoke: Any, clients: list[VLLMClient], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for args, says in (
        (["--engine", "vllm:/nowhere"], "there is no model at /nowhere"),
        (["--engine", f"vllm:{tmp_path}"], f"{tmp_path} has no tokenizer: it holds none of tokenizer.json"),
        (["--engine", "vllm:bundled", "--policy", "h2o"], "policy h2o can't run inside vLLM"),
        (["--engine", "vllm:bundled", "-j", "probe"], "the vllm engine can't probe a trace"),
        (["--engine", "vllm:bundled", "--excerpt", "kept", "-j", "jaccard"], "does not tell what compression kept"),
        (["--engine", "vllm:bundled", "--engine-set", "unheard_of=1"], "unheard_of"),
        (["--engine", "vllm:bundled", "--engine-set", "max_num_seqs=1"], "say max_batch"),
    ):
        bundled = [] if "bundled" in args[1] else ["c d e", "-j", "jaccard"]
        result = invoke("solve", *bundled, *args)
        assert (result.exit_code, result.stdout) == (2, ""), (args, result.output)
        assert says in result.stderr, (args, result.stderr)
        assert result.stderr.count("\n") == 1, (args, result.stderr)
    assert not clients


# Ctrl-C, which a terminal sends to all, once vLLM is being imported and so many of its processes have begun; then whoever is
# left is named.
INTERRUPTED = """
import contextlib, os, runpy, signal, sys, threading, time
import psutil

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
wanted = int(sys.argv.pop(1))

def begun():
    with contextlib.suppress(psutil.Error):
        return sum("spawn_main" in " ".join(p.cmdline()) or "VLLM" in p.name() for p in psutil.Process().children(True))
    return 0

def watch():
    while "vllm.config" not in sys.modules or begun() < wanted:
        time.sleep(0.05)
    os.killpg(0, signal.SIGINT)

threading.Thread(target=watch, daemon=True).start()
try:
    runpy.run_module("laconic", run_name="__main__")
finally:
    print([p.name() for p in psutil.Process().children(True) if "resource_tracker" not in " ".join(p.cmdline())])
"""


@pytest.mark.parametrize("processes", [0, 2], ids=["import", "worker"])
def test_a_start_that_is_interrupted_leaves_nothing_behind(processes: int) -> None:
    """No process, and no word of vLLM's on the terminal."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(processes), "solve", "--engine", "vllm:bundled", "--n", "8"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        timeout=600,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted; nothing is kept; the same command begins anew\n"
    assert done.stdout == "[]\n"
