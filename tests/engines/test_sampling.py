"""Draws without a generator's state: the distribution, the filters, and what a draw may depend on."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from laconic.engines.base import Sampling
from laconic.engines.sampling import NONE, confidence, draw, mix64, token_logprobs, trace_key, uniform

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -3.0]])


def warped(logits, sampling):
    """The probabilities that transformers' own warpers leave."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return scores.softmax(-1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_p=1.0),
        Sampling(temperature=0.5, top_p=1.0),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=1.5, top_p=1.0, top_k=3),
        Sampling(temperature=1.0, top_p=0.7, top_k=4),
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers_warpers(sampling):
    n = 20_000
    uniforms = [(i + 0.5) / n for i in range(n)]  # a fine grid: counts are exact to 1 / n
    picked = draw(LOGITS.expand(n, -1), [sampling] * n, uniforms)
    counts = torch.bincount(picked, minlength=6) / n
    assert torch.allclose(counts, warped(LOGITS, sampling)[0].float(), atol=2e-4)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_large_vocabularies_draw_as_a_whole_sort_would(top_p, monkeypatch):
    """Rows whose nucleus lies in the ranked few, and rows flat enough to need the whole vocabulary, in one batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 1000, generator=generator) * torch.linspace(0.1, 9, 40)[:, None]
    uniforms = torch.rand(40, generator=generator, dtype=torch.double).tolist()
    sampling = [Sampling(temperature=1.0, top_p=top_p)] * 40
    ours = draw(logits, sampling, uniforms)
    alone = torch.cat([draw(logits[i : i + 1], sampling[:1], uniforms[i : i + 1]) for i in range(40)])
    assert torch.equal(ours, alone)
    monkeypatch.setattr("laconic.engines.sampling.RANKED", 1000)
    assert torch.equal(ours, draw(logits, sampling, uniforms))


def test_greedy_and_mixed_batches():
    greedy, warm = Sampling(temperature=0), Sampling(temperature=1.0, top_p=1.0)
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    mixed = draw(logits, [greedy, warm, greedy, warm], [0.3] * 4)
    assert mixed[0] == logits[0].argmax()
    assert mixed[2] == logits[2].argmax()
    assert mixed[1] == draw(logits[1:2], [warm], [0.3])[0]
    assert mixed[3] == draw(logits[3:], [warm], [0.3])[0]


def test_the_ends_of_the_interval():
    warm = Sampling(temperature=1.0, top_p=0.5)
    assert draw(LOGITS, [warm], [0.0])[0] == 0
    assert draw(LOGITS, [warm], [1 - 2**-53])[0] in (0, 1)
    sure = torch.tensor([[0.0, 200.0, 0.0]])
    assert draw(sure, [Sampling(temperature=1.0)], [0.999999])[0] == 1


def test_uniforms_are_uniform_and_independent_over_position_trace_and_seed():
    def sample(make):
        return torch.tensor([make(i) for i in range(20_000)], dtype=torch.double)

    by_position = sample(lambda i: uniform(trace_key(0, 0), i))
    by_trace = sample(lambda i: uniform(trace_key(0, i), 0))
    by_seed = sample(lambda i: uniform(trace_key(i, 0), 0))
    for values in (by_position, by_trace, by_seed):
        assert 0 <= values.min() < values.max() < 1
        assert abs(values.mean() - 0.5) < 0.01
        assert abs(values.var() - 1 / 12) < 0.003
        assert abs(torch.corrcoef(torch.stack((values[:-1], values[1:])))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack((by_position, by_trace)))[0, 1]) < 0.03


def test_mix64_is_splitmix64():
    """The first outputs of splitmix64 from state 0, as published with the generator."""
    state, outputs = 0, []
    for _ in range(3):
        outputs.append(mix64(state))
        state = (state + 0x9E3779B97F4A7C15) & (2**64 - 1)
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_confidence():
    want = LOGITS.log_softmax(-1)[0, :3].mean()
    assert torch.allclose(confidence(LOGITS, 3), -want[None])
    assert torch.allclose(confidence(LOGITS, 99), -LOGITS.log_softmax(-1).mean()[None])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=1.0, top_p=1.0),
        Sampling(temperature=0.6, top_p=0.95),
        Sampling(temperature=0.6, top_p=0.95, top_k=2),
    ],
    ids=str,
)
def test_rows_without_a_distribution_draw_none_and_leave_the_others(sampling, dtype):
    good = [0.5, 2.0, -1.0, 0.0]
    rows = [good, [NAN, 1.0, 2.0, 0.0], [1.0, INF, 0.0, 0.0], [-INF] * 4, [NAN] * 4, [-INF, 3.0, -INF, -INF], good]
    picked = draw(torch.tensor(rows, dtype=dtype), [sampling] * 7, [0.4] * 7).tolist()
    alone = draw(torch.tensor([good], dtype=dtype), [sampling], [0.4]).tolist()
    # A banned token (-inf) is no fault as long as one is left.
    assert picked == [*alone, NONE, NONE, NONE, NONE, 1, *alone]
    mixed = draw(
        torch.tensor(rows[:4], dtype=dtype), [sampling, Sampling(temperature=0), sampling, sampling], [0.4] * 4
    )
    assert mixed.tolist() == [*alone, NONE, NONE, NONE]


def test_a_vocabulary_that_is_ranked_in_part_draws_none_too():
    logits = torch.zeros(3, 1000)
    logits[1, 999] = NAN
    picked = draw(logits, [Sampling(temperature=1.0, top_p=0.9)] * 3, [0.5] * 3).tolist()
    assert picked[1] == NONE
    assert picked[0] == picked[2] >= 0


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-37, 9e-31, 1e-30, 1e-20, 1e-5])
def test_a_tiny_temperature_is_greedy(temperature):
    sampling = Sampling(temperature=temperature, top_p=1.0)
    assert (sampling.temperature == 0) == (temperature < 1e-30)
    logits = torch.tensor([[-60000.0, 3.0, 60000.0, 2.0]])
    for at in (0.0, 0.5, 0.999999):
        assert draw(logits, [sampling], [at]).tolist() == [2]


def test_banned_tokens_are_no_candidates_of_a_confidence():
    logits = torch.tensor([[1.0, -INF, 0.0, -INF], [1.0, 2.0, 0.0, -1.0]])
    want = torch.tensor([1.0, 0.0]).log_softmax(-1).mean()
    assert confidence(logits, 3)[0] == pytest.approx(-float(want))
    assert confidence(logits, 3)[1] == confidence(logits[1:], 3)[0]


def test_logprobs_are_the_models_own_without_banned_tokens():
    logits = torch.tensor([[1.0, -INF, 0.0, -INF], [1.0, 2.0, 0.0, -1.0]])
    first, second = token_logprobs(logits, [2, 3], 3)
    own = logits.log_softmax(-1)
    assert first.logprob == pytest.approx(float(own[0, 2]))
    assert [token for token, _ in first.top] == [0, 2]
    assert second.logprob == pytest.approx(float(own[1, 3]))
    assert [token for token, _ in second.top] == [1, 0, 2]
    assert [value for _, value in second.top] == pytest.approx([float(own[1, i]) for i in (1, 0, 2)])
    assert [one.top for one in token_logprobs(logits, [0, 0], 0)] == [(), ()]
    assert [len(one.top) for one in token_logprobs(logits, [0, 0], 99)] == [2, 4]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -2}, "top_k is -2"),
        ({"confidence_top_k": -1}, "confidence_top_k is -1"),
        ({"logprobs": -1}, "logprobs is -1"),
    ],
)
def test_bad_sampling(settings, says):
    with pytest.raises(ValueError, match=says):
        Sampling(**settings)
