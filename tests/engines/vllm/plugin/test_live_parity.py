"""Compression inside vLLM against the slow reference, in float32, token for token.

One engine serves every policy: requests bring settings of their own. test_live_blocks.py does the same where memory is short.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from laconic.compress import Policy, registry
from laconic.compress.evidence import Scorer
from laconic.compress.schedule import Fixed, Schedule
from laconic.compress.scorers import WindowAttention
from tests.engines.vllm.live import (
    RPC,
    assert_same,
    generate,
    greedy,
    policy_of,
    prompts_of,
    reference_of,
)
from tests.engines.vllm.tiny import running, scheduler_of
from tests.reference import generation

LENGTHS = (5, 33, 64, 101)  # below a block, not on its end, on its end, several blocks
NEW = 300

POLICIES: dict[str, dict[str, Any]] = {
    "rpc-2-layer": {"policy": "rpc", "interval": 48, "ratio": 2, "window": 8},
    "rpc-4-layer": RPC,
    "rpc-8-layer": {"policy": "rpc", "interval": 64, "ratio": 8, "window": 16},
    "rpc-2-group": {"policy": "rpc", "interval": 48, "ratio": 2, "window": 8, "aggregation": "group"},
    "rpc-4-group": {"policy": "rpc", "interval": 64, "ratio": 4, "window": 4, "aggregation": "group"},
    "rpc-8-group": {"policy": "rpc", "interval": 48, "ratio": 8, "window": 8, "aggregation": "group"},
    "rpc-max-pooling": {"policy": "rpc", "interval": 40, "ratio": 2.5, "window": 1, "pooling": "max", "kernel": 3},
    "rkv": {"policy": "rkv", "budget": 40, "buffer": 24, "window": 8},
    "rkv-layer": {"policy": "rkv", "budget": 33, "buffer": 31, "window": 5, "aggregation": "layer", "lam": 0.5},
    "streamingllm": {"policy": "streamingllm", "budget": 48, "buffer": 17, "sinks": 4},
    "streamingllm-each": {"policy": "streamingllm", "budget": 60, "buffer": 1, "sinks": 3},
    "random": {"policy": "random", "interval": 48, "ratio": 4, "window": 8, "seed": 3},
    "randomattention": {"policy": "randomattention", "interval": 48, "ratio": 2, "window": 8},
    "vase": {"policy": "vase", "interval": 48, "ratio": 2, "window": 8, "seed": 1},
    "vase-layer": {"policy": "vase", "interval": 48, "ratio": 4, "window": 8, "protected": 0.5, "aggregation": "layer"},
}


@pytest.fixture(scope="module")
def stock(tiny: Path) -> list[list[int]]:
    """What vLLM writes without laconic: 6 x 500 tokens."""
    with running(tiny) as llm:
        return generate(llm, [(prompt, greedy(500)) for prompt in SIX])


SIX = prompts_of((7, 32, 33, 60, 90, 130), seed=2)


@pytest.fixture(scope="module")
def llm(tiny: Path, stock: list[list[int]]) -> Iterator[Any]:
    with running(tiny, additional_config={"laconic": {**RPC, "queries": 16}}) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _all_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, nothing of it stays: no block, no plan."""
    yield
    if "llm" in request.fixturenames:
        scheduler = scheduler_of(request.getfixturevalue("llm"))
        pool = scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
        assert not scheduler.plans


def test_without_eviction_tokens_are_stock(llm: Any, stock: list[list[int]]) -> None:
    settings: list[Any] = [
        {"policy": "none"},
        {"policy": "rpc", "interval": 48, "ratio": 1},
        {"policy": "rpc", "interval": 500, "ratio": 4, "window": 8},  # too short for a compression
        "none",
    ]
    asked = [(laconic, i) for laconic in settings for i in range(len(SIX))]
    got = generate(llm, [(SIX[i], greedy(500, laconic)) for laconic, i in asked])
    assert_same(got, [stock[i] for _, i in asked], asked)


def test_outputs_shorter_than_the_first_compression_are_stock(llm: Any, stock: list[list[int]]) -> None:
    """The last token's KV is never computed: 56 tokens are one less than it takes."""
    got = generate(llm, [(prompt, greedy(56)) for prompt in SIX])
    assert_same(got, [text[:56] for text in stock])


def test_eviction_changes_what_is_written(llm: Any, stock: list[list[int]]) -> None:
    """Otherwise the tests here would show nothing."""
    got = generate(llm, [(prompt, greedy(200)) for prompt in SIX])
    for mine, theirs in zip(got, stock, strict=True):
        assert mine[:56] == theirs[:56]
        assert mine != theirs[:200]


@pytest.mark.parametrize("name", POLICIES)
def test_tokens_are_the_references(llm: Any, tiny: Path, name: str) -> None:
    """Ragged prompts in one batch, several rounds; the texts end at different lengths."""
    laconic, prompts = POLICIES[name], prompts_of(LENGTHS)
    counts = [NEW, NEW - 60, NEW - 7, NEW - 20]
    policy = policy_of(laconic)
    assert policy.schedule.rounds(min(counts) - 1) >= 3
    got = generate(llm, [(p, greedy(n, laconic)) for p, n in zip(prompts, counts, strict=True)])
    assert_same(got, [reference_of(tiny)(p, policy, n) for p, n in zip(prompts, counts, strict=True)])


def test_settings_mixed_in_one_batch(llm: Any, tiny: Path) -> None:
    """Every policy at once, each request with another prompt; the order is shuffled, so that batch rows move about."""
    names = ["none", *POLICIES]
    random.Random(5).shuffle(names)
    prompts = prompts_of([20 + 9 * i for i in range(len(names))], seed=3)
    settings = {"none": {"policy": "none"}, **POLICIES}
    counts = [200 - 5 * i for i in range(len(names))]
    asked = [(p, greedy(n, settings[name])) for p, n, name in zip(prompts, counts, names, strict=True)]
    wanted = [
        reference_of(tiny)(p, policy_of(settings[name]), n) for p, n, name in zip(prompts, counts, names, strict=True)
    ]
    assert_same(generate(llm, asked), wanted, names)


def test_settings_on_top_of_the_launchs(llm: Any, tiny: Path) -> None:
    """What a request doesn't say stays as the launch has it; text says the same as a mapping."""
    prompt = prompts_of([40], seed=4)[0]
    got = generate(
        llm,
        [
            (prompt, greedy(150, {"ratio": 2})),
            (prompt, greedy(150, {"policy": "rpc", "ratio": 2})),
            (prompt, greedy(150, '{"ratio": 2}')),
            (prompt, greedy(150, "rpc:interval=48,ratio=2,window=8")),
        ],
    )
    wanted = reference_of(tiny)(prompt, policy_of({**RPC, "ratio": 2}), 150)
    assert_same(got, [wanted] * 4)


@dataclass(frozen=True)
class SnapKV(Policy):
    """SnapKV's scorer on a fixed budget; it reads more queries than it spares."""

    name: ClassVar[str] = "snapkv"
    summary: ClassVar[str] = "for this test"

    budget: int = 40
    buffer: int = 20
    window: int = 4
    queries: int = 16

    def make_schedule(self) -> Schedule:
        return Fixed(self.budget, self.buffer, self.window)

    def make_scorer(self) -> Scorer:
        return WindowAttention(self.queries, "max", 5, "group")


def test_a_third_partys_policy(llm: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, "snapkv", SnapKV)
    own = SnapKV()
    # The reference knows policies by name: this is RPC's scorer (it calls the count of queries window) on R-KV's schedule.
    known = SimpleNamespace(name="rpc", window=own.queries, pooling="max", kernel=5, aggregation="group")

    def plan(policy: Any, held: int, kept: int) -> tuple[int, int] | None:
        return None if held < own.budget + own.buffer else (own.budget - own.window, own.window)

    monkeypatch.setattr(generation, "_plan", plan)
    prompts = prompts_of(LENGTHS, seed=6)
    got = generate(llm, [(prompt, greedy(200, {"policy": "snapkv"})) for prompt in prompts])
    model = reference_of(tiny).model
    wanted = [generation.reference_generate(model, torch.tensor([prompt]), known, 200) for prompt in prompts]
    assert_same(got, wanted)


# ---- prefix caching ---------------------------------------------------------------------------------------------------


def test_identical_prompts_share_their_blocks(llm: Any, tiny: Path) -> None:
    """Eight at once, then four as one request: all find the prompt's three full blocks, none finds another's tokens."""
    from vllm import SamplingParams

    prompt = prompts_of([101], seed=7)[0]
    wanted = reference_of(tiny)(prompt, policy_of(RPC), 200)
    generate(llm, [(prompt, greedy(1))])
    sent = {"prompt_token_ids": prompt}
    outs = llm.generate([sent] * 8, greedy(200), use_tqdm=False)
    assert [out.num_cached_tokens for out in outs] == [96] * 8
    assert_same([out.outputs[0].token_ids for out in outs], [wanted] * 8)
    # vLLM takes no greedy request of several: one candidate to draw from is as greedy.
    four = SamplingParams(n=4, temperature=1.0, top_k=1, max_tokens=200, ignore_eos=True)
    (out,) = llm.generate([sent], four, use_tqdm=False)
    assert_same([one.token_ids for one in out.outputs], [wanted] * 4)


def test_different_settings_share_a_prompt(llm: Any, tiny: Path) -> None:
    prompt = prompts_of([70], seed=8)[0]
    names = ["rpc-2-group", "rkv", "streamingllm", "rpc-2-group"]
    generate(llm, [(prompt, greedy(1, {"policy": "none"}))])
    outs = llm.generate(
        [{"prompt_token_ids": prompt}] * 4, [greedy(150, POLICIES[name]) for name in names], use_tqdm=False
    )
    assert [out.num_cached_tokens for out in outs] == [64] * 4
    wanted = [reference_of(tiny)(prompt, policy_of(POLICIES[name]), 150) for name in names]
    assert_same([out.outputs[0].token_ids for out in outs], wanted, names)


def test_a_second_turn(llm: Any, tiny: Path) -> None:
    """The first answer is now prompt: whole, and computed anew although it was compressed a moment ago."""
    first, more = prompts_of([45, 20], seed=9)
    answer = generate(llm, [(first, greedy(200))])[0]
    second = [*first, *answer, *more]
    wanted = reference_of(tiny)(second, policy_of(RPC), 200)
    for cached in (32, 256):  # the first prompt's full block; then all of what is a prompt now
        (out,) = llm.generate([{"prompt_token_ids": second}], greedy(200), use_tqdm=False)
        assert out.num_cached_tokens == cached
        assert_same([out.outputs[0].token_ids], [wanted])


# ---- resuming ---------------------------------------------------------------------------------------------------------


def cuts_of(policy: Policy, count: int) -> list[int]:
    """Where to stop a text of `count` tokens: about its compressions, about the queries that are kept, and elsewhere."""
    due, boundary = [], policy.schedule.next_boundary(0)
    while boundary is not None and boundary < count - 2:
        due.append(boundary)
        boundary = policy.schedule.next_boundary(boundary)
    picked = [due[0], due[1], due[len(due) // 2], due[-1]]
    near = {cut for b in picked for cut in (b - 1, b, b + 1, b + 2)}
    return sorted({1, 2, due[0] - 3, count - 2, *near} & set(range(1, count)))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", ["rpc-4-layer", "rpc-2-group", "rkv", "streamingllm", "streamingllm-each", "none"])
def test_a_stopped_trace_goes_on_as_if_it_had_not_been(llm: Any, tiny: Path, name: str, warm: bool) -> None:
    """`prompt_tokens` says how much of what is sent was the prompt; warm: another request had all of it as its prompt."""
    laconic = {"policy": "none"} if name == "none" else POLICIES[name]
    policy, count = policy_of(laconic), 230
    prompt = prompts_of([37], seed=10)[0]
    text = reference_of(tiny)(prompt, policy, count)
    assert llm.reset_prefix_cache()
    if warm:
        generate(llm, [([*prompt, *text], greedy(1, {"policy": "none"}))])
    cuts = [1, 40, 100, 200] if name == "none" else cuts_of(policy, count)
    own = {**laconic, "prompt_tokens": len(prompt)}
    sent = [{"prompt_token_ids": [*prompt, *text[:cut]]} for cut in cuts]
    outs = llm.generate(sent, [greedy(count - cut, own) for cut in cuts], use_tqdm=False)
    assert_same([out.outputs[0].token_ids for out in outs], [text[cut:] for cut in cuts], cuts)
    if warm:
        assert {out.num_cached_tokens for out in outs} == {32}  # of the prompt only


# ---- aborts -----------------------------------------------------------------------------------------------------------


def test_requests_aborted_at_random_disturb_no_other(llm: Any, tiny: Path) -> None:
    draw = random.Random(11)
    names = list(POLICIES)
    prompts = prompts_of([draw.randint(4, 70) for _ in range(6)], seed=11)
    engine, told = llm.llm_engine, {}
    for i in range(30):
        which, name = draw.randrange(len(prompts)), names[draw.randrange(3)]
        told[f"r{i}"] = prompts[which], POLICIES[name]
        engine.add_request(f"r{i}", {"prompt_token_ids": prompts[which]}, greedy(120, POLICIES[name]))
    doomed = set(draw.sample(sorted(told), 15))
    done: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        for out in engine.step():
            if out.finished:
                done[out.request_id] = list(out.outputs[0].token_ids)
        if doomed and draw.random() < 0.15:
            gone = draw.choice(sorted(doomed))
            doomed.discard(gone)
            engine.abort_request([gone])
            if gone not in done:
                told.pop(gone)
    names = sorted(told)
    assert len(names) >= 15
    wanted = [reference_of(tiny)(prompt, policy_of(laconic), 120) for prompt, laconic in (told[n] for n in names)]
    assert_same([done[name] for name in names], wanted, names)
