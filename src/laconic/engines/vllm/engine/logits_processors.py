"""Drawing tokens inside vLLM as every engine of laconic does: by a hash of (seed, trace, position), from the raw logits.

A custom logits processor: of a request that carries a `DrawParams` it draws the next token itself and
leaves nothing else to choose, so the request is sent as a greedy one. A trace is then the same text on vLLM as on the HF
engine, whatever runs beside it, and one that was stopped goes on as if it had not been; floating point is the one exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from laconic.engines.sampling import NONE, draw, uniform
from laconic.engines.vllm.engine.draw_params import KEY, DrawParams
from laconic.errors import InputError

PROCESSORS = {
    False: "laconic.engines.vllm.engine.logits_processors:DrawLogitsProcessor",
    True: "laconic.engines.vllm.engine.logits_processors:DrawLogitsProcessorV2",
}
"""What to name in vLLM's `logits_processors`, by whether Model Runner V2 is used."""


class DistributionCheck:
    """Refuses logits that give no distribution (NaN or infinite): LaconicError, which ends the engine with that sentence.

    vLLM has no way to end a single request from here, and any token would pass for the model's. On a GPU a step's rows are
    looked at in the next one, when they have been computed, so that nothing waits; a request's last token goes unchecked.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def look_at(self, picked: Tensor) -> None:
        """picked: long [rows], as `draw` returns it."""
        seen, self._last = (picked, None) if picked.device.type == "cpu" else (self._last, picked)
        if seen is not None and bool((seen == NONE).any()):
            raise InputError(
                "the model gave no probabilities for a request's next token: its logits are NaN or infinite, as from damaged "
                "weights or from float16 that overflows (bfloat16 and float32 don't)"
            )


def leave_only_drawn(
    logits: Tensor,
    rows: Sequence[int],
    draw_params: Sequence[DrawParams],
    positions: Sequence[int],
    check: DistributionCheck,
) -> None:
    """Of each of `rows` of logits [B, V], leave only the token that its draw_params pick. In place.

    positions: how many tokens each row's request has generated so far. Raises InputError as `check` does.
    """
    index = torch.tensor(rows, device=logits.device)
    uniforms = [uniform(one.key, one.at + position) for one, position in zip(draw_params, positions, strict=True)]
    picked = draw(logits[index], [one.sampling for one in draw_params], uniforms)
    check.look_at(picked)
    logits[index] = -torch.inf
    logits[index, picked.clamp(min=0)] = 0.0


def _check_params(params: Any) -> None:
    if DrawParams.from_extra_args(params.extra_args) is not None and params.temperature != 0:
        raise InputError(f"temperature is {params.temperature} beside {KEY}; expected 0, as the drawing is done there")


class DrawLogitsProcessor(LogitsProcessor):
    """For Model Runner V1."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        # By row of the persistent batch; the list is the request's own, of its generated tokens, and grows as it goes on.
        self._rows: dict[int, tuple[DrawParams, list[int]]] = {}
        self._distribution_check = DistributionCheck()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        _check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, _entry)

    def apply(self, logits: Tensor) -> Tensor:
        rows = sorted(self._rows)
        if rows:
            draw_params, generated = zip(*(self._rows[row] for row in rows), strict=True)
            leave_only_drawn(logits, rows, draw_params, [len(tokens) for tokens in generated], self._distribution_check)
        return logits


def _entry(params: Any, prompt: list[int] | None, generated: list[int]) -> tuple[DrawParams, list[int]] | None:
    one = DrawParams.from_extra_args(params.extra_args)
    return None if one is None else (one, generated)


class DrawLogitsProcessorV2(LogitsProcessorV2):
    """For Model Runner V2. Rows change at every step; what a request needs is kept by its slot."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._states = req_states
        # By the slot of the request in vLLM's states; the number is that of the tokens sent.
        self._slots: dict[int, tuple[DrawParams, int]] = {}
        self._distribution_check = DistributionCheck()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        _check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        one = DrawParams.from_extra_args(sampling_params.extra_args)
        self._slots.pop(req_idx, None)
        if one is None:
            return False
        self._slots[req_idx] = (one, int(self._states.prompt_len.np[req_idx]))
        return True

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        slots = ctx.idx_mapping_np.tolist()
        if len(slots) != logits.shape[0]:
            raise InputError("laconic's draws need one row of logits a request: use vLLM without speculative decoding")
        rows = [row for row, slot in enumerate(slots) if slot in self._slots]
        if rows:
            draw_params, prompts = zip(*(self._slots[slots[row]] for row in rows), strict=True)
            lengths = ctx.seq_lens_upper_bound_np
            # Below 0 while a prompt is computed in pieces: what is drawn then is thrown away.
            generated = [max(0, int(lengths[row]) - prompt) for row, prompt in zip(rows, prompts, strict=True)]
            leave_only_drawn(logits, rows, draw_params, generated, self._distribution_check)
        return logits
