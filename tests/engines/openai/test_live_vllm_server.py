"""Stock vLLM's own server as an upstream: tokens, stops, going on by prefix, log-probabilities, and a strategy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from laconic.assets import reasoner_path
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.engines.openai import OpenAIEngine
from laconic.problems import generate
from laconic.prune.strategies.registry import parse

QUESTION = str(generate(1, seed=5, level=3)[0].question)
COLD = Sampling(max_new_tokens=150, temperature=0)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(reasoner_path())]
    command += ["--served-model-name", "small", "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(64 << 20)]
    log = Path(tmp_path_factory.mktemp("vllm")) / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + 240
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def own() -> HFEngine:
    return HFEngine(*load(reasoner_path()))


def test_greedy_tokens_are_the_engines_own(url: str, own: HFEngine) -> None:
    want = own.generate([own.render(QUESTION)], COLD)[0][0]
    with OpenAIEngine(url) as engine:
        assert engine.model == "small"
        assert engine.context == 1024
        chat = engine.generate([QUESTION], COLD)[0][0]
        ids = engine.generate([want.prompt_ids], COLD)[0][0]
    assert chat.token_ids == ids.token_ids == want.token_ids
    assert chat.finish_reason == "length"


def test_a_stopped_trace_goes_on_by_its_prefix(url: str, own: HFEngine) -> None:
    want = own.generate([own.render(QUESTION)], COLD)[0][0]
    with OpenAIEngine(url) as engine:
        names = engine.submit(want.prompt_ids, COLD) + engine.submit(QUESTION, COLD)
        for _ in engine.stream():
            for name in names:
                if len(engine.trace(name).token_ids) == 40:
                    engine.stop(name)
        assert [engine.trace(name).state for name in names] == ["stopped", "stopped"]
        for name in names:
            engine.resume(name)
        for _ in engine.stream():
            pass
        traces = [engine.trace(name) for name in names]
    assert traces[0].token_ids == want.token_ids
    # A chat's text is tokenized anew by the server; with this model's words that gives the same tokens.
    assert traces[1].token_ids[:40] == want.token_ids[:40]
    assert traces[1].state == "finished"


def test_log_probabilities_and_strategies(url: str) -> None:
    warm = Sampling(max_new_tokens=400, temperature=1.0, top_p=0.95, seed=2)
    with OpenAIEngine(url) as engine:
        trace = engine.generate([QUESTION], Sampling(max_new_tokens=9, logprobs=2, confidence_top_k=5))[0][0]
        assert len(trace.logprobs) == len(trace.confidences) == 9
        assert all(each.logprob <= 0 and len(each.top) == 2 for each in trace.logprobs)
        verdict = parse("priced-vote:price=0.012,first=4,parallel=4", 8).solve(engine, QUESTION, warm)
    assert verdict.answer is not None
    assert verdict.tokens.generated > 100
