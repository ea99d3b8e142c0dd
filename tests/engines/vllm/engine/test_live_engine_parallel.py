"""VLLMEngine over two processes that share the model one way or another: the HF engine's traces, stopped and resumed too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laconic.compress import RPC
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, open_engine
from laconic.engines.vllm import VLLMEngine
from tests.engines.vllm.live import prompts_of
from tests.engines.vllm.tiny import endless

POLICY = RPC(interval=32, ratio=4, window=8)
SAMPLING = Sampling(max_new_tokens=100, temperature=1.0, seed=3)
ROWS = prompts_of([4, 17, 33, 40], seed=7)


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endless(tiny, tmp_path_factory.mktemp("endless") / "model")


@pytest.fixture(scope="module")
def wanted(model: Path) -> list[list[int]]:
    opened = open_engine(str(model), dtype="float32")
    engine = HFEngine(opened.model, opened.tokenizer, POLICY)
    return [trace.token_ids for row in engine.generate(ROWS, SAMPLING, n=2) for trace in row]


@pytest.mark.parametrize(
    "shared",
    [
        {"tensor_parallel_size": 2},
        {"data_parallel_size": 2},
    ],
    ids=["heads", "requests"],
)
def test_two_processes_draw_what_one_draws(model: Path, wanted: list[list[int]], shared: dict[str, Any]) -> None:
    with VLLMEngine(
        model, POLICY, dtype="float32", kv_cache_memory_bytes=16 << 20, max_model_len=1024, **shared
    ) as engine:
        ids = [trace_id for row in ROWS for trace_id in engine.submit(row, SAMPLING, n=2)]
        left = {ids[0], ids[5]}
        for chunk in engine.stream():
            if chunk.trace_id in left and len(engine.trace(chunk.trace_id).token_ids) > 45:
                engine.stop(chunk.trace_id)
                left.remove(chunk.trace_id)
        assert not left
        for trace_id in (ids[0], ids[5]):
            assert engine.trace(trace_id).state == "stopped"
            engine.resume(trace_id)
        for _ in engine.stream():
            pass
        assert [engine.trace(trace_id).token_ids for trace_id in ids] == wanted
        assert engine.stats.live_kv_tokens == 0
