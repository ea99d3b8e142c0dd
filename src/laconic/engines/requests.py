"""What is wrong with a request, and what its traces are called: the same in every engine."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from laconic import checks
from laconic.compress import Policy
from laconic.engines.base import Sampling
from laconic.errors import InputError
from laconic.traces import MAX_TOKEN_ID

MAX_TRACES_PER_PROMPT = 65536


def check_request(sampling: Sampling, n: int) -> int:
    """How many traces are asked for. Raises InputError for another number, or another record than a Sampling."""
    checks.instance("sampling", sampling, Sampling, "a Sampling, such as Sampling(temperature=0)")
    return checks.whole("n", n, 1, MAX_TRACES_PER_PROMPT, "traces")


def check_settings(max_batch: int, chunk_tokens: int) -> tuple[int, int]:
    """Both, checked."""
    return (
        checks.whole("max_batch", max_batch, 1, meaning="rows"),
        checks.whole("chunk_tokens", chunk_tokens, 1, meaning="tokens"),
    )


def check_policy(policy: Any, needed: bool = False) -> None:
    """InputError for what is no policy; None is one (full KV) unless one is needed."""
    if needed or policy is not None:
        check_looks_back(
            checks.instance("policy", policy, Policy, "one of laconic's policies, for example laconic.RPC()")
        )


def check_looks_back(policy: Policy) -> None:
    """InputError for a policy that has to know what will be generated."""
    if policy.scorer is not None and policy.scorer.reads_future:
        raise InputError(
            f"policy {policy.name} reads what later tokens will attend to, which only a recorded trace tells: use it in "
            "`laconic bench fidelity`"
        )


def check_goes_by_counts(policy: Policy, whose: str) -> None:
    """InputError for a policy that goes by a trace's tokens and feeds some of its own, where only counts are known. whose: what
    would run it."""
    if policy.schedule.reads_tokens:
        raise InputError(
            f"policy {policy.name} goes by the tokens that a trace draws and feeds some of its own, which {whose} can't: use "
            "the hf engine, as in laconic think, solve and bench accuracy"
        )


def check_tokenizer(tokenizer: Any) -> None:
    """InputError for what can't turn texts into tokens and back; None is none."""
    if tokenizer is not None:
        checks.capable("tokenizer", tokenizer, ("__call__", "decode"), "a transformers tokenizer, or None")


def check_ids(tokens: Sequence[int], name: str = "prompt") -> tuple[int, ...]:
    """Token ids of any sequence, array or tensor of whole numbers. What a vocabulary holds: `check_vocabulary`."""
    return tuple(checks.wholes(name, tokens, 0, MAX_TOKEN_ID, "token ids, or a text"))


def check_length(length: int, context: int | None) -> None:
    """InputError unless a prompt of `length` tokens leaves room in the context for one more."""
    if length < 1:
        raise InputError("the prompt is empty: give at least one token")
    if context is not None and length >= context:
        raise InputError(f"the prompt has {length} tokens, but the model's context is {context}: shorten the prompt")


def check_vocabulary(tokens: Sequence[int], vocabulary: int, whose: str = "the prompt") -> None:
    if not 0 <= min(tokens) <= max(tokens) < vocabulary:
        raise InputError(f"a token id of {whose} is outside the model's vocabulary, 0 to {vocabulary - 1}")


def name_traces(n: int, ids: Sequence[str] | None, prompts: int, taken: Container[str]) -> list[str]:
    """The names of a prompt's n traces: `ids`, or names made of how many prompts came before. Raises InputError for names
    that are too few, alike or in use."""
    names = (
        checks.texts("ids", ids, "a name for each trace") if ids is not None else [f"p{prompts}-{i}" for i in range(n)]
    )
    if len(names) != n or len(set(names)) != n:
        raise InputError(f"ids has {len(names)} names ({len(set(names))} different); expected {n} different ones")
    for name in names:
        if name in taken:
            raise InputError(f"trace id {name!r} is in use: choose another, or forget the old trace first")
    return names
