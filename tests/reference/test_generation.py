"""The slow generation itself: without eviction it is `generate`, with eviction it keeps what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

from laconic.compress.policies import H2O, RKV, RPC, TOVA, FullKV, KNorm, Oracle, Random, SnapKV, StreamingLLM
from laconic.compress.policy import Policy
from laconic.compress.random_attention import RandomAttention
from laconic.compress.vase import VaSE
from tests.reference.generation import reference_generate, reference_run

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 35]])
POLICIES: list[Policy] = [
    RPC(interval=12, ratio=3, window=4),
    RPC(interval=12, ratio=3, window=4, pooling="max", kernel=3, aggregation="group"),
    Random(interval=12, ratio=3, window=4, seed=1),
    Random(interval=12, ratio=3, window=4, seed=1, aggregation="group"),
    RandomAttention(interval=12, ratio=3, window=4),
    VaSE(interval=12, ratio=1.5, window=4),
    VaSE(interval=12, ratio=3, window=4, aggregation="layer"),
    Oracle(lambda ids: ids % 2 == 0, interval=12, ratio=3, window=4),
    H2O(budget=10, buffer=3),
    H2O(budget=10, buffer=3, aggregation="group"),
    TOVA(budget=10),
    StreamingLLM(budget=10, buffer=2, sinks=3),
    SnapKV(budget=10, buffer=4, window=4, kernel=3),
    KNorm(budget=10, buffer=3),
    KNorm(budget=10, buffer=3, window=4, aggregation="layer"),
    RKV(budget=12, buffer=6, window=4, threshold=0.3),
    RKV(budget=12, buffer=6, window=4, threshold=0.3, aggregation="layer"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="module")
def gpt_oss() -> GptOssForCausalLM:
    torch.manual_seed(0)
    config = GptOssConfig(
        **SIZES,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    )
    return GptOssForCausalLM(config).eval()


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_without_eviction_it_is_generate(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    want = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=40, do_sample=False)
    implementation = model.config._attn_implementation
    assert reference_generate(model, PROMPT, FullKV(), 40) == want[0, 7:].tolist()
    assert reference_generate(model, PROMPT, RPC(interval=64, window=8), 40) == want[0, 7:].tolist()
    assert model.config._attn_implementation == implementation


def test_it_stops_at_an_end_token(llama: LlamaForCausalLM) -> None:
    free = reference_generate(llama, PROMPT, FullKV(), 20)
    end = free[7]
    assert reference_generate(llama, PROMPT, FullKV(), 20, eos=end) == free[: free.index(end) + 1]
    assert reference_generate(llama, PROMPT, FullKV(), 20, eos=[end, 9999]) == free[: free.index(end) + 1]


@pytest.mark.parametrize("policy", POLICIES, ids=Policy.spec)
def test_it_holds_what_the_schedule_says(policy: Policy, llama: LlamaForCausalLM) -> None:
    new = 40
    run = reference_run(llama, PROMPT, policy, new)
    assert len(run.tokens) == new
    computed = new - 1  # the last token's keys are never needed
    assert run.evicted == policy.schedule.evicted(computed) > 0
    for heads in run.positions.values():
        for held in heads:
            assert len(held) == policy.schedule.physical(computed)
            assert held == sorted(set(held))
            assert held[-policy.schedule.window :] == list(range(computed - policy.schedule.window, computed))


@pytest.mark.parametrize("policy", POLICIES, ids=Policy.spec)
def test_sliding_layers_are_left_alone(policy: Policy, gpt_oss: GptOssForCausalLM) -> None:
    run = reference_run(gpt_oss, PROMPT, policy, 24)
    assert list(run.positions) == [1]
    assert run.evicted == policy.schedule.evicted(23) > 0


def test_eviction_is_felt(llama: LlamaForCausalLM) -> None:
    """The random model's tokens depend on its past; otherwise equal tokens would prove nothing."""
    full = reference_generate(llama, PROMPT, FullKV(), 40)
    assert sum(reference_generate(llama, PROMPT, policy, 40) != full for policy in POLICIES) >= 8


def test_policies_keep_what_they_are_named_for(llama: LlamaForCausalLM) -> None:
    run = reference_run(llama, PROMPT, StreamingLLM(budget=10, buffer=2, sinks=3), 40)
    for heads in run.positions.values():
        assert all(held[:3] == [0, 1, 2] for held in heads)
    even = reference_run(llama, PROMPT, Oracle(lambda ids: ids % 2 == 0, interval=12, ratio=3, window=4), 17)
    best = sorted(range(12), key=lambda i: (even.tokens[i] % 2 == 0, i))[-4:]
    assert best != [8, 9, 10, 11]
    for heads in even.positions.values():
        assert heads == [[*sorted(best), 12, 13, 14, 15]] * 2
    one, other = (reference_run(llama, PROMPT, Random(12, 3, 4), 40, row=r) for r in (0, 1))
    assert one.positions != other.positions
    assert one.positions[0] != one.positions[1]  # each layer draws its own


def test_a_masked_forward_pass_says_the_same(llama: LlamaForCausalLM) -> None:
    """All tokens at once, no cache, evicted tokens masked from the queries that came later: the same choices.

    StreamingLLM, because it keeps the same tokens in every layer, so that one mask tells it.
    """
    tokens = reference_generate(llama, PROMPT, StreamingLLM(budget=10, buffer=2, sinks=3), 40)
    P = PROMPT.shape[1]
    everything = torch.cat([PROMPT, torch.tensor([tokens[:-1]])], dim=1)
    T = everything.shape[1]
    sees = torch.zeros(T, T, dtype=torch.bool)
    sees[:P, :P] = torch.ones(P, P).tril().bool()
    held: list[int] = []
    for t in range(T - P):
        held.append(t)
        sees[P + t, :P] = True
        sees[P + t, [P + i for i in held]] = True
        if len(held) == 12:
            held = held[:3] + held[-7:]
    bias = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]
    before = llama.config._attn_implementation
    llama.set_attn_implementation("eager")
    with torch.no_grad():
        logits = llama(everything, attention_mask=bias, use_cache=False).logits
    llama.set_attn_implementation(before)
    assert logits[0, P - 1 :].argmax(-1).tolist() == tokens
