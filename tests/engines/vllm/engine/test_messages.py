"""What comes back from vLLM, without vLLM's types. Needs no vLLM."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from laconic.engines.base import TokenLogprobs
from laconic.engines.vllm.engine.messages import Request, RequestOutput, confidence_of, logprobs_of


@pytest.mark.parametrize(
    ("logprobs", "candidates", "want"),
    [
        ([-1.0, -3.0], 2, 2.0),
        ([-7.0, -1.0, -3.0], 2, 2.0),  # the token that was drawn comes first, and is none of the likeliest
        ([-1.0, -math.inf], 2, 1.0),  # banned
        ([-math.inf], 1, 0.0),
    ],
)
def test_a_confidence_is_over_the_likeliest_candidates(logprobs: list[float], candidates: int, want: float) -> None:
    entries = {token: SimpleNamespace(logprob=value) for token, value in enumerate(logprobs)}
    assert confidence_of(entries, candidates) == want


def test_an_output_carries_what_is_new() -> None:
    entries = [{3: SimpleNamespace(logprob=-0.5)}, {4: SimpleNamespace(logprob=-1.5)}]
    one = SimpleNamespace(token_ids=[3, 4], logprobs=entries, finish_reason="stop")
    asked = Request("a", (1,), 9, frozenset(), 1, 1, {})
    found = RequestOutput.of(asked, SimpleNamespace(outputs=[one], num_cached_tokens=16))
    logprobs = (TokenLogprobs(-0.5, ((3, -0.5),)), TokenLogprobs(-1.5, ((4, -1.5),)))
    assert found == RequestOutput("a", (3, 4), (0.5, 1.5), logprobs, 16, "stop")
    plain = SimpleNamespace(token_ids=[5], logprobs=None, finish_reason=None)
    asked = Request("a", (1,), 9, frozenset(), 0, None, {})
    assert not asked.asks_logprobs
    found = RequestOutput.of(asked, SimpleNamespace(outputs=[plain], num_cached_tokens=None))
    assert found == RequestOutput("a", (5,), (), (), 0, None)


def test_logprobs_of_a_token_that_is_none_of_the_likeliest() -> None:
    entries = {i: SimpleNamespace(logprob=value) for i, value in enumerate([-7.0, -3.0, -1.0, -math.inf])}
    assert logprobs_of(0, entries, 2) == TokenLogprobs(-7.0, ((2, -1.0), (1, -3.0)))
    assert logprobs_of(0, entries, 0) == TokenLogprobs(-7.0)
    assert logprobs_of(0, entries, 9) == TokenLogprobs(-7.0, ((2, -1.0), (1, -3.0), (0, -7.0)))
