"""Recorded traces fed as they stand: rows together are what each is alone, pieces are what single steps are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from laconic.compress import H2O, RPC, TOVA, FullKV, Policy, Random
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.forced import ForcedTraces, check_traces
from laconic.errors import LaconicError
from tests.engines.hf.families import COMMON, VOCAB, family, prompts

POLICIES = [
    FullKV(),
    RPC(interval=16, ratio=4, window=8),
    RPC(interval=16, ratio=2, window=8, aggregation="group"),
    Random(interval=16, ratio=4, window=8),
    H2O(budget=24, buffer=8),
    TOVA(budget=24),
]
LENGTHS = [50, 33, 61, 50]


def traces() -> tuple[list[list[int]], list[list[int]]]:
    asked = prompts([12, 3, 9])
    return [asked[0], asked[0], *asked[1:]], prompts(LENGTHS, seed=11)  # two traces of one prompt


def logits_of(name: str, policy: Policy, rows: list[int], most: int | None = None) -> list[Tensor]:
    """[K + 1, V] of each row, the prompt's first."""
    asked, tokens = traces()
    with AttentionBinding(family(name)):
        forced = ForcedTraces(family(name), [asked[i] for i in rows], [tokens[i] for i in rows], rows)
        found = [forced.logits[:, None]]
        forced = forced.under(policy)
        while forced.fed < forced.longest:
            found.append(forced.feed_for_logits(forced.piece(forced.longest, most)))
    whole = torch.cat(found, dim=1)
    return [whole[i, : LENGTHS[row] + 1] for i, row in enumerate(rows)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.spec())
@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek-v3", "falcon-h1"])
def test_rows_together_in_pieces_are_rows_alone_in_single_steps(name: str, policy: Policy) -> None:
    together = logits_of(name, policy, [0, 1, 2, 3])
    for row in range(4):
        (alone,) = logits_of(name, policy, [row], most=1)
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


def test_full_kv_is_the_plain_model() -> None:
    asked, tokens = traces()
    for row, ours in enumerate(logits_of("qwen2", FullKV(), [0, 1, 2, 3])):
        plain = family("qwen2")(torch.tensor([asked[row] + tokens[row]])).logits[0, len(asked[row]) - 1 :]
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_policies_share_the_prompts_and_nothing_else() -> None:
    asked, tokens = traces()
    with AttentionBinding(family("llama")):
        forced = ForcedTraces(family("llama"), asked, tokens)
        some, others = forced.under(POLICIES[1]), forced.under(POLICIES[3])
        for one, end in ((some, 12), (others, 20), (some, 20)):
            one.feed(one.piece(end))
        assert (some.fed, others.fed, forced.fed) == (20, 20, 0)
        assert some.cache.ledger.rows[0].generated == 20
        assert forced.cache.ledger.rows[0].generated == 0
        assert forced.cache.ledger.length == 12
        with pytest.raises(RuntimeError, match="only as long as it holds nothing but prompts"):
            some.under(POLICIES[1])


def test_pieces_end_at_compression_points() -> None:
    asked, tokens = traces()
    with AttentionBinding(family("llama")):
        forced = ForcedTraces(family("llama"), asked, tokens).under(POLICIES[1])
        pieces = []
        while forced.fed < forced.longest:
            pieces.append(forced.piece(forced.longest, 10))
            forced.feed(pieces[-1])
    assert pieces == [10, 10, 4, 10, 6, 10, 6, 5]
    assert [row.held for row in forced.cache.ledger.rows] == [8 + 12 + 5] * 4


def test_a_rotation_that_changes_on_the_way_is_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = LlamaForCausalLM(LlamaConfig(**{**COMMON, "max_position_embeddings": 64}, rope_parameters=rope))
    check_traces(model, [[1] * 20], [[2] * 44])
    with pytest.raises(LaconicError, match="changes its rotary frequencies at 64 tokens"):
        check_traces(model, [[1] * 20], [[2] * 45])


@pytest.mark.parametrize(
    ("asked", "tokens", "says"),
    [
        ([], [], "0 prompts and 0 traces"),
        ([[1]], [[1], [2]], "1 prompts and 2 traces"),
        ([[1], []], [[1], [2]], "the prompt is empty"),
        ([[1], [1]], [[1], []], "trace 1 has no generated tokens"),
        ([[1], [VOCAB]], [[1], [2]], "a token id of the prompt is outside"),
        ([[1], [2]], [[1], [VOCAB]], "a token id of a trace is outside"),
        ([[1], [2]], [[1], "ab"], r"tokens\[1\]"),
        ([[1]], [[1] * 1024], "trace 0 has 1025 tokens with its prompt, but the model's context is 1024"),
    ],
)
def test_bad_input_is_one_sentence(asked: list, tokens: list, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        ForcedTraces(family("llama"), asked, tokens)
