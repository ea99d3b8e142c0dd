"""What goes to vLLM and what comes back: requests and steps' outputs, without vLLM's types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request of vLLM's. It is sent as a greedy one: tokens that aren't are drawn by `logits_processors`."""

    id: str
    tokens: tuple[int, ...]
    """What is sent: the prompt, and tokens generated before."""
    max_tokens: int
    """Tokens to generate, at most."""
    stop_ids: frozenset[int]
    """Tokens that end it, the model's end tokens among them."""
    logprobs: int
    """Of each token, how many of the likeliest candidates' log-probabilities are averaged; 0: none."""
    extra_args: dict[str, Any]
    """vLLM's field of that name: `DrawParams`, and laconic's settings of the request."""

    def sampling_params(self) -> Any:
        """vLLM's SamplingParams."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self.stop_ids),
            ignore_eos=True,  # all end tokens are among the stop tokens
            logprobs=self.logprobs or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=self.extra_args or None,
        )


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What a step brought one request."""

    id: str
    tokens: tuple[int, ...]
    """Newly generated ones."""
    logprobs: tuple[float, ...]
    """Mean log-probability of the likeliest candidates, a token each; empty if not asked for."""
    cached: int
    """Of the tokens sent, those whose KV vLLM had already."""
    ended: str | None
    """Why it has ended, in vLLM's word ("stop", "length", "abort", "error"); None: it goes on."""

    @classmethod
    def of(cls, name: str, output: Any, candidates: int) -> RequestOutput:
        """From vLLM's RequestOutput. candidates: `Request.logprobs`."""
        (one,) = output.outputs
        means = tuple(mean_logprob(entries, candidates) for entries in one.logprobs or ())
        return cls(name, tuple(one.token_ids), means, output.num_cached_tokens or 0, one.finish_reason)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step of vLLM brought."""

    outputs: tuple[RequestOutput, ...]
    preempted: int
    """Requests whose KV cache was given up for others."""
    seconds: float
    """What the step took."""


def mean_logprob(entries: Mapping[int, Any], candidates: int) -> float:
    """Mean log-probability of the likeliest candidates; the token that was drawn comes besides, where it isn't one of them.
    Banned tokens (-inf) are no candidates.

    entries: token id -> vLLM's Logprob.
    """
    likeliest = sorted((entry.logprob for entry in entries.values()), reverse=True)[:candidates]
    left = [logprob for logprob in likeliest if logprob != -math.inf]
    return float(sum(left) / max(len(left), 1))
