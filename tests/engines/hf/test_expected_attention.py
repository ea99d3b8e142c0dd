"""The policy `expectedattention` on transformers: against the slow reference, in ragged batches, and refused."""

from __future__ import annotations

import pytest
import torch

from laconic.compress import ExpectedAttention
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, compress
from laconic.engines.hf.facts import fit
from laconic.errors import LaconicError
from tests.engines.hf.families import family, padded, prompts
from tests.reference.generation import reference_generate

POLICIES = [
    ExpectedAttention(interval=16, ratio=4, window=8, queries=12, future=6),
    ExpectedAttention(interval=16, ratio=2, window=8, queries=5, future=20, aggregation="layer"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=ExpectedAttention.spec)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_tokens_are_those_of_the_slow_reference(name: str, policy: ExpectedAttention) -> None:
    model = family(name)
    rows = prompts([12, 3])
    inputs = padded(rows)
    with compress(model, policy) as run:
        ours = model.generate(**inputs, max_new_tokens=90, do_sample=False)
    assert run.stats.evicted > 0
    assert not torch.equal(ours, model.generate(**inputs, max_new_tokens=90, do_sample=False))
    for i, row in enumerate(rows):
        want = reference_generate(model, torch.tensor([row]), fit(policy, model), 90, row=i)
        assert ours[i, inputs["input_ids"].shape[1] :].tolist() == want


@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_rows_that_join_and_leave_at_other_counts_change_nothing(name: str) -> None:
    policy, rows, lengths = POLICIES[0], prompts([12, 3, 9, 17, 30], seed=5), [70, 41, 90, 25, 66]
    samplings = [Sampling(max_new_tokens=n, temperature=0) for n in lengths]
    engine = HFEngine(family(name), None, policy, max_batch=3)
    ids = [engine.submit(row, sampling)[0] for row, sampling in zip(rows, samplings, strict=True)]
    for _ in engine.stream():
        pass
    for i, row, sampling in zip(ids, rows, samplings, strict=True):
        (alone,) = HFEngine(family(name), None, policy).generate([row], sampling)[0]
        assert engine.trace(i).token_ids == alone.token_ids


def test_a_model_without_rope_is_refused_before_anything_runs() -> None:
    for start in (
        lambda: HFEngine(family("deepseek-v3"), None, POLICIES[0]),
        lambda: compress(family("zamba2"), POLICIES[0]),
    ):
        with pytest.raises(
            LaconicError, match=r"this model's RoPE can't be told, which the policy undoes \(none: keys do not"
        ):
            start()
