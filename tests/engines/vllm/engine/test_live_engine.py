"""VLLMEngine: the conformance tests over one shared vLLM, and what is its own: the HF engine's text, token by token."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from psutil import Process
from transformers import AutoModelForCausalLM

from laconic.compress import H2O, RPC
from laconic.engines.base import Engine, Sampling
from laconic.engines.hf import HFEngine, open_engine
from laconic.engines.vllm import VLLMEngine
from laconic.engines.vllm.engine.client import VLLMClient
from laconic.engines.vllm.engine.starting import RunningVLLM, start
from laconic.errors import EngineError, InputError, LaconicError
from tests.engines.conformance import GREEDY, WARM, Conformance
from tests.engines.vllm.tiny import LEAST_VOCAB, SPECIAL, endless

SMALL: dict[str, Any] = {"dtype": "float32", "kv_cache_memory_bytes": 32 << 20, "max_model_len": 2048}


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endless(tiny, tmp_path_factory.mktemp("endless") / "model")


@pytest.fixture(scope="module")
def started(model: Path) -> Iterator[RunningVLLM]:
    """One vLLM for all tests that compress nothing."""
    found = start(model, **SMALL)
    yield found
    found.client.close()


@pytest.fixture(scope="module")
def hf(model: Path) -> HFEngine:
    return open_engine(str(model), dtype="float32")


def some_prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(len(SPECIAL), LEAST_VOCAB) for _ in range(length)] for length in lengths]


class TestConformance(Conformance):
    prompts = some_prompts([12, 3, 9, 17])
    started: ClassVar[RunningVLLM]

    @pytest.fixture(autouse=True)
    def _share(self, started: RunningVLLM) -> None:
        type(self).started = started

    def make(self, **settings: Any) -> VLLMEngine:
        return VLLMEngine.over(self.started, **settings)

    def plain(self, prompt: list[int], steps: int) -> list[int]:
        ids = torch.tensor([prompt])
        out = plain_model(self.started.model).generate(ids, max_new_tokens=steps, do_sample=False)
        return out[0, len(prompt) :].tolist()


@cache
def plain_model(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


HOT = Sampling(max_new_tokens=80, temperature=1.3, top_p=1.0, seed=3)
FEW = Sampling(max_new_tokens=80, temperature=0.8, top_k=7, seed=4, confidence_top_k=3)
MOST = Sampling(max_new_tokens=80, temperature=1.0, top_p=0.9, seed=5, confidence_top_k=8, logprobs=2)


@pytest.fixture
def engine(started: RunningVLLM) -> VLLMEngine:
    return VLLMEngine.over(started)


def told(engine: Engine, sampling: Sampling, n: int = 4) -> list[list[tuple[Any, ...]]]:
    rows = engine.generate(["Hello there", "What is 2 + 2? Think."], sampling, n)
    return [[(t.prompt_ids, t.token_ids, t.text, t.finish_reason, t.state) for t in row] for row in rows]


@pytest.mark.parametrize("sampling", [GREEDY, WARM, HOT, FEW, MOST], ids=["greedy", "warm", "hot", "top-k", "top-p"])
def test_text_is_that_of_the_hf_engine(engine: VLLMEngine, hf: HFEngine, sampling: Sampling) -> None:
    assert told(engine, sampling) == told(hf, sampling)


def test_samplings_mixed_in_one_batch_draw_as_alone(engine: VLLMEngine, hf: HFEngine) -> None:
    """Rows come and go at different steps, so that the batch's rows are moved under the draws."""
    mixed = [
        GREEDY,
        HOT,
        FEW,
        MOST,
        replace(HOT, max_new_tokens=9),
        replace(FEW, max_new_tokens=33, confidence_top_k=0),
    ]
    ids = {i: s for s in mixed for i in engine.submit([20, 21, 22], s, n=3)}
    for _ in engine.stream():
        pass
    alone = {s: hf.generate([[20, 21, 22]], s, n=3)[0] for s in mixed}
    for name, sampling in ids.items():
        trace = engine.trace(name)
        same = alone[sampling][trace.index]
        assert (trace.token_ids, trace.text) == (same.token_ids, same.text)
        assert trace.confidences == pytest.approx(same.confidences, abs=1e-4)
        assert len(trace.confidences) == (sampling.max_new_tokens if sampling.confidence_top_k else 0)
        assert [one.logprob for one in trace.logprobs] == pytest.approx(
            [one.logprob for one in same.logprobs], abs=1e-4
        )
        assert [[i for i, _ in one.top] for one in trace.logprobs] == [[i for i, _ in one.top] for one in same.logprobs]
        assert len(trace.logprobs) == (sampling.max_new_tokens if sampling.logprobs is not None else 0)


@pytest.mark.parametrize("seed", range(2))
def test_stopping_and_resuming_at_random_changes_nothing(engine: VLLMEngine, hf: HFEngine, seed: int) -> None:
    rows, sampling = some_prompts([12, 3, 17], seed), replace(HOT, max_new_tokens=150)
    ids = [i for row in rows for i in engine.submit(row, sampling, n=2)]
    assert stop_at_random(engine, ids, seed) > 2
    want = [t.token_ids for row in hf.generate(rows, sampling, n=2) for t in row]
    assert [engine.trace(i).token_ids for i in ids] == want


def stop_at_random(engine: VLLMEngine, ids: list[str], seed: int) -> int:
    """Run to the end with stops and resumptions on the way. Returns how many stops."""
    rng, stops = random.Random(seed), 0
    while any(engine.trace(i).state != "finished" for i in ids):
        for i in ids:
            if engine.trace(i).state == "stopped":
                engine.resume(i)
        for _ in engine.stream():
            if rng.random() < 0.02:
                engine.stop(rng.choice(ids))
                stops += 1
    return stops


def test_a_stopped_trace_leaves_vllm_and_one_that_waits_was_never_there(started: RunningVLLM) -> None:
    engine, running = VLLMEngine.over(started, max_batch=2), started.client.llm.get_num_unfinished_requests
    ids = engine.submit([20, 21, 22], replace(HOT, max_new_tokens=1000), n=3)
    stream = engine.stream()
    next(stream)
    assert running() == 2
    engine.stop(ids[0])
    engine.stop(ids[2])
    assert engine.trace(ids[2]).state == "stopped"
    last = next(chunk for chunk in stream if chunk.trace_id == ids[0] and chunk.finish_reason)
    assert last.finish_reason == engine.trace(ids[0]).finish_reason == "stopped"
    assert running() == 1
    stream.close()
    engine.close()
    assert running() == 0


def test_what_was_done_is_counted(started: RunningVLLM) -> None:
    engine = VLLMEngine.over(started)
    (prompt,), sampling = some_prompts([300]), Sampling(max_new_tokens=40, temperature=0)
    traces = engine.generate([prompt], sampling, n=8)[0]
    stats, block = engine.stats, started.client.config.cache_config.block_size
    found = 300 // block * block
    assert found > 0
    assert stats.prompt_tokens == 300 + 7 * (300 - found)  # full blocks are computed once
    assert stats.generated_tokens == 8 * 40
    assert 40 <= stats.steps <= 44
    assert stats.kv_token_steps == 8 * sum(300 + i for i in range(1, 40))
    assert stats.peak_kv_tokens == 8 * (300 + 39)
    assert stats.peak_kv_bytes == stats.peak_kv_tokens * 2 * 2 * 2 * 32 * 4  # K and V, layers, heads, dimensions, bytes
    assert stats.reserved_kv_bytes == SMALL["kv_cache_memory_bytes"]
    assert (stats.live_kv_tokens, stats.live_kv_bytes, stats.compressions, stats.preemptions) == (0, 0, 0, 0)
    assert stats.prefill_seconds > 0
    assert stats.decode_seconds > 0
    assert traces[0].peak_kv_tokens == 339
    assert traces[0].mean_kv_tokens == pytest.approx(300 + 20)


def until_it_waits(client: VLLMClient) -> None:
    """Until vLLM is paused and what it had under way has come."""
    until, before = time.monotonic() + 60, -1
    while not client._read_ahead.paused or client._inbox.qsize() != before:
        assert time.monotonic() < until, "vLLM computes on, though nobody reads"
        before = client._inbox.qsize()
        time.sleep(0.5)


def test_vllm_waits_for_the_reader(started: RunningVLLM) -> None:
    engine, client = VLLMEngine.over(started), started.client
    ids = engine.submit([20, 21, 22], replace(HOT, max_new_tokens=1500), n=2)
    stream = engine.stream()
    for _ in range(4):
        next(stream)
    until_it_waits(client)
    ahead = client._inbox.qsize()
    assert 0 < ahead <= client.ahead + 8
    for _ in range(400):
        next(stream)
    stream.close()
    until_it_waits(client)
    ahead = client._inbox.qsize()
    time.sleep(1)  # hundreds of steps, if it did not
    assert client._inbox.qsize() == ahead
    engine.stop(ids[0])
    engine.stop(ids[1])
    assert [chunk.finish_reason for chunk in engine.stream()] == ["stopped", "stopped"]
    assert len(engine.trace(ids[0]).token_ids) == 202
    assert engine.stats.generated_tokens == 404


def test_two_engines_over_one_vllm_take_turns(started: RunningVLLM) -> None:
    """What comes for the one's traces would be lost in the other's stream."""
    first, second = VLLMEngine.over(started), VLLMEngine.over(started)
    first.submit([20, 21, 22], replace(HOT, max_new_tokens=40))
    stream = first.stream()
    next(stream)
    stream.close()
    second.submit([20, 21, 22], replace(HOT, max_new_tokens=4))
    with pytest.raises(InputError, match="another engine over this vLLM has 1 traces that run"):
        next(second.stream())
    assert sum(len(chunk.token_ids) for chunk in first.stream()) >= 38
    assert sum(len(chunk.token_ids) for chunk in second.stream()) == 4


def test_vllms_processes_do_not_see_ctrl_c(started: RunningVLLM) -> None:
    """A terminal sends it to all; the run would end in a death instead of a verdict."""
    processes = [Process(one.pid) for one in started.client.llm.engine_core.resources.engine_manager.processes]
    processes += [child for one in processes for child in one.children(recursive=True)]
    assert len(processes) >= 2  # the engine's core and its worker
    for process in processes:
        status = Path(f"/proc/{process.pid}/status").read_text()
        (ignored,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
        assert ignored >> (signal.SIGINT - 1) & 1


def test_memory_given_up_for_others_changes_nothing(tmp_path: Path, model: Path, hf: HFEngine) -> None:
    """A cache for four blocks of 32 tokens beside vLLM's own: of three traces of 70 tokens one has to wait, computed again."""
    rows, sampling = some_prompts([12, 3, 17]), replace(HOT, max_new_tokens=60)
    settings = SMALL | {"kv_cache_memory_bytes": 6 * 32 * 1024, "max_model_len": 96}
    with VLLMEngine(model, log=tmp_path / "log", block_size=32, **settings) as engine:
        got = [t.token_ids for row in engine.generate(rows, sampling) for t in row]
        assert engine.stats.preemptions > 0
        assert "EngineCore" in (tmp_path / "log").read_text()
    assert got == [t.token_ids for row in hf.generate(rows, sampling) for t in row]
    with pytest.raises(LaconicError, match="this engine is closed"):
        engine.generate(rows, sampling)
    engine.close()


def test_what_vllm_refuses_is_told_in_its_words(model: Path) -> None:
    with pytest.raises(InputError, match=r"can't run .*: .*(KV cache|memory)"):
        VLLMEngine(model, dtype="float32", kv_cache_memory_bytes=1 << 16)
    with pytest.raises(InputError, match=r"can't run .*: .*dtype"):
        VLLMEngine(model, dtype="float17")
    with pytest.raises(InputError, match=r"can't run .*: .*unheard_of"):
        VLLMEngine(model, unheard_of=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0"),
        ({"ahead": 0}, "ahead is 0"),
        ({"max_num_seqs": 3}, "say max_batch"),
        ({"speculative_config": {}}, "draws one token a step"),
        ({"additional_config": {"laconic": {}}}, "the policy says it"),
        ({"data_parallel_size": "two"}, "data_parallel_size is 'two'; vLLM expects a number"),
        ({"enforce_eager": "perhaps"}, "enforce_eager is 'perhaps'; vLLM expects true or false"),
        ({"policy": H2O(budget=24)}, "policy h2o can't run inside vLLM"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(model: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        VLLMEngine(model, **settings)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(LaconicError, match="there is no model at /nowhere"):
        VLLMEngine("/nowhere")


# ---- under compression -------------------------------------------------------------------------------------------

POLICY = RPC(interval=32, ratio=4, window=8)


@pytest.fixture(scope="module")
def compressed(model: Path) -> Iterator[RunningVLLM]:
    found = start(model, POLICY, **SMALL)
    yield found
    found.client.close()


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_compressed_text_is_that_of_the_hf_engine(compressed: RunningVLLM, hf: HFEngine, sampling: Sampling) -> None:
    engine, sampling = VLLMEngine.over(compressed), replace(sampling, max_new_tokens=200)
    same = HFEngine(hf.model, hf.tokenizer, POLICY)
    assert told(engine, sampling) == told(same, sampling)
    for name in ("compressions", "evicted", "kept", "peak_kv_tokens", "peak_kv_bytes", "kv_token_steps"):
        assert getattr(engine.stats, name) == getattr(same.stats, name), name


def test_stopping_and_resuming_under_compression_changes_nothing(compressed: RunningVLLM, hf: HFEngine) -> None:
    engine, same = VLLMEngine.over(compressed), HFEngine(hf.model, hf.tokenizer, POLICY)
    rows, sampling = some_prompts([12, 3, 17]), replace(HOT, max_new_tokens=150)
    ids = [i for row in rows for i in engine.submit(row, sampling, n=2)]
    assert stop_at_random(engine, ids, seed=1) > 2
    want = [t.token_ids for row in same.generate(rows, sampling, n=2) for t in row]
    assert [engine.trace(i).token_ids for i in ids] == want


def test_the_death_of_vllm_is_told(compressed: RunningVLLM) -> None:
    """The last one here: nobody can use this vLLM afterwards."""
    engine = VLLMEngine.over(compressed)
    engine.submit([20, 21, 22], replace(HOT, max_new_tokens=1500))
    stream = engine.stream()
    next(stream)
    for process in compressed.client.llm.engine_core.resources.engine_manager.processes:
        process.kill()
    with pytest.raises(EngineError, match=r"vLLM has died: .*start the engine again") as error:
        for _ in stream:
            pass
    assert not isinstance(error.value, ValueError)
    stream.close()
    with pytest.raises(EngineError, match=r"vLLM has died: .*start the engine again"):
        VLLMEngine.over(compressed).generate([[20, 21, 22]], HOT)
    engine.close()
