"""What an engine tells of its traces beside their decoding: hidden states, what one would answer now, what compression kept.

None of it disturbs a trace: states are what its own steps computed, or a second pass over its tokens; a probe runs on a copy of
its rows. HFEngine and ReplayEngine each have one; they differ in their rows and in where the model comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor

from laconic import checks
from laconic.engines.base import EngineStats
from laconic.engines.rows import ReadableRows
from laconic.engines.scheduler import ScheduledTrace, Scheduler
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.engines.hf.model_reader import ModelReader

T = TypeVar("T", bound=ScheduledTrace)


class TraceReader(Generic[T]):
    """Reads the traces of one engine.

    rows: those that run. model: runs tokens again; None: there is no model, and what needs one is refused. counted: the
    engine's, whose peaks rise by what a copy holds.
    """

    def __init__(
        self, scheduler: Scheduler[T], rows: ReadableRows[T], model: ModelReader | None, counted: EngineStats
    ) -> None:
        self.scheduler, self.rows, self.model, self.counted = scheduler, rows, model, counted
        self.probe_tokens = 0
        """Tokens fed for probes, as an engine counts that copies the rows of running traces; `ModelReader.tokens_run` is what
        really ran."""

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states."""
        tokens = checks.whole("tokens", tokens, 1)
        entries = self._entries(trace_ids)
        model = self.need_model("states")
        recorded = {entry.trace.id: self.rows.recorded_states(entry)[:tokens] for entry in entries}
        lacking = [entry for entry in entries if len(recorded[entry.trace.id]) < min(entry.computed, tokens)]
        found: dict[str, Tensor] = {}
        for prompt, group in _by_prompt(lacking):
            fed = [entry.trace.token_ids[: entry.computed] for entry in group]
            rows = model.states(prompt, fed, tokens, _keys_of(group))
            found |= {entry.trace.id: row for entry, row in zip(group, rows, strict=True)}
        out = torch.zeros((len(entries), tokens, model.state_width))
        for row, entry in zip(out, entries, strict=True):
            if entry.trace.id in found:
                row.copy_(found[entry.trace.id])
            elif len(states := recorded[entry.trace.id]):
                row[: len(states)] = torch.stack(list(states))
        return out

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe. Running traces are probed on a copy of their rows, others are rebuilt from their tokens."""
        checks.text("suffix", suffix)
        checks.whole("steps", steps, 1, meaning="tokens")
        entries = self._entries(trace_ids)
        model = self.need_model("probe")
        found: dict[str, Tensor] = {}
        running = [entry for entry in entries if entry in self.rows.entries]
        if running:
            fed = len(running) * (len(model.suffix_ids(suffix)) + steps)
            self._count_copies(running, fed)
            found |= self._probe_running(model, running, suffix, steps)
            self.probe_tokens += fed
        for prompt, group in _by_prompt([entry for entry in entries if entry not in running]):
            rows, run = model.probe(prompt, _tokens_of(group), suffix, steps, _keys_of(group))
            self.probe_tokens += run
            found |= {entry.trace.id: row for entry, row in zip(group, rows, strict=True)}
        return torch.stack([found[entry.trace.id] for entry in entries])

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """See Engine.probe_texts. Counted is what each trace's copy is fed: its newest token, the suffix, and its text."""
        checks.text("suffix", suffix)
        checks.whole("max_tokens", max_tokens, 1, meaning="tokens")
        checks.flag("until_closed", until_closed)
        entries = self._entries(trace_ids)
        model = self.need_model("probe")
        found: dict[str, list[int]] = {}
        running = [entry for entry in entries if entry in self.rows.entries]
        if running:
            copy = self.rows.fork(running)
            if copy is not None:
                at, newest = [entry.length for entry in running], [entry.trace.token_ids[-1] for entry in running]
                answers = model.continue_copy(copy, at, newest, suffix, max_tokens, until_closed)
                found |= {entry.trace.id: answer for entry, answer in zip(running, answers, strict=True)}
            else:
                for prompt, group in _by_prompt(running):
                    rows, _ = model.continued(
                        prompt, _tokens_of(group), suffix, max_tokens, until_closed, _keys_of(group)
                    )
                    found |= {entry.trace.id: row for entry, row in zip(group, rows, strict=True)}
            tail = len(model.suffix_ids(suffix))
            fed = sum(tail + len(found[entry.trace.id]) for entry in running)
            self._count_copies(running, fed)
            self.probe_tokens += fed
        for prompt, group in _by_prompt([entry for entry in entries if entry not in running]):
            rows, run = model.continued(prompt, _tokens_of(group), suffix, max_tokens, until_closed, _keys_of(group))
            self.probe_tokens += run
            found |= {entry.trace.id: row for entry, row in zip(group, rows, strict=True)}
        return [model.text_of(found[entry.trace.id], until_closed) for entry in entries]

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept. Before the first compression no model is asked."""
        entry = self.scheduler.entry(trace_id)
        schedule = (entry.schedule or self.scheduler.schedule).of(entry.trace.token_ids)
        points = schedule.compression_points(entry.computed)
        if not points:
            return list(range(len(entry.trace.token_ids)))
        latest = points[-1]
        held = self.rows.held(entry)
        if held is None:
            held = self.need_model("kept").held(entry.trace.prompt_ids, entry.trace.token_ids[:latest], entry.draw_key)
        return held_by_half(held[..., :latest])

    def need_model(self, what: str) -> ModelReader:
        """What runs tokens again. Raises InputError where there is no model. what: is read of it."""
        if self.model is None:
            raise InputError(f"{what} needs the model that wrote the traces: make the replay with model_engine")
        return self.model

    def _probe_running(self, model: ModelReader, entries: Sequence[T], suffix: str, steps: int) -> dict[str, Tensor]:
        copy = self.rows.fork(entries)
        if copy is not None:
            newest = [entry.trace.token_ids[-1] for entry in entries]
            answers = model.probe_copy(copy, [entry.length for entry in entries], newest, suffix, steps)
            return {entry.trace.id: answer for entry, answer in zip(entries, answers, strict=True)}
        found: dict[str, Tensor] = {}
        for prompt, group in _by_prompt(entries):
            rows, _ = model.probe(prompt, _tokens_of(group), suffix, steps, _keys_of(group))
            found |= {entry.trace.id: row for entry, row in zip(group, rows, strict=True)}
        return found

    def _count_copies(self, entries: Sequence[T], fed: int) -> None:
        """What is held at most while copies of running rows are fed `fed` tokens in all."""
        counted, now = self.counted, self.rows.stats()
        more = sum(map(self.rows.tokens_held, entries)) + fed
        counted.peak_kv_tokens = max(counted.peak_kv_tokens, now.live_kv_tokens + more)
        counted.peak_kv_bytes = max(counted.peak_kv_bytes, now.live_kv_bytes + more * self.rows.bytes_per_token)

    def _entries(self, trace_ids: Sequence[str]) -> list[T]:
        return [self.scheduler.entry(i) for i in checks.texts("trace_ids", trace_ids, some=True)]


def held_by_half(held: Tensor) -> list[int]:
    """The tokens that at least half of the layers hold, by position, in order.

    held: bool [layers, g, tokens]. Where a layer holds different tokens a KV head, each of its g heads is a g-th of it.
    """
    places = held.shape[0] * held.shape[1]
    return [int(i) for i in torch.nonzero(2 * held.sum(dim=(0, 1)) >= places).flatten()]


def _by_prompt(entries: Sequence[T]) -> list[tuple[tuple[int, ...], list[T]]]:
    groups: dict[tuple[int, ...], list[T]] = {}
    for entry in entries:
        groups.setdefault(entry.trace.prompt_ids, []).append(entry)
    return list(groups.items())


def _tokens_of(entries: Sequence[T]) -> list[list[int]]:
    return [entry.trace.token_ids for entry in entries]


def _keys_of(entries: Sequence[T]) -> list[int]:
    return [entry.draw_key for entry in entries]
