"""`laconic solve` and `think` on vLLM: the same as on the HF engine, from the same command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.engines.vllm.backend import Backend
from laconic.traces import read_traces

SOLVE = ("--n", 8, "--seed", 3, "--compress", "rpc", "--json")


def verdict(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    for clocked in ("seconds", "phases"):
        record.pop(clocked, None)
    return record


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[Backend]:
    """Those that were started."""
    found: list[Backend] = []
    start = Backend.__init__

    def noted(self: Backend, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Backend, "__init__", noted)
    return found


def test_the_bundled_reasoner_and_judge_under_compression(invoke: Any, backends: list[Backend]) -> None:
    want = verdict(invoke("solve", *SOLVE))
    got = verdict(invoke("solve", "--engine", "vllm:bundled", *SOLVE))
    assert len(backends) == 1
    assert backends[0].closed
    assert got["traces"] == want["traces"]
    assert (got["answer"], got["votes"], got["clusters"]) == (want["answer"], want["votes"], want["clusters"])
    assert got["tokens"] == want["tokens"]
    assert got["policy"] == want["policy"] == "rpc:interval=128,ratio=4,window=32"


def test_one_trace_as_it_comes(invoke: Any, backends: list[Backend]) -> None:
    options = ("--bundled", 5, "--seed", 2)
    want = invoke("think", *options)
    got = invoke("think", "--engine", "vllm", *options, "--engine-set", "max_model_len=2048")
    assert got.exit_code == 0, got.output
    assert got.stdout == want.stdout
    assert len(got.stdout) > 500
    assert "compressions: " in got.stderr
    assert backends[0].config.model_config.max_model_len == 2048
    assert backends[0].closed


def test_traces_of_many_problems(invoke: Any, backends: list[Backend], tmp_path: Path) -> None:
    found = {}
    for engine in ("hf", "vllm"):
        out = tmp_path / f"{engine}.jsonl"
        options = ("--count", 2, "-n", 3, "--logprobs", 2, "--max-new-tokens", 150, "--batch", 4, "--out", out)
        result = invoke("collect", "--engine", engine, "--policy", "rpc:interval=64,ratio=4,window=16", *options)
        assert result.exit_code == 0, result.output
        found[engine] = sorted(read_traces(out).records, key=lambda r: (r.problem, r.index))
    assert len(found["vllm"]) == 6
    for one, same in zip(found["vllm"], found["hf"], strict=True):
        assert (one.problem, one.index, one.token_ids) == (same.problem, same.index, same.token_ids)
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-3)
        assert one.settings == same.settings  # the fingerprint of the weights too
    assert backends[0].closed


def test_what_is_wrong_is_one_sentence(invoke: Any, backends: list[Backend], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for args, says in (
        (["--engine", "vllm:/nowhere"], "there is no model at /nowhere"),
        (["--engine", f"vllm:{tmp_path}"], f"the tokenizer of {tmp_path} can't be loaded"),
        (["--engine", "vllm:bundled", "--compress", "h2o"], "policy h2o can't run inside vLLM"),
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
    assert not backends
