"""One engine for many users at once: each sees traces of its own, and all of them run in one batch.

Whoever drives reads one chunk at a time (`SharedEngine.step`) and lets its owner act on it before the next, so each user's
decisions fall at the same tokens as if it had the engine to itself. Nothing here is a thread, or safe for several.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor

from laconic.engines.base import Chunk, Engine, GivenUpError, Prompt, Sampling, Trace, UndrawnError
from laconic.errors import EngineError, LaconicError
from laconic.prune.needs import Needs, prepare

if TYPE_CHECKING:
    from laconic.compress import Policy

IDLE = 10_000  # reads of an engine in a row that bring nothing, after which it never will
LOOK_EVERY = 64  # chunks between two looks for traces that have ended without a last chunk
FRESH = 0.25  # seconds for which what a view's traces hold is not counted anew


@dataclass(frozen=True, slots=True)
class ViewStats:
    """What one user's traces hold. What an engine counts over all of them is not told apart, so it isn't here."""

    live_kv_tokens: int
    """Held now, summed over the traces, one layer; counted a few times a second."""
    live_kv_bytes: int
    """What these take."""
    full_kv_bytes: int = 0
    """What they would take if nothing were evicted."""
    side_tokens: int = 0
    """That were run for reading these traces: probes, and states that had to be computed."""


class EngineView:
    """An engine as one of its users sees it: what a strategy needs (`prune.trace_engine.TraceEngine`), for traces of its own.

    `stream` yields None where another user's turn has come; whoever drives goes on with it when there are chunks. prompt: what
    `render` gives, whatever is asked, for a conversation that has been rendered already; None: the engine's own. policy: of
    these traces, on an engine whose traces may have one each (`VLLMEngine.submit`); None: the engine's.
    """

    def __init__(self, shared: SharedEngine, prompt: Prompt | None = None, policy: Policy | None = None) -> None:
        self._shared, self._prompt = shared, prompt
        self._own: dict[str, Any] = {} if policy is None else {"policy": policy}
        self._inbox: deque[Chunk] = deque()
        self._open: dict[str, None] = {}  # whose last chunk is still to come
        self._mine: dict[str, None] = {}
        self._held, self._counted = ViewStats(0, 0), 0.0
        self._side_tokens = 0
        self.closed = False

    @property
    def name(self) -> str:
        """The engine's."""
        return self._shared.engine.name

    @property
    def tokenizer(self) -> Any:
        """The engine's; None where it has none."""
        return getattr(self._shared.engine, "tokenizer", None)

    @property
    def waiting_chunks(self) -> int:
        """That have come, and have not been read."""
        return len(self._inbox)

    @property
    def open_traces(self) -> int:
        """That run, or wait for a row of the batch."""
        return len(self._open)

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """All that were submitted here and not forgotten."""
        return tuple(self._mine)

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """See Engine.submit."""
        names = self._shared.engine.submit(prompt, sampling, n, ids, **self._own)
        for name in names:
            self._mine[name] = self._open[name] = None
            self._shared.owners[name] = self
        return names

    def stream(self) -> Generator[Chunk | None, None, None]:
        """Until none of these traces waits or runs: their chunks, and None where there is none yet."""
        while True:
            while self._inbox:
                yield self._inbox.popleft()
            if not self._open:
                return
            yield None

    def stop(self, trace_id: str) -> None:
        """See Engine.stop."""
        self._shared.engine.stop(trace_id)
        if self._shared.engine.trace(trace_id).state == "stopped":  # it waited: no last chunk will come
            self._open.pop(trace_id, None)

    def resume(self, trace_id: str) -> None:
        """See Engine.resume."""
        self._shared.engine.resume(trace_id)
        self._open[trace_id] = None

    def trace(self, trace_id: str) -> Trace:
        """See Engine.trace."""
        return self._shared.engine.trace(trace_id)

    def prompt_length(self, trace_id: str) -> int:
        """Tokens of a trace's prompt; 0 where a server has not told yet."""
        count = getattr(self._shared.engine, "prompt_length", None)
        return len(self.trace(trace_id).prompt_ids) if count is None else int(count(trace_id))

    def generated_at_servers(self) -> int | None:
        """Tokens that servers say they generated for all traces; None: the engine is none of servers, and what came is all."""
        count = getattr(self._shared.engine, "generated_length", None)
        return None if count is None else sum(count(name) for name in self._mine)

    def forget(self, trace_ids: Sequence[str]) -> None:
        """See Engine.forget."""
        self._shared.engine.forget(trace_ids)
        for name in trace_ids:
            self._mine.pop(name, None)
            self._shared.owners.pop(name, None)

    def render(self, question: str) -> Prompt:
        """See Engine.render."""
        return self._shared.engine.render(question) if self._prompt is None else self._prompt

    def prepare(self, needs: Needs) -> None:
        """See Engine.prepare."""
        prepare(self._shared.engine, needs)

    def decode(self, token_ids: Sequence[int]) -> str:
        """See Engine.decode."""
        return self._shared.engine.decode(token_ids)

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states."""
        with self._counting():
            return self._shared.engine.states(trace_ids, tokens)

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe."""
        with self._counting():
            return self._shared.engine.probe(trace_ids, suffix, steps)

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """See Engine.probe_texts."""
        with self._counting():
            return self._shared.engine.probe_texts(trace_ids, suffix, max_tokens, until_closed)

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept."""
        return self._shared.engine.kept(trace_id)

    @property
    def stats(self) -> ViewStats:
        """What these traces hold."""
        now = time.monotonic()
        if now - self._counted > FRESH:
            traces = [self._shared.engine.trace(name) for name in self._open]
            running = [trace for trace in traces if trace.state == "running"]
            tokens, each = sum(trace.kv_tokens for trace in running), self._shared.bytes_per_token
            whole = sum(len(trace.prompt_ids) + max(len(trace.token_ids) - 1, 0) for trace in running)
            self._held, self._counted = ViewStats(tokens, round(tokens * each), round(whole * each)), now
        return replace(self._held, side_tokens=self._side_tokens)

    def close(self) -> None:
        """Its user has gone: what runs is stopped at the next step, and everything forgotten."""
        if self.closed:
            return
        self.closed = True
        self._inbox.clear()
        for name in list(self._open):
            self.stop(name)
        self._forget_ended()

    def take(self, chunk: Chunk) -> None:
        """A chunk of one of its traces has come."""
        if chunk.finish_reason is not None:
            self._open.pop(chunk.trace_id, None)
        if self.closed:
            self._forget_ended()
        else:
            self._inbox.append(chunk)

    def look_for_lost(self) -> bool:
        """Tell of traces that the engine stopped by itself (their logits were no numbers): it sends no last chunk of them
        before its stream ends, which may be never. True: there were some."""
        lost = [name for name in self._open if self._shared.engine.trace(name).state == "stopped"]
        for name in lost:
            self.take(Chunk(name, (), "", finish_reason="stopped"))
        return bool(lost)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        before = getattr(self._shared.engine.stats, "side_tokens", 0)
        yield
        self._side_tokens += getattr(self._shared.engine.stats, "side_tokens", 0) - before

    def _forget_ended(self) -> None:
        ended = [name for name in self._mine if name not in self._open]
        if ended:
            self.forget(ended)


class SharedTask(Protocol):
    """What runs beside others on one engine (`side_by_side`)."""

    @property
    def view(self) -> EngineView: ...

    def advance(self) -> bool:
        """Act on what has come. True: it is over."""
        ...


TASK = TypeVar("TASK", bound=SharedTask)


class SharedEngine:
    """Hands the chunks of one engine to those whose traces they are. Not thread-safe: one thread drives it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._bytes_per_token = 0.0
        self.owners: dict[str, EngineView] = {}
        """By trace, until it is forgotten."""
        self._stream: Generator[Chunk, None, None] | None = None
        self._read = 0

    def view(self, prompt: Prompt | None = None, policy: Policy | None = None) -> EngineView:
        """Another user. prompt, policy: see EngineView."""
        return EngineView(self, prompt, policy)

    @property
    def bytes_per_token(self) -> float:
        """Of KV cache, over all compressible layers; 0 before anything has run."""
        if not self._bytes_per_token:
            stats = self.engine.stats
            held = getattr(stats, "live_kv_tokens", 0)  # an engine of others' may not tell
            if held:
                self._bytes_per_token = stats.live_kv_bytes / held
        return self._bytes_per_token

    @property
    def busy(self) -> bool:
        """Whether some trace's last chunk is still to come."""
        return any(view._open for view in self.owners.values())

    def step(self) -> list[EngineView]:
        """Read one chunk of the engine. Returns whose it is: those that have something to act on; none: nothing runs.

        Raises what the engine raises: whatever runs has then been set aside, and `fail` gives it up. That traces were lost
        (UndrawnError, GivenUpError) is no error here: their owners are told of each by a last chunk.
        """
        self._read += 1
        moved: list[EngineView] = []
        if self._read % LOOK_EVERY == 0:
            moved = [view for view in dict.fromkeys(self.owners.values()) if view.look_for_lost()]
        if self._stream is None:
            self._stream = self.engine.stream()
        try:
            chunk = next(self._stream, None)
        except (UndrawnError, GivenUpError):  # all others have ended
            self._stream = None
            moved += [view for view in dict.fromkeys(self.owners.values()) if view.look_for_lost()]
            return list(dict.fromkeys(moved))
        except BaseException:
            self._stream = None
            raise
        if chunk is None:
            self._stream = None
            return moved
        view = self.owners.get(chunk.trace_id)
        if view is None:
            return moved
        view.take(chunk)
        return [*moved, view] if view not in moved else moved

    def side_by_side(self, tasks: Iterable[TASK], most: int) -> Iterator[TASK]:
        """Run tasks, the next one as soon as fewer than `most` traces of those before it are open. Yields each when it is over,
        and lets go of its traces then; at the end, whatever comes, of all.

        Raises what a task or the engine raises, and EngineError where the engine gives nothing more.
        """
        waiting, running, more, idle = iter(tasks), dict[EngineView, TASK](), True, 0
        try:
            while running or more:
                if more and sum(view.open_traces for view in running) < most:
                    acting = list(islice(waiting, 1))
                    more = bool(acting)
                    running.update((task.view, task) for task in acting)
                else:
                    acting = [running[view] for view in self.step() if view in running]
                    idle = 0 if acting else idle + 1
                    if idle > IDLE:
                        raise EngineError("the engine gives nothing more, and traces are still open")
                for task in acting:
                    if task.advance():
                        yield task
                        running.pop(task.view)
                        task.view.close()
        finally:
            for view in running:
                view.close()
            with suppress(Exception):  # of an engine that has failed, it has been told already
                while self.busy:  # traces that were asked to stop leave
                    self.step()
            self.close()

    def fail(self) -> list[EngineView]:
        """The engine can't go on with what it has: every trace is given up. Returns whose they were."""
        views = list(dict.fromkeys(self.owners.values()))
        for view in views:
            view.close()
        try:  # what was running is told so
            for chunk in self.engine.stream():
                owner = self.owners.get(chunk.trace_id)
                if owner is not None:
                    owner.take(chunk)
        except LaconicError:
            pass
        return views

    def close(self) -> None:
        """Nobody is served any more; the engine itself goes on."""
        for view in list(dict.fromkeys(self.owners.values())):
            view.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
