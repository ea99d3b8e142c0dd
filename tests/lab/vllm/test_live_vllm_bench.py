"""`laconic bench vllm` with vLLM: a tiny run, its figures against arithmetic, and refusals.

What becomes of an engine that dies is tested in test_vllm_process.py and test_vllm_speed.py, in processes without vLLM.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from laconic.cli import build
from laconic.compress.registry import parse
from laconic.lab.vllm import run as vllm_speed
from laconic.lab.vllm.load import RequestLoad, lineup
from laconic.lab.vllm.model import from_shape
from laconic.lab.vllm.process import Worker, WorkerFailed
from laconic.lab.vllm.run import VLLMExperiment

ARGUMENTS = [
    "bench", "vllm", "--requests", "4", "--prompt", "32", "--output", "60", "-p", "rpc", "--interval", "16", "--window", "8",
    "--cache", "100,67", "-r", "2",
]  # fmt: skip
POLICY = parse("rpc:interval=16,ratio=4,window=8")


def command(*arguments: object) -> Any:
    return CliRunner().invoke(build(), [str(argument) for argument in arguments])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run. How an interrupted one goes on: test_run.py, with engines that are none."""
    place = tmp_path_factory.mktemp("bench") / "out"
    patch = pytest.MonkeyPatch()
    run = Worker.run
    pids: set[int] = set()

    def noted(self: Worker, load: RequestLoad, repeat: int) -> dict[str, Any]:
        pids.add(self._process.pid)
        return run(self, load, repeat)

    patch.setattr(Worker, "run", noted)
    done = command(*ARGUMENTS, "-o", place)
    patch.undo()
    assert done.exit_code == 0, done.output
    assert "RPC c=4" in done.stdout
    assert len(pids) == 4
    for pid in pids:  # nothing is left running
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    return place


def test_every_cell_is_measured_once_and_generates_what_was_asked(out: Path) -> None:
    samples = [record for record in lines(out) if record["kind"] == "sample"]
    keys = [(record["share"], record["contender"], record["repeat"]) for record in samples]
    assert sorted(keys) == sorted((s, c, r) for s in (1.0, 0.67) for c in ("stock", "rpc c=4") for r in (0, 1))
    assert all(record["tokens"] == 4 * 60 for record in samples)
    assert all(record["seconds"] > 0 and record["cpu_seconds"] > 0 for record in samples)
    assert {path.name for path in out.iterdir()} >= {"samples.jsonl", "results.json", "table.md"}


def test_counts_are_those_of_arithmetic(out: Path) -> None:
    rows = {(row["cache"], row["contender"]): row for row in json.loads((out / "results.json").read_text())["rows"]}
    whole = math.ceil(92 / 32)
    stock, rpc = rows[1.0, "stock"], rows[1.0, "rpc c=4"]
    # With room for all: the prompts in one step, then one token each a step; nothing waits, nothing is computed twice. The
    # last token's keys are never needed.
    for row in (stock, rpc):
        assert (row["steps"], row["mean_running"], row["preemptions"], row["computed"]) == (60, 4, 0, 4 * 91)
        assert row["blocks"] == 4 * whole
    assert stock["peak_blocks"] == 4 * whole
    assert rpc["peak_blocks"] == 4 * math.ceil(POLICY.schedule.peak(59, prompt=32) / 32)
    assert rpc["compressions"] == 4 * POLICY.schedule.rounds(59)
    assert rpc["evicted"] == 4 * POLICY.schedule.evicted(59)
    assert (stock["evicted"], stock["compressions"], stock["to_stock"]) == (None, None, None)
    assert rpc["to_stock"]["least"] > 0
    # With room for two thirds, all compressed requests still run at once; stock has to preempt or to make them wait.
    tight, kept = rows[0.67, "stock"], rows[0.67, "rpc c=4"]
    assert (kept["steps"], kept["mean_running"], kept["preemptions"], kept["peak_blocks"]) == (60, 4, 0, 8)
    assert tight["steps"] > 60
    assert tight["mean_running"] < 4
    assert tight["peak_blocks"] <= tight["blocks"] == 8


def test_an_engine_knows_whether_laconic_is_at_work(out: Path) -> None:
    engines = [record for record in lines(out) if record["kind"] == "engine"]
    assert {(e["contender"], e["scheduler"].partition(".")[0]) for e in engines} == {
        ("stock", "vllm"),
        ("rpc c=4", "laconic"),
    }
    for engine in engines:
        assert engine["block"] == 32
        assert engine["blocks"] == {1.0: 12, 0.67: 8}[engine["share"]]
        assert engine["block_bytes"] == 32 * 1024  # tiny-steps
        assert (engine["ring_bytes"] or 0) >= (0 if engine["contender"] == "stock" else 4 * 8 * 2 * 4 * 64 * 4)


def test_other_settings_are_refused_before_an_engine_starts(out: Path) -> None:
    done = command(*ARGUMENTS, "--seed", 7, "-o", out)
    assert done.exit_code == 2
    assert "seed was 0, now 7" in done.stderr


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> VLLMExperiment:
    """Four requests whose full KV takes three blocks each."""
    model = from_shape("tiny-steps", torch.float32, tmp_path_factory.mktemp("model"))
    return VLLMExperiment(model, RequestLoad(4, 32, 60), lineup(["rpc"], [4], interval=16, window=8, output=60), [0.1])


def test_a_cache_for_less_than_a_request_is_refused_by_stock_in_words(experiment: VLLMExperiment) -> None:
    with pytest.raises(WorkerFailed, match="To serve at least one request") as error:
        vllm_speed.start(experiment, experiment.contenders[0], 0.1)
    assert error.value.refused
    assert "\n" not in str(error.value)


def test_an_engine_without_laconic_does_not_pass_for_one_with_it(
    experiment: VLLMExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "none_of_them")
    with pytest.raises(WorkerFailed, match="laconic is not at work in this vLLM") as error:
        vllm_speed.start(experiment, experiment.contenders[1], 1.0)
    assert not error.value.refused
