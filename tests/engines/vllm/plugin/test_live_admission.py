"""Admission under a cache that holds a fraction of the demand: never more preemptions than stock vLLM has, and fewer steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.engines.vllm.live import Preemptions, generate, greedy, prompts_of
from tests.engines.vllm.tiny import running, scheduler_of

BLOCKS = 40
LAUNCH = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
LOADS = [(8, 300), (16, 300), (16, 500)]
"""(requests, tokens that each generates): in blocks, twice the cache, four times, nearly seven times."""
POLICIES = [
    LAUNCH,
    {"policy": "rkv", "budget": 64, "buffer": 32, "window": 8},
    {"policy": "streamingllm", "budget": 100, "buffer": 1},
]


class Cost(NamedTuple):
    preemptions: int
    steps: int


@contextmanager
def serving(tiny: Path, **more: Any) -> Iterator[Any]:
    with running(tiny, kv_cache_memory_bytes=BLOCKS * 32 * 1024, max_model_len=1024, max_num_seqs=24, **more) as engine:
        assert scheduler_of(engine).kv_cache_manager.block_pool.num_gpu_blocks == BLOCKS
        yield engine


def costs(llm: Any, settings: Sequence[Any]) -> list[Cost]:
    """Of every load, under each of the settings."""
    preempted, scheduler, steps = Preemptions(llm), scheduler_of(llm), 0
    stock = scheduler.schedule

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        output = stock(*args, **kwargs)
        steps += output.total_num_scheduled_tokens > 0
        return output

    scheduler.schedule = counted
    found = []
    for laconic in settings:
        for index, (count, tokens) in enumerate(LOADS):
            before, steps = preempted.count, 0
            texts = generate(
                llm, [(p, greedy(tokens, laconic)) for p in prompts_of([20 + i for i in range(count)], index)]
            )
            assert [len(text) for text in texts] == [tokens] * count
            found.append(Cost(preempted.count - before, steps))
    return found


@pytest.fixture(scope="module")
def stock(tiny: Path) -> list[Cost]:
    with serving(tiny) as llm:
        assert not type(scheduler_of(llm)).__module__.startswith("laconic")
        return costs(llm, [None])


def test_no_more_preemptions_than_stock_and_fewer_steps(tiny: Path, stock: list[Cost]) -> None:
    assert all(cost.preemptions for cost in stock)
    with serving(tiny, additional_config={"laconic": LAUNCH}) as llm:
        ours = costs(llm, POLICIES)
    rows = [(policy, load) for policy in POLICIES for load in LOADS]
    worse = {
        str(row): (cost, theirs)
        for row, cost, theirs in zip(rows, ours, stock * len(POLICIES), strict=True)
        if cost.preemptions > theirs.preemptions or cost.steps >= theirs.steps
    }
    assert not worse
