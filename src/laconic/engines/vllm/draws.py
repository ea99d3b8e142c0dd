"""Drawing tokens inside vLLM as every engine of laconic does: by a hash of (seed, trace, position), from the raw logits.

A custom logits processor: of a request that carries `Draw.travels()` in its `extra_args` it draws the next token itself and
leaves nothing else to choose, so the request is sent as a greedy one. A trace is then the same text on vLLM as on the HF
engine, whatever runs beside it, and one that was stopped goes on as if it had not been; floating point is the one exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from laconic.engines.base import Sampling
from laconic.engines.sampling import draw, uniform
from laconic.errors import LaconicError

KEY = "laconic_draw"
"""The key of `extra_args` that is ours."""

PROCESSORS = {False: "laconic.engines.vllm.draws:Draws", True: "laconic.engines.vllm.draws:DrawsV2"}
"""What to name in vLLM's `logits_processors`, by whether Model Runner V2 is used."""

_FIELDS = {"key": int, "at": int, "temperature": float, "top_p": float, "top_k": int}


@dataclass(frozen=True, slots=True)
class Draw:
    """How one request's tokens are drawn. key: of its trace (`sampling.trace_key`). at: tokens of the trace that were
    generated before the request, and stand in its prompt."""

    key: int
    at: int
    sampling: Sampling

    def travels(self) -> dict[str, Any]:
        """For a request's `extra_args`: plain values, which reach vLLM's other processes."""
        s = self.sampling
        own = {"key": self.key, "at": self.at, "temperature": float(s.temperature), "top_p": float(s.top_p)}
        return {KEY: {**own, "top_k": s.top_k}}

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Draw | None:
        """What a request carries; None: it draws nothing here. Raises LaconicError for a value that `travels` would not write."""
        raw = (extra_args or {}).get(KEY)
        if raw is None:
            return None
        if not isinstance(raw, Mapping) or set(raw) != set(_FIELDS):
            raise LaconicError(f"{KEY} is {raw!r}; expected a mapping of {', '.join(_FIELDS)}")
        for name, kind in _FIELDS.items():
            if isinstance(raw[name], bool) or not isinstance(raw[name], (int, kind)):
                raise LaconicError(f"{name} of {KEY} is {raw[name]!r}; expected {kind.__name__}")
        for name, most in (("key", 1 << 64), ("at", 1 << 32)):
            if not 0 <= raw[name] < most:
                raise LaconicError(f"{name} of {KEY} is {raw[name]}; expected 0 to {most - 1}")
        sampling = Sampling(temperature=raw["temperature"], top_p=raw["top_p"], top_k=raw["top_k"])
        return cls(raw["key"], raw["at"], sampling)


def leave_drawn(logits: Tensor, rows: Sequence[int], draws: Sequence[Draw], positions: Sequence[int]) -> None:
    """Of each of `rows` of logits [B, V], leave only the token that its draw picks. In place.

    positions: how many tokens each row's request has generated so far.
    """
    index = torch.tensor(rows, device=logits.device)
    uniforms = [uniform(one.key, one.at + position) for one, position in zip(draws, positions, strict=True)]
    picked = draw(logits[index], [one.sampling for one in draws], uniforms)
    logits[index] = -torch.inf
    logits[index, picked] = 0.0


def _check(params: Any) -> None:
    if Draw.of(params.extra_args) is not None and params.temperature != 0:
        raise LaconicError(f"temperature is {params.temperature} beside {KEY}; expected 0, as the drawing is done there")


class Draws(LogitsProcessor):
    """For Model Runner V1. Rows are the persistent batch's."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[Draw, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        _check(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, _entry)

    def apply(self, logits: Tensor) -> Tensor:
        rows = sorted(self._rows)
        if rows:
            draws, generated = zip(*(self._rows[row] for row in rows), strict=True)
            leave_drawn(logits, rows, draws, [len(tokens) for tokens in generated])
        return logits


def _entry(params: Any, prompt: list[int] | None, generated: list[int]) -> tuple[Draw, list[int]] | None:
    # `generated` is the request's own list, which grows as it goes on.
    one = Draw.of(params.extra_args)
    return None if one is None else (one, generated)


class DrawsV2(LogitsProcessorV2):
    """For Model Runner V2. Rows change at every step; what a request needs is kept by its slot."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._states = req_states
        self._slots: dict[int, tuple[Draw, int]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        _check(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        one = Draw.of(sampling_params.extra_args)
        self._slots.pop(req_idx, None)
        if one is None:
            return False
        self._slots[req_idx] = (one, int(self._states.prompt_len.np[req_idx]))
        return True

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        slots = ctx.idx_mapping_np.tolist()
        if len(slots) != logits.shape[0]:
            raise LaconicError("laconic's draws need one row of logits a request: use vLLM without speculative decoding")
        rows = [row for row, slot in enumerate(slots) if slot in self._slots]
        if rows:
            draws, prompts = zip(*(self._slots[slots[row]] for row in rows), strict=True)
            lengths = ctx.seq_lens_upper_bound_np
            # Below 0 while a prompt is computed in pieces: what is drawn then is thrown away.
            generated = [max(0, int(lengths[row]) - prompt) for row, prompt in zip(rows, prompts, strict=True)]
            leave_drawn(logits, rows, draws, generated)
        return logits
