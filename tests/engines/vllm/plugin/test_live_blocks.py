"""Memory inside vLLM: what each request holds after every step, by arithmetic of our own, and that nothing is lost.

The cache is short, chunks are smaller than prompts and than what lies between two compressions, and statistics are on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.vllm.live import (
    Preemptions,
    assert_same,
    compressor_of,
    drain,
    generate,
    greedy,
    policy_of,
    prompts_of,
    reference_of,
)
from tests.engines.vllm.tiny import runner_of, running, scheduler_of

RPC: dict[str, Any] = {"policy": "rpc", "interval": 64, "ratio": 4, "window": 8}
SHORT: dict[str, Any] = {"policy": "rpc", "interval": 16, "ratio": 2, "window": 4}
RKV: dict[str, Any] = {"policy": "rkv", "budget": 40, "buffer": 24, "window": 8}
STREAMING: dict[str, Any] = {"policy": "streamingllm", "budget": 60, "buffer": 1, "sinks": 3}
GROUP: dict[str, Any] = {"policy": "rpc", "interval": 48, "ratio": 2, "window": 16, "aggregation": "group"}
NONE: dict[str, Any] = {"policy": "none"}

BLOCK, BLOCKS, SEQS = 32, 40, 16


@pytest.fixture(scope="module")
def llm(tiny: Path) -> Iterator[Any]:
    with running(
        tiny,
        additional_config={"laconic": {**RPC, "queries": 16}},
        kv_cache_memory_bytes=BLOCKS
        * BLOCK
        * 1024,  # two layers, two heads, 32 numbers of key and value: 1,024 bytes a token
        max_model_len=1024,
        max_num_seqs=SEQS,
        max_num_batched_tokens=48,
        disable_log_stats=False,
    ) as engine:
        assert scheduler_of(engine).kv_cache_manager.block_pool.num_gpu_blocks == BLOCKS
        yield engine


@pytest.fixture(autouse=True)
def _all_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the pool is full, but for vLLM's null block, and nobody remembers a request."""
    yield
    if "llm" not in request.fixturenames:
        return
    engine = request.getfixturevalue("llm")
    drain(engine)
    assert scheduler_of(engine).kv_cache_manager.block_pool.get_num_free_blocks() == BLOCKS - 1
    assert not scheduler_of(engine).plans
    compressor = compressor_of(engine)
    assert not compressor._requests
    assert not compressor._plans
    assert sorted(compressor._free) == list(range(SEQS))


def compressions(laconic: dict[str, Any], generated: int) -> tuple[int, int]:
    """(how many compressions `generated` tokens see, tokens that each evicts)."""
    if laconic["policy"] == "none":
        return 0, 0
    if laconic["policy"] == "rpc":
        P, c, R = laconic["interval"], laconic["ratio"], laconic["window"]
        return max(0, (generated - R) // P), P - P // c
    return max(0, (generated - laconic["budget"]) // laconic["buffer"]), laconic["buffer"]


def physical(laconic: dict[str, Any], prompt: int, computed: int) -> int:
    count, each = compressions(laconic, max(0, computed - prompt))
    return computed - count * each


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK)


def settings_of_request(request: Any) -> tuple[dict[str, Any], int]:
    """(its settings, its prompt's length), from what was sent."""
    laconic = dict((request.sampling_params.extra_args or {}).get("laconic", RPC))
    return laconic, laconic.pop("prompt_tokens", request.num_prompt_tokens)


def check_blocks(llm: Any) -> None:
    """Each running request holds what its tokens need, in the scheduler and in the worker; waiting ones hold nothing."""
    scheduler, runner = scheduler_of(llm), runner_of(llm)
    held = scheduler.kv_cache_manager.coordinator.single_type_managers[0].req_to_blocks
    running = {request.request_id for request in scheduler.running}
    assert {i for i, blocks in held.items() if blocks} <= running
    table = runner.input_batch.block_table[0]
    for request in scheduler.running:
        name, computed = request.request_id, request.num_computed_tokens
        ids = [block.block_id for block in held[name]]
        assert len(ids) == blocks_for(physical(*settings_of_request(request), computed)), (name, computed)
        assert runner.requests[name].block_ids[0] == ids
        row = runner.input_batch.req_id_to_index.get(name)
        if row is not None:
            assert table.num_blocks_per_row[row] == len(ids)
            assert table.block_table.np[row, : len(ids)].tolist() == ids


def steps(llm: Any, asked: list[tuple[list[int], Any]], between: Callable[[], None] = lambda: None) -> list[list[int]]:
    """As `generate`, step by step; blocks are checked after each, then `between` may interfere."""
    engine, done = llm.llm_engine, {}
    for i, (prompt, params) in enumerate(asked):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, params)
    while engine.has_unfinished_requests():
        for out in engine.step():
            if out.finished:
                done[out.request_id] = list(out.outputs[0].token_ids)
        check_blocks(llm)
        between()
    return [done[str(i)] for i in range(len(asked))]


MIXED = [RPC, GROUP, RKV, STREAMING, NONE, SHORT, RPC, RKV]


def test_blocks_held_after_every_step(llm: Any, tiny: Path) -> None:
    prompts = prompts_of([3, 31, 32, 50, 20, 70, 64, 33], seed=20)
    got = steps(llm, [(p, greedy(150, laconic)) for p, laconic in zip(prompts, MIXED, strict=True)])
    wanted = [reference_of(tiny)(p, policy_of(laconic), 150) for p, laconic in zip(prompts, MIXED, strict=True)]
    assert_same(got, wanted)


def test_preempted_requests_replay_exactly(llm: Any, tiny: Path) -> None:
    """Twelve requests that want 100 blocks and more of 39; those without compression are foreseen by nobody."""
    settings = [RPC, NONE, GROUP, RKV, NONE, STREAMING] * 2
    prompts = prompts_of([20 + 7 * i for i in range(len(settings))], seed=21)
    preemptions = Preemptions(llm)
    got = steps(llm, [(p, greedy(260, laconic)) for p, laconic in zip(prompts, settings, strict=True)])
    wanted = [reference_of(tiny)(p, policy_of(laconic), 260) for p, laconic in zip(prompts, settings, strict=True)]
    assert_same(got, wanted, [laconic["policy"] for laconic in settings])
    assert preemptions.count >= 3


def test_preempted_at_any_moment(llm: Any, tiny: Path) -> None:
    """All running requests at once, by vLLM's own reset of the prefix cache, at about every 40th step."""
    draw = random.Random(22)
    prompts = prompts_of([3, 31, 32, 50, 20, 70, 64, 33], seed=20)
    preemptions = Preemptions(llm)

    def between() -> None:
        if draw.random() < 0.025:
            assert llm.reset_prefix_cache(reset_running_requests=True)

    got = steps(llm, [(p, greedy(150, laconic)) for p, laconic in zip(prompts, MIXED, strict=True)], between)
    wanted = [reference_of(tiny)(p, policy_of(laconic), 150) for p, laconic in zip(prompts, MIXED, strict=True)]
    assert_same(got, wanted)
    assert preemptions.count >= 12


def test_resumed_traces_in_small_chunks(llm: Any, tiny: Path) -> None:
    """What was generated before comes in chunks of 48 and less, and is compressed on the way as it was then."""
    prompt = prompts_of([45], seed=23)[0]
    asked, wanted = [], []
    for laconic in (RPC, GROUP, RKV, STREAMING, SHORT):
        text = reference_of(tiny)(prompt, policy_of(laconic), 220)
        for cut in (71, 72, 180):
            asked.append(([*prompt, *text[:cut]], greedy(220 - cut, {**laconic, "prompt_tokens": len(prompt)})))
            wanted.append(text[cut:])
    assert_same(steps(llm, asked), wanted)


def test_a_thousand_requests_with_random_aborts(llm: Any) -> None:
    """The fixture above looks at what is left: nothing."""
    draw, engine, scheduler = random.Random(24), llm.llm_engine, scheduler_of(llm)
    settings = [SHORT, {**SHORT, "aggregation": "group"}, {**RKV, "budget": 12, "buffer": 4}, NONE]
    sent = ended = aborted = 0
    alive: set[str] = set()
    while sent < 1000 or alive:
        while sent < 1000 and len(alive) < 24:
            prompt = prompts_of([draw.randint(1, 40)], seed=draw.randint(0, 9))[0]
            params = greedy(draw.randint(1, 60), draw.choice(settings))
            engine.add_request(str(sent), {"prompt_token_ids": prompt}, params)
            alive.add(str(sent))
            sent += 1
        for out in engine.step():
            if out.finished:
                alive.discard(out.request_id)
                ended += 1
        if alive and draw.random() < 0.3:
            gone = draw.choice(sorted(alive))
            engine.abort_request([gone])
            alive.discard(gone)
            aborted += 1
        assert len(scheduler.plans) == len(alive)
    assert ended + aborted == 1000
    assert aborted >= 100


def test_a_batch_aborted_at_once(llm: Any) -> None:
    """Within the call the blocks are free, before another step is made."""
    engine, pool = llm.llm_engine, scheduler_of(llm).kv_cache_manager.block_pool
    for i, prompt in enumerate(prompts_of([40] * 6, seed=25)):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, greedy(200))
    for _ in range(100):
        engine.step()
    assert pool.get_num_free_blocks() < BLOCKS - 1
    engine.abort_request([str(i) for i in range(6)])
    assert pool.get_num_free_blocks() == BLOCKS - 1


# ---- metrics ----------------------------------------------------------------------------------------------------------


def metric(name: str, llm: Any) -> float:
    from prometheus_client import REGISTRY

    model = llm.llm_engine.vllm_config.model_config.served_model_name
    return REGISTRY.get_sample_value(f"laconic:{name}", {"model_name": model, "engine": "0"}) or 0.0


def test_metrics_say_what_arithmetic_gives(llm: Any) -> None:
    settings, lengths = [RPC, RKV, STREAMING, NONE], [20, 40, 33, 9]
    prompts = prompts_of(lengths, seed=26)
    names = ("compressions_total", "tokens_evicted_total", "blocks_freed_total")
    preemptions = Preemptions(llm)
    before = [metric(name, llm) for name in names]
    scheduler, ratios = scheduler_of(llm), set()

    def between() -> None:
        # One step behind nobody: statistics are made when a step's tokens are in.
        running = [(*settings_of_request(r), r.num_computed_tokens) for r in scheduler.running]
        if running:
            wanted = sum(physical(*one) for one in running) / sum(computed for *_, computed in running)
            assert metric("physical_over_logical", llm) == pytest.approx(wanted)
            ratios.add(wanted)

    steps(llm, [(p, greedy(200, laconic)) for p, laconic in zip(prompts, settings, strict=True)], between)
    assert preemptions.count == 0  # else compressions are done twice
    assert min(ratios) < 0.7
    assert metric("physical_over_logical", llm) == 1.0  # nobody is left

    count = evicted = freed = 0
    for laconic, prompt in zip(settings, lengths, strict=True):
        for computed in range(prompt + 1, prompt + 200):  # the last token's KV is never computed
            done, each = compressions(laconic, computed - prompt)
            earlier, _ = compressions(laconic, computed - prompt - 1)
            count += done - earlier
            evicted += (done - earlier) * each
            slots = physical(laconic, prompt, computed - 1) + 1
            freed += blocks_for(slots) - blocks_for(physical(laconic, prompt, computed))
    after = [metric(name, llm) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [count, evicted, freed]
    assert count > 100
    assert freed > 3


# ---- bad requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("laconic", "says"),
    [
        ({"policy": "nonesuch"}, "policy 'nonesuch' is unknown; expected one that runs inside vLLM: none, rpc, "),
        ({"policy": "h2o"}, "policy h2o can't run inside vLLM: it accumulates the attention of every step"),
        ({"policy": "tova"}, "policy tova can't run inside vLLM: it weighs the prompt's keys"),
        ({"ratio": 0.5}, "ratio is 0.5; expected"),
        ({"interval": 4}, "interval is 4, smaller than window 8"),
        ({"window": 32}, "this server keeps 16 a request"),
        ({"ration": 2}, "'ration' in laconic's settings is unknown; known with policy rpc: policy, interval"),
        ({"queries": 4}, "'queries' in laconic's settings is unknown"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0; expected"),
        ({"prompt_tokens": 21}, "prompt_tokens is 21, but 20 tokens were sent"),
        ({"prompt_tokens": "5"}, "prompt_tokens is '5'"),
        ("{", "no valid JSON"),
        (7, "laconic's settings are 7; expected a mapping"),
        ({"policy": 3}, "policy is 3; expected the name of one"),
    ],
)
def test_a_bad_request_is_refused_alone(llm: Any, laconic: Any, says: str) -> None:
    from vllm.exceptions import VLLMValidationError

    engine, prompt = llm.llm_engine, prompts_of([20], seed=27)[0]
    with pytest.raises(VLLMValidationError) as refused:
        engine.add_request("bad", {"prompt_token_ids": prompt}, greedy(5, laconic))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not engine.has_unfinished_requests()


def test_the_server_lives_on(llm: Any, tiny: Path) -> None:
    from vllm.exceptions import VLLMValidationError

    prompt = prompts_of([20], seed=27)[0]
    engine = llm.llm_engine
    engine.add_request("good", {"prompt_token_ids": prompt}, greedy(100))
    for _ in range(10):
        engine.step()
    with pytest.raises(VLLMValidationError):
        engine.add_request("bad", {"prompt_token_ids": prompt}, greedy(5, {"ratio": 0}))
    out: list[Any] = []
    while engine.has_unfinished_requests():
        out = engine.step() or out
    assert_same([out[0].outputs[0].token_ids], [reference_of(tiny)(prompt, policy_of(RPC), 100)])


def test_a_request_that_can_never_fit(llm: Any) -> None:
    """39 blocks are 1,248 tokens: more than a whole text here, so it takes a smaller pool to see it."""
    from vllm.exceptions import VLLMValidationError

    cache = llm.llm_engine.vllm_config.cache_config
    before = cache.num_gpu_blocks
    cache.num_gpu_blocks = 11  # as the front end would read it from a smaller engine
    try:
        prompt = prompts_of([100], seed=28)[0]
        # 100 + 220 tokens are ten blocks; the last token's KV is never computed.
        with pytest.raises(
            VLLMValidationError, match=r"would hold 321 tokens at its peak .* room for 320: lower max_tokens"
        ):
            llm.llm_engine.add_request("big", {"prompt_token_ids": prompt}, greedy(222, NONE))
        assert len(generate(llm, [(prompt, greedy(221, NONE))])[0]) == 221
        assert len(generate(llm, [(prompt, greedy(222, RPC))])[0]) == 222
    finally:
        cache.num_gpu_blocks = before
