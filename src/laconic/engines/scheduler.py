"""Which traces an engine has, and what each does now: wait, run, be about to stop, have ended. No token is computed here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from laconic import checks
from laconic.compress import Schedule
from laconic.engines.base import Chunk, FinishReason, Sampling, TokenLogprobs, Trace
from laconic.engines.requests import check_settings, name_traces
from laconic.engines.sampling import trace_key
from laconic.engines.text import TextStream
from laconic.errors import InputError, UnknownNameError


@dataclass(slots=True, eq=False, kw_only=True)
class ScheduledTrace:
    """A trace in an engine, and what it takes to go on with it. Each engine adds what it alone needs to know."""

    trace: Trace
    """The public record."""
    number: int
    """In order of submission, over the engine's life."""
    limit: int
    """Tokens it may generate: what was asked for, or what the model's context leaves."""
    stop_ids: frozenset[int]
    """Tokens that end it. They have no text."""
    text: TextStream
    """Its text, told as its tokens come."""
    schedule: Schedule | None = None
    """By which it is compressed; None: the engine's."""
    pending: list[int] = field(default_factory=list)
    """Tokens that no chunk has carried yet."""
    pending_text: list[str] = field(default_factory=list)
    """Their texts."""
    pending_confidences: list[float] = field(default_factory=list)
    """Their confidences, where they were asked for."""
    pending_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Their log-probabilities, where they were asked for."""
    restarted: bool = False
    """Whether the next chunk is the first since it began anew."""

    @property
    def draw_key(self) -> int:
        """What policies that draw go by, 32 bits: of the seed and the trace, whatever else the engine has run."""
        return trace_key(self.trace.sampling.seed, self.trace.index) & 0xFFFFFFFF

    @property
    def computed(self) -> int:
        """Generated tokens whose KV has been computed: all but the newest, which the next step feeds."""
        return max(len(self.trace.token_ids) - 1, 0)

    @property
    def length(self) -> int:
        """Tokens before the newest, prompt included: the position of the newest."""
        return len(self.trace.prompt_ids) + self.computed

    def add(self, token: int, confidence: float | None = None, logprobs: TokenLogprobs | None = None) -> None:
        """Note the next token, and what was asked for of it."""
        trace = self.trace
        trace.token_ids.append(token)
        self.pending.append(token)
        if confidence is not None:
            trace.confidences.append(confidence)
            self.pending_confidences.append(confidence)
        if logprobs is not None:
            trace.logprobs.append(logprobs)
            self.pending_logprobs.append(logprobs)
        if token not in self.stop_ids:
            self.pending_text.append(self.text.add(token))
            trace.text = self.text.text

    def restart(self, text: TextStream) -> None:
        """It begins anew, and what there is of it is no longer part of it."""
        trace = self.trace
        self.restarted = bool(trace.token_ids) or self.restarted
        trace.token_ids.clear()
        trace.confidences.clear()
        trace.logprobs.clear()
        self.pending, self.pending_text, self.pending_confidences, self.pending_logprobs = [], [], [], []
        self.text, trace.text = text, ""

    def end_reason(self) -> FinishReason | None:
        """Why it ends with the newest token; None: it goes on."""
        if self.trace.token_ids[-1] in self.stop_ids:
            return "stop"
        return "length" if len(self.trace.token_ids) >= self.limit else None

    def finish_text(self) -> None:
        """The trace has ended: what its text held back (half a character, say) comes now."""
        held_back = self.text.finish([token for token in self.trace.token_ids if token not in self.stop_ids])
        self.pending_text.append(held_back)
        self.trace.text = self.text.text

    def flush(self, reason: FinishReason | None = None) -> Chunk:
        """What is pending, as a chunk."""
        sampling, tokens, text = self.trace.sampling, tuple(self.pending), "".join(self.pending_text)
        confidences = tuple(self.pending_confidences) if sampling.confidence_top_k else None
        logprobs = tuple(self.pending_logprobs) if sampling.logprobs is not None else None
        chunk = Chunk(self.trace.id, tokens, text, logprobs, reason, confidences, self.restarted)
        self.restarted = False
        self.pending, self.pending_text, self.pending_confidences, self.pending_logprobs = [], [], [], []
        return chunk


T = TypeVar("T", bound=ScheduledTrace)


def share_fresh_prompt(first: ScheduledTrace, other: ScheduledTrace) -> bool:
    """Whether two traces can share a prefill: they have the same prompt, and no tokens yet."""
    return not first.trace.token_ids and not other.trace.token_ids and first.trace.prompt_ids == other.trace.prompt_ids


class Scheduler(Generic[T]):
    """The traces of one engine, by name, with their states and the chunks that nobody has read yet.

    Public methods of the same name as an `Engine`'s do what that says. Raises InputError for settings below 1.
    """

    def __init__(self, schedule: Schedule, max_batch: int, chunk_tokens: int) -> None:
        self.max_batch, self.chunk_tokens = check_settings(max_batch, chunk_tokens)
        self.schedule = schedule
        self.waiting: deque[T] = deque()
        """In the order in which they will run."""
        self.leaving: dict[str, T] = {}
        """Running ones that were asked to stop, by id; they leave before the next step."""
        self.outbox: deque[Chunk] = deque()
        """Chunks that nobody has read yet. Their traces have left already where they are last ones."""
        self.shares_prefill: Callable[[T, T], bool] = share_fresh_prompt
        """Whether a waiting trace joins in one prefill with the one that is first in line."""
        self._entries: dict[str, T] = {}  # by id, until forgotten
        self._numbers = self._prompts = 0
        self._streaming = False

    # ---- what an engine says of its traces ------------------------------------------------------------------------

    def submit(
        self,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        n: int,
        ids: Sequence[str] | None,
        thinking: bool,
        make: Callable[[Trace, int], T],
    ) -> list[str]:
        """n traces of a prompt begin to wait; returns their ids. make: (trace, its number) -> what is kept of it."""
        names = name_traces(n, ids, self._prompts, self._entries)
        self._prompts += 1
        for index, name in enumerate(names):
            entry = make(Trace(name, index, prompt_ids, sampling, thinking=thinking), self._numbers)
            self._numbers += 1
            self._entries[name] = entry
            self.waiting.append(entry)
        return names

    def stop(self, trace_id: str) -> None:
        """See Engine.stop."""
        entry = self.entry(trace_id)
        if entry.trace.state == "waiting":
            if entry in self.waiting:  # or a backend has it already, and has not begun with it
                self.waiting.remove(entry)
            entry.trace.state = entry.trace.finish_reason = "stopped"
        elif entry.trace.state == "running":
            self.leaving[trace_id] = entry

    def resume(self, trace_id: str) -> None:
        """See Engine.resume."""
        entry = self.entry(trace_id)
        if self.leaving.pop(trace_id, None) is not None:
            return
        if entry.trace.state != "stopped":
            raise InputError(f"trace {trace_id!r} is {entry.trace.state}; only a stopped trace can be resumed")
        entry.trace.state, entry.trace.finish_reason = "waiting", None
        entry.trace.error, entry.trace.error_status = "", 0
        self.waiting.append(entry)

    def trace(self, trace_id: str) -> Trace:
        """See Engine.trace."""
        entry = self.entry(trace_id)
        if entry.trace.state == "running":
            self._count_kv(entry)
        return entry.trace

    def forget(self, trace_ids: Sequence[str]) -> None:
        """See Engine.forget."""
        for trace_id in checks.texts("trace_ids", trace_ids):
            state = self.entry(trace_id).trace.state
            if state in ("waiting", "running"):
                raise InputError(f"trace {trace_id!r} is {state}: stop it before it is forgotten")
            del self._entries[trace_id]

    def entry(self, trace_id: str) -> T:
        """What is kept of a trace. Raises UnknownNameError if there is none of that name."""
        if not isinstance(trace_id, str) or trace_id not in self._entries:
            raise UnknownNameError(f"there is no trace {checks.shown(trace_id)} in this engine")
        return self._entries[trace_id]

    @property
    def entries(self) -> Collection[T]:
        """What is kept of all traces that haven't been forgotten."""
        return self._entries.values()

    # ---- what a loop does with them -------------------------------------------------------------------------------

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Around a stream: there is one at a time."""
        if self._streaming:
            raise InputError("this engine is streaming already: go on with that iterator, or close it first")
        self._streaming = True
        try:
            yield
        finally:
            self._streaming = False

    def admits(self, running: int) -> bool:
        """Whether waiting traces join `running` rows now.

        A join copies the newcomers' KV only, but each prompt is a forward pass: a few places come free first.
        """
        free = self.max_batch - running
        if not self.waiting or free <= 0:
            return False
        return not running or free >= min(len(self.waiting), max(1, self.max_batch // 8))

    def next_group(self, most: int) -> list[T]:
        """The next waiting trace, and those right behind it that share its prefill, `most` in all."""
        group = [self.waiting.popleft()]
        while self.waiting and len(group) < most and self.shares_prefill(group[0], self.waiting[0]):
            group.append(self.waiting.popleft())
        return group

    def put_back(self, group: Sequence[T]) -> None:
        """Traces wait again, first in line, in their order."""
        for entry in group:
            entry.trace.state = "waiting"
        self.waiting.extendleft(reversed(group))

    def end(self, entry: T, reason: FinishReason) -> Chunk:
        """The trace ends, or stops; returns its last chunk. Whoever computes it lets it go."""
        trace = entry.trace
        trace.state, trace.finish_reason = "stopped" if reason == "stopped" else "finished", reason
        self.leaving.pop(trace.id, None)
        self._count_kv(entry)
        trace.kv_tokens = 0
        if reason == "stopped":
            trace.text = entry.text.whole([token for token in trace.token_ids if token not in entry.stop_ids])
        else:
            entry.finish_text()
        return entry.flush(reason)

    def _count_kv(self, entry: T) -> None:
        """What the trace holds and held, by the schedule's arithmetic (tests compare it with the buffers)."""
        trace, prompt = entry.trace, len(entry.trace.prompt_ids)
        schedule = (entry.schedule or self.schedule).of(trace.token_ids)
        trace.kv_tokens = schedule.physical(entry.computed, prompt)
        trace.peak_kv_tokens = schedule.peak(entry.computed, prompt)
        trace.mean_kv_tokens = schedule.mean(entry.computed, prompt) if entry.computed else float(prompt)
