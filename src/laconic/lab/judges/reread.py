"""Excerpts of recorded traces as a `TraceEngine`: what a judge asks of an engine, asked of the model again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from laconic.engines.base import EngineStats
from laconic.errors import InputError
from laconic.prune.judge import Excerpt


class Reread:
    """Hidden states and probes of recorded excerpts, each at the excerpt's end, where a judge would have asked.

    engine: an HFEngine on the model that wrote the traces (or, to see how a judge of hidden states does on another's
    traces, the one that it was trained with). excerpts: those that will be asked about.

    stats.side_tokens counts as an engine counts that is decoding these traces: nothing for states, which it notes on the
    way; for a probe the suffix and the steps. seconds: spent on states, which such an engine would not spend.
    """

    def __init__(self, engine: Any, excerpts: Sequence[Excerpt]) -> None:
        self.engine, self.excerpts = engine, {excerpt.trace_id: excerpt for excerpt in excerpts}
        self.state_layers, self.tokenizer = engine.state_layers, engine.tokenizer
        self.stats = EngineStats()
        self.seconds = 0.0

    def decode(self, token_ids: Sequence[int]) -> str:
        """See TraceEngine.decode."""
        return str(self.engine.decode(token_ids))

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See TraceEngine.states."""
        start = time.perf_counter()
        found = self._by_prompt(
            trace_ids,
            lambda prompt, rows: self.engine.states_of(prompt, [row[:tokens] for row in rows], tokens),
        )
        self.seconds += time.perf_counter() - start
        return found

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See TraceEngine.probe."""
        tail = self.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
        found = self._by_prompt(trace_ids, lambda prompt, rows: self.engine.probe_of(prompt, rows, suffix, steps))
        self.stats.side_tokens += len(trace_ids) * (len(tail) + steps)
        return found

    def _by_prompt(
        self, trace_ids: Sequence[str], ask: Callable[[tuple[int, ...], list[tuple[int, ...]]], Tensor]
    ) -> Tensor:
        groups: dict[tuple[int, ...], list[Excerpt]] = {}
        for trace_id in trace_ids:
            excerpt = self.excerpts[trace_id]
            if excerpt.kind.split(":")[0] == "kept":
                raise InputError(
                    f"excerpt {excerpt.kind} does not say where its trace stood, so its model can't be asked there again; use "
                    "tokens:K or words:K"
                )
            groups.setdefault(excerpt.prompt_ids, []).append(excerpt)
        found: dict[str, Tensor] = {}
        for prompt, excerpts in groups.items():
            rows = ask(prompt, [excerpt.token_ids for excerpt in excerpts])
            found |= {excerpt.trace_id: row for excerpt, row in zip(excerpts, rows, strict=True)}
        return torch.stack([found[trace_id] for trace_id in trace_ids])
