"""What comes back from vLLM, without vLLM's types. Needs no vLLM."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from laconic.engines.vllm.engine.messages import RequestOutput, mean_logprob


@pytest.mark.parametrize(
    ("logprobs", "candidates", "want"),
    [
        ([-1.0, -3.0], 2, -2.0),
        ([-7.0, -1.0, -3.0], 2, -2.0),  # the token that was drawn comes first, and is none of the likeliest
        ([-1.0, -math.inf], 2, -1.0),  # banned
        ([-math.inf], 1, 0.0),
    ],
)
def test_the_mean_is_over_the_likeliest_candidates(logprobs: list[float], candidates: int, want: float) -> None:
    entries = {token: SimpleNamespace(logprob=value) for token, value in enumerate(logprobs)}
    assert mean_logprob(entries, candidates) == want


def test_an_output_carries_what_is_new() -> None:
    entries = [{3: SimpleNamespace(logprob=-0.5)}, {4: SimpleNamespace(logprob=-1.5)}]
    one = SimpleNamespace(token_ids=[3, 4], logprobs=entries, finish_reason="stop")
    found = RequestOutput.of("a", SimpleNamespace(outputs=[one], num_cached_tokens=16), candidates=1)
    assert found == RequestOutput("a", (3, 4), (-0.5, -1.5), 16, "stop")
    plain = SimpleNamespace(token_ids=[5], logprobs=None, finish_reason=None)
    found = RequestOutput.of("a", SimpleNamespace(outputs=[plain], num_cached_tokens=None), candidates=0)
    assert found == RequestOutput("a", (5,), (), 0, None)
