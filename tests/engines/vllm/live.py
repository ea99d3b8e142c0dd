"""What the live tests share: requests with settings of their own, the reference's tokens, and preemptions on demand.

Imports vLLM only when called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from laconic.compress import Policy
from laconic.compress.registry import parse
from tests.engines.vllm.tiny import LEAST_VOCAB, SPECIAL, scheduler_of
from tests.reference.generation import reference_run

RPC = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
"""A launch's settings under which a few hundred tokens see several compressions."""


LEAST_DECIDED = 0.6
"""The share of compared tokens that must not hang on rounding: below it a test would compare too little."""


def prompts_of(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    """Random prompts without special tokens, one of each length."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randint(len(SPECIAL), LEAST_VOCAB, (n,), generator=made).tolist() for n in lengths]


def greedy(count: int, laconic: Any = None, **more: Any) -> Any:
    """SamplingParams of a greedy request of exactly `count` tokens. laconic: its own settings; None: the launch's."""
    from vllm import SamplingParams

    extra = None if laconic is None else {"laconic": laconic}
    return SamplingParams(**{"temperature": 0.0, "max_tokens": count, "ignore_eos": True, "extra_args": extra, **more})


def generate(llm: Any, asked: Sequence[tuple[Sequence[int], Any]]) -> list[list[int]]:
    """Tokens of (prompt, SamplingParams), all of them sent at once."""
    sent = [{"prompt_token_ids": list(prompt)} for prompt, _ in asked]
    outs = llm.generate(sent, [params for _, params in asked], use_tqdm=False)
    return [list(out.outputs[0].token_ids) for out in outs]


class Text(list[int]):
    """Tokens of the reference, of which the first `sure` are decided by more than rounding (`Run.sure`). Slices know theirs."""

    def __init__(self, tokens: Iterable[int], sure: int) -> None:
        super().__init__(tokens)
        self.sure = min(sure, len(self))

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, slice):
            return super().__getitem__(at)
        start = at.indices(len(self))[0]
        return Text(super().__getitem__(at), max(0, self.sure - start))


class Reference:
    """Greedy tokens of the slow reference; a shorter text is the beginning of a longer one, so each is made once."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self._made: dict[tuple[tuple[int, ...], Policy], Text] = {}

    def __call__(self, prompt: Sequence[int], policy: Policy | str, count: int) -> Text:
        policy = parse(policy) if isinstance(policy, str) else policy
        key = tuple(prompt), policy
        if len(self._made.get(key, ())) < count:
            run = reference_run(self.model, torch.tensor([list(prompt)]), policy, count)
            self._made[key] = Text(run.tokens, run.sure)
        text: Text = self._made[key][:count]
        return text


reference_of = cache(Reference)


def policy_of(laconic: dict[str, Any]) -> Policy:
    """The policy that settings mean, by compress's own registry."""
    own = {k: v for k, v in laconic.items() if k not in ("policy", "prompt_tokens", "queries")}
    return parse("full" if laconic["policy"] == "none" else laconic["policy"], **own)


class Preemptions:
    """Counts an engine's preemptions from now on."""

    def __init__(self, llm: Any) -> None:
        scheduler = scheduler_of(llm)
        self.count, self._stock = 0, scheduler._preempt_request
        scheduler._preempt_request = self._counted

    def _counted(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._stock(*args, **kwargs)


def first_difference(got: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where two texts part; None: they are one. For messages of tests."""
    if list(got) == list(wanted):
        return None
    return next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))


def assert_same(got: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], names: Sequence[object] = ()) -> None:
    """Each text equals its counterpart, of the reference's as far as float32 decides it; the message says which parts where."""
    assert len(got) == len(wanted)
    names = list(names) or list(range(len(got)))
    parted = {}
    for name, g, w in zip(names, got, wanted, strict=True):
        sure = w.sure if isinstance(w, Text) else len(w)
        if len(g) != len(w) or list(g[:sure]) != list(w[:sure]):
            parted[str(name)] = first_difference(g, w)
    assert not parted, f"texts that differ, and from which token on: {parted}"
    decided = sum(w.sure if isinstance(w, Text) else len(w) for w in wanted)
    assert decided >= LEAST_DECIDED * sum(map(len, wanted)), (
        f"rounding decides most of these texts: {decided} tokens are sure"
    )


def compressor_of(llm: Any) -> Any:
    """The compressor of the one worker of an engine that lives in this process."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.compressor


def drain(llm: Any) -> None:
    """Steps until the worker too has heard who is finished."""
    core = llm.llm_engine.engine_core
    while scheduler_of(llm).has_requests():
        core.get_output()
