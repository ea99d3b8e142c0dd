"""The loop of an engine that runs its own steps: traces join, step, stop and leave, and chunks go out. It drives any `Rows`.

A step feeds one token a row. Rows that end leave; waiting traces take their places. A stopped trace gives its memory back and
is rebuilt from its tokens when it resumes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Generic, TypeVar

from laconic.engines.base import Chunk, EngineStats, FinishReason, UndrawnError
from laconic.engines.rows import NextToken, Rows
from laconic.engines.scheduler import ScheduledTrace, Scheduler

NAN = "its logits are NaN or infinite, as from damaged weights or from float16 that overflows (bfloat16 and float32 don't)"
T = TypeVar("T", bound=ScheduledTrace)


class Loop(Generic[T]):
    """counted: what the rows don't count themselves: prompt and generated tokens, and seconds."""

    def __init__(self, scheduler: Scheduler[T], rows: Rows[T]) -> None:
        self.scheduler, self.rows = scheduler, rows
        self.counted = EngineStats()
        self._undrawn: list[T] = []  # in this step: those whose next token had no distribution
        self._broken: list[T] = []  # and in this stream

    def stream(self) -> Generator[Chunk, None, None]:
        """See Engine.stream."""
        scheduler, rows = self.scheduler, self.rows
        with scheduler.streaming():
            self._broken.clear()  # of a stream that was closed
            while True:
                # Rows have left before their last chunk goes out: closing the iterator here loses nothing.
                while scheduler.outbox:
                    yield scheduler.outbox.popleft()
                self._stop_leaving()
                if self._admit():
                    self._emit()
                if rows.entries:
                    if not self._leap():
                        self._step()
                    self._emit()
                elif not scheduler.waiting and not scheduler.outbox:
                    if self._broken:
                        raise UndrawnError(_describe_broken(self._broken))
                    return

    def _stop_leaving(self) -> None:
        """Rows that were asked to stop leave."""
        leaving = self.scheduler.leaving
        if leaving:
            rows = [i for i, entry in enumerate(self.rows.entries) if entry.trace.id in leaving]
            leaving.clear()
            self.scheduler.outbox.extend([self._end(self.rows.entries[i], "stopped") for i in rows])
            self.rows.leave(rows)

    def _admit(self) -> bool:
        """Waiting traces take free rows. True if some did."""
        scheduler, rows = self.scheduler, self.rows
        if not scheduler.admits(len(rows.entries)):
            return False
        start = rows.clock()
        while scheduler.waiting and len(rows.entries) < scheduler.max_batch:
            self._join(scheduler.next_group(scheduler.max_batch - len(rows.entries)))
        self.counted.prefill_seconds += rows.clock() - start
        return True

    def _join(self, group: list[T]) -> None:
        scheduler, rows = self.scheduler, self.rows
        try:
            needed = min(scheduler.max_batch, len(rows.entries) + len(group) + len(scheduler.waiting))
            drawn = rows.join(group, needed)
            self.counted.prompt_tokens += len(group[0].trace.prompt_ids)
            for entry in group:
                entry.trace.state = "running"
            if drawn is not None:
                self._accept(group, drawn)
        except BaseException:  # out of memory, Ctrl-C: nothing of what the traces have is lost
            if group[0] in rows.entries:
                self._set_aside()
            else:
                scheduler.put_back(group)
            raise

    def _leap(self) -> bool:
        """As many tokens a row at once as come before a row ends, where the rows can, and were asked to. True: some did."""
        steps = self.rows.leap()
        self.counted.generated_tokens += steps * len(self.rows.entries)
        return steps > 0

    def _step(self) -> None:
        """One token a row."""
        start = self.rows.clock()
        try:
            self._accept(self.rows.entries, self.rows.step())
        except BaseException:  # out of memory, Ctrl-C: what the rows hold is not whole, what the traces have is
            self._set_aside()
            raise
        self.counted.decode_seconds += self.rows.clock() - start

    def _accept(self, entries: Sequence[T], drawn: Sequence[NextToken]) -> None:
        """Note every row's next token."""
        for entry, drawn_token in zip(entries, drawn, strict=True):
            if drawn_token.token is None:
                self._broken.append(entry)
                self._undrawn.append(entry)
            else:
                entry.add(drawn_token.token, drawn_token.confidence, drawn_token.logprobs)
                entry.trace.fed_tokens += drawn_token.fed
        self.counted.generated_tokens += sum(one.token is not None for one in drawn)

    def _set_aside(self) -> None:
        """All rows leave. The next stream rebuilds them from their tokens; those that were to stop have stopped."""
        scheduler = self.scheduler
        for entry in reversed(self.rows.entries):
            if entry.trace.id in scheduler.leaving:
                scheduler.outbox.append(self._end(entry, "stopped"))
            else:
                scheduler.put_back([entry])
        scheduler.leaving.clear()
        self._undrawn.clear()
        self.rows.lose(list(self.rows.entries))

    def _emit(self) -> None:
        """Chunks that are full or last go out; rows that have ended leave."""
        outbox, most = self.scheduler.outbox, self.scheduler.chunk_tokens
        ended = []
        for i, entry in enumerate(self.rows.entries):
            if entry in self._undrawn:
                ended.append(i)
                if entry.pending:
                    outbox.append(entry.flush())
                entry.trace.error = f"the model gave no probabilities for its token {len(entry.trace.token_ids)}: {NAN}"
                self._end(entry, "stopped")  # whoever reads waits for no last chunk: an error comes in its place
                continue
            reason = entry.end_reason()
            if reason is not None:
                ended.append(i)
                outbox.append(self._end(entry, reason))
            elif len(entry.pending) >= most:
                outbox.append(entry.flush())
        self.rows.leave(ended)
        self._undrawn.clear()

    def _end(self, entry: T, reason: FinishReason) -> Chunk:
        """The trace's last chunk; its row leaves next."""
        self.rows.remember(entry)
        return self.scheduler.end(entry, reason)


def _describe_broken(broken: Sequence[ScheduledTrace]) -> str:
    first, more = broken[0].trace, len(broken) - 1
    others = f" (and {more} more of its stream)" if more else ""
    return (
        f"the model gave no probabilities for token {len(first.token_ids)} of trace {first.id!r}{others}: {NAN}; it is "
        "stopped with the tokens before"
    )
