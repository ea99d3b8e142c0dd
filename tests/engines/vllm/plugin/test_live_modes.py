"""Other ways to run vLLM: nothing compressed by default, compiled, two processes, steps scheduled ahead. Tokens only."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.selectors import write_selector
from tests.engines.vllm.live import (
    Preemptions,
    Text,
    assert_same,
    compressor_of,
    drain,
    generate,
    greedy,
    policy_of,
    prompts_of,
    reference_of,
)
from tests.engines.vllm.selected import language, text_of
from tests.engines.vllm.tiny import endless, running, scheduler_of
from tests.reference.selectors import selector_for

RPC: dict[str, Any] = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
GROUP: dict[str, Any] = {"policy": "rpc", "interval": 64, "ratio": 2, "window": 4, "aggregation": "group"}
RKV: dict[str, Any] = {"policy": "rkv", "budget": 40, "buffer": 24, "window": 8}
RKV_LAYER: dict[str, Any] = {**RKV, "aggregation": "layer"}
STREAMING: dict[str, Any] = {"policy": "streamingllm", "budget": 48, "buffer": 17, "sinks": 4}
NONE: dict[str, Any] = {"policy": "none"}
SETTINGS = [RPC, GROUP, RKV, RKV_LAYER, STREAMING, NONE]
COUNTS = [260, 200, 170, 160, 150, 180]
PROMPTS = prompts_of((5, 33, 64, 20, 47, 101), seed=30)


@pytest.fixture(scope="module")
def wanted(tiny: Path) -> list[list[int]]:
    told = zip(PROMPTS, SETTINGS, COUNTS, strict=True)
    return [reference_of(tiny)(prompt, policy_of(laconic), count) for prompt, laconic, count in told]


ASKED = list(zip(PROMPTS, SETTINGS, COUNTS, strict=True))


def everything(llm: Any) -> list[list[int]]:
    return generate(llm, [(prompt, greedy(count, laconic)) for prompt, laconic, count in ASKED])


def test_a_launch_without_compression(tiny: Path, wanted: list[list[int]]) -> None:
    """Nobody is compressed who doesn't ask for it; and who asks for queries gets them, since the launch keeps some.

    Without prefix caching, in chunks that are smaller than two blocks.
    """
    with running(
        tiny,
        additional_config={"laconic": {"policy": "none", "queries": 8}},
        enable_prefix_caching=False,
        max_num_batched_tokens=50,
    ) as llm:
        plain = generate(llm, [(prompt, greedy(500)) for prompt in PROMPTS])
        assert_same(everything(llm), wanted)
    assert_same(plain, [reference_of(tiny)(prompt, "full", 500) for prompt in PROMPTS])


def test_nothing_kept_for_a_launch_that_reads_no_queries(tiny: Path) -> None:
    with running(tiny, additional_config={"laconic": "streamingllm:budget=48,buffer=17"}) as llm:
        assert compressor_of(llm).ring is None
        got = generate(llm, [(PROMPTS[1], greedy(150)), (PROMPTS[1], greedy(150, NONE))])
    assert_same(got, [reference_of(tiny)(PROMPTS[1], policy, 150) for policy in (policy_of(STREAMING), "full")])


def test_compiled(tiny: Path, wanted: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))  # what an earlier version compiled must not be found
    with running(tiny, enforce_eager=False, additional_config={"laconic": RPC}) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode != 0
        assert_same(everything(llm), wanted)


@pytest.fixture(scope="module")
def selectors(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files: one with a network for each KV head, one with a network for each layer."""
    place = tmp_path_factory.mktemp("selectors")
    for name in ("heads", "layers"):
        write_selector(place / name, selector_for(language(str(tiny))[0], per_head=name == "heads"))
    return {name: str(place / name) for name in ("heads", "layers")}


def learned(file: str) -> dict[str, Any]:
    return {"policy": "learned", "interval": 48, "ratio": 4, "window": 8, "file": file}


@pytest.fixture(scope="module")
def without_end(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same weights, of which the HF engine writes texts of any length."""
    return str(endless(tiny, tmp_path_factory.mktemp("endless") / "model"))


def texts_of(model: str, laconic: dict[str, Any], count: int) -> list[Text]:
    return [text_of(model, tuple(prompt), policy_of(laconic), count) for prompt in PROMPTS]


def test_two_devices_share_the_heads(
    tiny: Path, without_end: str, wanted: list[list[int]], selectors: dict[str, str]
) -> None:
    """Each has two query heads and one KV head, and of a selector its own head's network; "layer" takes the mean over both."""
    other = learned(selectors["heads"])
    count = 130  # a step of two processes that wait for each other takes long where cores are few
    assert all(policy_of(laconic).schedule.rounds(count - 1) for laconic in SETTINGS if laconic is not NONE)
    with running(tiny, tensor_parallel_size=2, additional_config={"laconic": {**RPC, "others": [other]}}) as llm:
        got = generate(llm, [(prompt, greedy(count, laconic)) for prompt, laconic, _ in ASKED])
        chosen = generate(llm, [(prompt, greedy(count, other)) for prompt in PROMPTS])
    assert_same(got, [text[:count] for text in wanted])
    assert_same(chosen, texts_of(without_end, other, count))


def test_two_devices_share_the_layers(
    tiny: Path,
    without_end: str,
    wanted: list[list[int]],
    selectors: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One layer each, two batches under way. Compiled, as stock's CPU build fails in eager pipelines. The second device takes
    the second layer's network of a selector."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    other = learned(selectors["layers"])
    count = 130
    with running(
        tiny,
        pipeline_parallel_size=2,
        enforce_eager=False,
        kv_cache_memory_bytes=24 << 14,  # 24 blocks of one layer
        max_model_len=512,
        additional_config={"laconic": {**RPC, "others": [other]}},
    ) as llm:
        core, preemptions = llm.llm_engine.engine_core.engine_core, Preemptions(llm)
        assert core.step_fn == core.step_with_batch_queue
        got = generate(llm, [(prompt, greedy(count, laconic)) for prompt, laconic, _ in ASKED])
        assert preemptions.count > 0
        chosen = generate(llm, [(prompt, greedy(count, other)) for prompt in PROMPTS])
    assert_same(got, [text[:count] for text in wanted])
    assert_same(chosen, texts_of(without_end, other, count))


# ---- scheduled ahead --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ahead(tiny: Path) -> Iterator[Any]:
    """The asynchronous scheduler over a synchronous worker: step n + 1 is scheduled, and run, before the scheduler hears of
    step n's tokens. vLLM turns asynchronous scheduling off on a CPU, and its GPU worker's side of it can't run there."""
    from vllm.config import VllmConfig

    from laconic.engines.vllm.plugin import registration
    from laconic.engines.vllm.plugin.launch import ASYNC_SCHEDULER

    stock = registration.configure

    def configure(config: Any) -> None:
        stock(config)
        config.scheduler_config.scheduler_cls = ASYNC_SCHEDULER

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "configure", configure)
        patch.setattr(VllmConfig, "max_concurrent_batches", property(lambda config: 2))
        with running(
            tiny,
            additional_config={"laconic": {**RPC, "queries": 16}},
            kv_cache_memory_bytes=40 << 15,  # 40 blocks
            max_model_len=1024,
            max_num_seqs=16,
            max_num_batched_tokens=64,
        ) as llm:
            core = llm.llm_engine.engine_core.engine_core
            assert type(core.scheduler).__name__ == "AsyncCompressionScheduler"
            assert core.step_fn == core.step_with_batch_queue
            yield llm


def test_scheduled_ahead(ahead: Any, wanted: list[list[int]]) -> None:
    assert_same(everything(ahead), wanted)


def test_scheduled_ahead_and_preempted(ahead: Any, tiny: Path) -> None:
    settings = [RPC, NONE, GROUP, RKV, NONE, STREAMING] * 2
    prompts = prompts_of([20 + 7 * i for i in range(len(settings))], seed=31)
    preemptions = Preemptions(ahead)
    got = generate(ahead, [(p, greedy(230, laconic)) for p, laconic in zip(prompts, settings, strict=True)])
    expected = [reference_of(tiny)(p, policy_of(laconic), 230) for p, laconic in zip(prompts, settings, strict=True)]
    assert_same(got, expected, [laconic["policy"] for laconic in settings])
    assert preemptions.count >= 3


def test_scheduled_ahead_and_resumed(ahead: Any, tiny: Path) -> None:
    asked, expected = [], []
    for laconic, cuts in ((RPC, (55, 56, 57, 104, 140)), (RKV, (63, 64, 65)), (STREAMING, (64, 65, 66))):
        text = reference_of(tiny)(PROMPTS[1], policy_of(laconic), 190)
        for cut in cuts:
            asked.append(([*PROMPTS[1], *text[:cut]], greedy(190 - cut, {**laconic, "prompt_tokens": 33})))
            expected.append(text[cut:])
    assert_same(generate(ahead, asked), expected)


def test_scheduled_ahead_and_aborted(ahead: Any) -> None:
    """Aborted while steps are under way: a full pool, no plan and no slot is left of 200 requests."""
    draw, engine = random.Random(32), ahead.llm_engine
    for i, prompt in enumerate(prompts_of([draw.randint(1, 60) for _ in range(200)], seed=32)):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, greedy(draw.randint(1, 120), draw.choice(SETTINGS)))
    doomed, finished = list(range(0, 200, 3)), 0
    draw.shuffle(doomed)
    while engine.has_unfinished_requests():
        finished += sum(out.finished for out in engine.step())
        if doomed and draw.random() < 0.3:
            engine.abort_request([str(doomed.pop())])
    drain(ahead)
    pool = scheduler_of(ahead).kv_cache_manager.block_pool
    assert finished >= 133
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    assert not scheduler_of(ahead).plans
    compressor = compressor_of(ahead)
    assert not compressor._requests
    assert sorted(compressor._free) == list(range(16))
