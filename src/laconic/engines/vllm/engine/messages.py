"""What goes to vLLM and what comes back: requests and steps' outputs, without vLLM's types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laconic.engines.base import TokenLogprobs


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
    confidence_top_k: int
    """See Sampling."""
    logprobs: int | None
    """See Sampling."""
    extra_args: dict[str, Any]
    """vLLM's field of that name: `DrawParams`, and laconic's settings of the request."""

    @property
    def asks_logprobs(self) -> bool:
        """Whether vLLM has to return any."""
        return self.confidence_top_k > 0 or self.logprobs is not None

    def sampling_params(self) -> Any:
        """vLLM's SamplingParams."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self.stop_ids),
            ignore_eos=True,  # all end tokens are among the stop tokens
            logprobs=max(self.confidence_top_k, self.logprobs or 0) if self.asks_logprobs else None,
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
    confidences: tuple[float, ...]
    """One a token; empty if not asked for."""
    logprobs: tuple[TokenLogprobs, ...]
    """One a token; empty if not asked for."""
    cached: int
    """Of the tokens sent, those whose KV vLLM had already."""
    ended: str | None
    """Why it has ended, in vLLM's word ("stop", "length", "abort", "error"); None: it goes on."""

    @classmethod
    def of(cls, request: Request, output: Any) -> RequestOutput:
        """From vLLM's RequestOutput of that request."""
        (one,) = output.outputs
        tokens, entries, k = tuple(one.token_ids), one.logprobs or (), request.confidence_top_k
        confidences = tuple(confidence_of(entry, k) for entry in entries) if k else ()
        logprobs: tuple[TokenLogprobs, ...] = ()
        if request.logprobs is not None:
            pairs = zip(tokens, entries, strict=True)
            logprobs = tuple(logprobs_of(token, entry, request.logprobs) for token, entry in pairs)
        return cls(request.id, tokens, confidences, logprobs, output.num_cached_tokens or 0, one.finish_reason)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step of vLLM brought."""

    outputs: tuple[RequestOutput, ...]
    preempted: int
    """Requests whose KV cache was given up for others."""
    seconds: float
    """What the step took."""


def confidence_of(entries: Mapping[int, Any], top_k: int) -> float:
    """Minus the mean log-probability of the likeliest tokens; the one that was drawn comes besides, where it isn't one of them.
    Banned tokens (-inf) don't count.

    entries: token id -> vLLM's Logprob.
    """
    likeliest = sorted((entry.logprob for entry in entries.values()), reverse=True)[:top_k]
    left = [logprob for logprob in likeliest if logprob != -math.inf]
    return -float(sum(left) / max(len(left), 1))


def logprobs_of(token: int, entries: Mapping[int, Any], top: int) -> TokenLogprobs:
    """Of the token that was drawn and of the likeliest `top`, without banned ones. entries: token id -> vLLM's Logprob."""
    ranked = sorted(((name, float(entry.logprob)) for name, entry in entries.items()), key=lambda one: -one[1])
    return TokenLogprobs(float(entries[token].logprob), tuple(one for one in ranked[:top] if one[1] != -math.inf))
