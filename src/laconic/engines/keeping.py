"""What an engine keeps of its traces, whatever computes their tokens: who waits, who is to leave, what they hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from laconic import checks
from laconic.compress import Policy
from laconic.engines.base import Chunk, Engine, Sampling, Trace
from laconic.engines.requests import check_settings, name_traces
from laconic.engines.text import begins_thinking
from laconic.errors import InputError, UnknownNameError


class Kept(Protocol):
    """A trace, and what an engine needs to know of it."""

    trace: Trace

    @property
    def computed(self) -> int:
        """Generated tokens whose KV has been computed: all but the newest."""


K = TypeVar("K", bound=Kept)


class KeepingEngine(Engine, Generic[K]):
    """The part of an engine that steers traces. An engine calls `_open` when it is made, before anything else.

    `_runs`: by id, until forgotten. `_waiting`: in the order in which they will run. `_leaving`: running ones that were asked
    to stop, by id. `_outbox`: chunks that nobody has read yet.
    """

    policy: Policy

    def _open(self, max_batch: int, chunk_tokens: int) -> None:
        """Raises InputError for settings below 1."""
        self.max_batch, self.chunk_tokens = check_settings(max_batch, chunk_tokens)
        self._runs: dict[str, K] = {}
        self._waiting: deque[K] = deque()
        self._leaving: dict[str, K] = {}
        self._outbox: deque[Chunk] = deque()
        self._numbers = self._prompts = 0
        self._streaming = False

    def _enter(
        self,
        tokens: tuple[int, ...],
        sampling: Sampling,
        n: int,
        ids: Sequence[str] | None,
        make: Callable[[Trace, int], K],
    ) -> list[str]:
        """n traces of a prompt begin to wait. make: (trace, its number over the engine's life) -> what is kept of it."""
        names = name_traces(n, ids, self._prompts, self._runs)
        self._prompts += 1
        thinking = self._begins_thinking(tokens)
        for index, name in enumerate(names):
            run = make(Trace(name, index, tokens, sampling, thinking=thinking), self._numbers)
            self._numbers += 1
            self._runs[name] = run
            self._waiting.append(run)
        return names

    def _begins_thinking(self, tokens: tuple[int, ...]) -> bool:
        """Whether traces of this prompt begin within thinking."""
        return begins_thinking(getattr(self, "tokenizer", None), tokens)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Around a stream: there is one at a time."""
        if self._streaming:
            raise InputError("this engine is streaming already: go on with that iterator, or close it first")
        self._streaming = True
        try:
            yield
        finally:
            self._streaming = False

    def stop(self, trace_id: str) -> None:
        """See Engine.stop."""
        run = self._run(trace_id)
        if run.trace.state == "waiting":
            self._withdraw(run)
            run.trace.state = run.trace.finish_reason = "stopped"
        elif run.trace.state == "running":
            self._leaving[trace_id] = run

    def _withdraw(self, run: K) -> None:
        """A trace that waits does so no longer."""
        self._waiting.remove(run)

    def resume(self, trace_id: str) -> None:
        """See Engine.resume."""
        run = self._run(trace_id)
        if self._leaving.pop(trace_id, None) is not None:
            return
        if run.trace.state != "stopped":
            raise InputError(f"trace {trace_id!r} is {run.trace.state}; only a stopped trace can be resumed")
        run.trace.state, run.trace.finish_reason = "waiting", None
        self._waiting.append(run)

    def trace(self, trace_id: str) -> Trace:
        """See Engine.trace."""
        run = self._run(trace_id)
        if run.trace.state == "running":
            self._account(run)
        return run.trace

    def forget(self, trace_ids: Sequence[str]) -> None:
        """See Engine.forget."""
        for trace_id in checks.texts("trace_ids", trace_ids):
            state = self._run(trace_id).trace.state
            if state in ("waiting", "running"):
                raise InputError(f"trace {trace_id!r} is {state}: stop it before it is forgotten")
            del self._runs[trace_id]

    def _run(self, trace_id: str) -> K:
        if not isinstance(trace_id, str) or trace_id not in self._runs:
            raise UnknownNameError(f"there is no trace {checks.shown(trace_id)} in this engine")
        return self._runs[trace_id]

    def _account(self, run: K) -> None:
        """What the trace holds and held, by the schedule's arithmetic (tests compare it with the buffers)."""
        trace, schedule, prompt = run.trace, self.policy.schedule, len(run.trace.prompt_ids)
        trace.kv_tokens = schedule.physical(run.computed, prompt)
        trace.peak_kv_tokens = schedule.peak(run.computed, prompt)
        trace.mean_kv_tokens = schedule.mean(run.computed, prompt) if run.computed else float(prompt)

    # ---- how rows of one batch are filled -------------------------------------------------------------------------

    def _to_admit(self, running: int) -> bool:
        """Whether waiting traces take free rows now.

        A join copies the newcomers' KV only, but each prompt is a forward pass: a few places come free first.
        """
        free = self.max_batch - running
        if not self._waiting or free <= 0:
            return False
        return not running or free >= min(len(self._waiting), max(1, self.max_batch // 8))

    def _next_group(self, most: int) -> list[K]:
        """The next waiting trace, and those of the same prompt behind it that also have no tokens yet."""
        first = self._waiting.popleft()
        group = [first]
        if not first.trace.token_ids:
            while self._waiting and len(group) < most:
                run = self._waiting[0]
                if run.trace.prompt_ids != first.trace.prompt_ids or run.trace.token_ids:
                    break
                group.append(self._waiting.popleft())
        return group
