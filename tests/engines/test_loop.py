"""The loop by itself, over rows that compute nothing: row i of a trace says the tokens 1, 2, 3, ..."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from laconic.compress import FullKV
from laconic.engines.base import Chunk, EngineStats, Sampling, Trace
from laconic.engines.loop import Loop
from laconic.engines.rows import NextToken
from laconic.engines.scheduler import ScheduledTrace, Scheduler
from laconic.engines.text import Detokenizer
from laconic.errors import LaconicError


class CountingRows:
    """Rows whose next token is the number of the token. log: what they were asked for."""

    def __init__(self) -> None:
        self.entries: list[ScheduledTrace] = []
        self.log: list[str] = []
        self.fails: str = ""  # what fails next: "join", "joined" (after the rows were touched) or "step"
        self.undrawn: set[str] = set()
        self.seconds = 0.0
        self.leaps = False

    def join(self, group: Sequence[ScheduledTrace], rows: int) -> list[NextToken] | None:
        self._fail("join")
        self.log.append(f"join {names(group)} of {rows}")
        self.entries = [*self.entries, *group]
        self._fail("joined")
        return None if group[0].trace.token_ids else [self._next(entry) for entry in group]

    def step(self) -> list[NextToken]:
        self._fail("step")
        return [self._next(entry) for entry in self.entries]

    def leap(self) -> int:
        if not self.leaps or not self.entries:
            return 0
        steps = min(entry.limit - len(entry.trace.token_ids) for entry in self.entries) - 1
        for entry in self.entries:
            for _ in range(steps):
                entry.add(len(entry.trace.token_ids) + 1)
        self.log.append(f"leap {steps}")
        return max(steps, 0)

    def leave(self, rows: Sequence[int]) -> None:
        if rows:
            self.log.append(f"leave {names([self.entries[i] for i in rows])}")
        self.entries = [entry for i, entry in enumerate(self.entries) if i not in rows]

    def lose(self, entries: Sequence[ScheduledTrace]) -> None:
        """See Rows.lose. Nothing is remembered here."""
        self.clear()

    def clear(self) -> None:
        self.log.append("clear")
        self.entries = []

    def remember(self, entry: ScheduledTrace) -> None:
        assert entry in self.entries, "asked before the row has left"
        self.log.append(f"remember {entry.trace.id}")

    def clock(self) -> float:
        self.seconds += 1
        return self.seconds

    def stats(self) -> EngineStats:
        return EngineStats()

    def _next(self, entry: ScheduledTrace) -> NextToken:
        if entry.trace.id in self.undrawn:
            return NextToken(None, None)
        return NextToken(len(entry.trace.token_ids) + 1, None)

    def _fail(self, at: str) -> None:
        if self.fails == at:
            self.fails = ""
            raise MemoryError(at)


def names(entries: Sequence[ScheduledTrace]) -> str:
    return "".join(entry.trace.id for entry in entries)


class Rig:
    """A loop over counting rows."""

    def __init__(self, max_batch: int = 8, chunk_tokens: int = 1) -> None:
        self.scheduler: Scheduler[ScheduledTrace] = Scheduler(FullKV().schedule, max_batch, chunk_tokens)
        self.rows = CountingRows()
        self.loop = Loop(self.scheduler, self.rows)

    def submit(self, prompt: list[int], ids: str, limit: int) -> None:
        def make(trace: Trace, number: int) -> ScheduledTrace:
            return ScheduledTrace(trace=trace, number=number, limit=limit, stop_ids=frozenset(), text=Detokenizer(None))

        self.scheduler.submit(tuple(prompt), Sampling(), len(ids), list(ids), False, make)

    def tokens(self, trace_id: str) -> list[int]:
        return self.scheduler.trace(trace_id).token_ids

    def state(self, ids: str) -> list[str]:
        return [self.scheduler.trace(i).state for i in ids]


def until_it_fails(stream: Iterator[Chunk], error: type[BaseException]) -> list[str]:
    """What came before the error. The first chunk comes when the first step after the admission is done as well."""
    chunks = []
    try:
        for chunk in stream:
            chunks.append(chunk)
    except error:
        return told(chunks)
    raise AssertionError(f"no {error.__name__}")


def told(chunks: Sequence[Chunk]) -> list[str]:
    """a12! is trace a's chunk of the tokens 1 and 2, its last."""
    return [f"{c.trace_id}{''.join(map(str, c.token_ids))}{'!' if c.finish_reason else ''}" for c in chunks]


def test_traces_of_a_prompt_join_together_and_chunks_come_in_the_rows_order() -> None:
    rig = Rig()
    rig.submit([1, 2], "ab", limit=2)
    rig.submit([3], "c", limit=3)
    chunks = told(list(rig.loop.stream()))
    assert chunks == ["a1", "b1", "c1", "a2!", "b2!", "c2", "c3!"]
    assert rig.rows.log == [
        "join ab of 3",
        "join c of 3",
        "remember a",
        "remember b",
        "leave ab",
        "remember c",
        "leave c",
    ]
    assert (rig.loop.counted.prompt_tokens, rig.loop.counted.generated_tokens) == (3, 7)
    assert rig.loop.counted.prefill_seconds == 1  # one admission,
    assert rig.loop.counted.decode_seconds == 2  # and two steps


def test_chunks_are_full_or_last() -> None:
    rig = Rig(chunk_tokens=2)
    rig.submit([1], "a", limit=5)
    assert told(list(rig.loop.stream())) == ["a12", "a34", "a5!"]


def test_rows_that_leap_give_all_before_an_end_in_one_chunk_and_the_end_in_its_own() -> None:
    rig = Rig(max_batch=2)
    rig.rows.leaps = True
    rig.submit([1], "abc", limit=5)
    rig.submit([2], "d", limit=3)
    chunks = told(list(rig.loop.stream()))
    assert chunks == ["a1", "b1", "a234", "b234", "a5!", "b5!", "c1", "d1", "c2", "d2", "c3", "d3!", "c4", "c5!"]
    assert rig.loop.counted.generated_tokens == 18
    assert [line for line in rig.rows.log if line.startswith("leap")] == [
        "leap 3",
        "leap 0",
        "leap 1",
        "leap 0",
        "leap 1",
        "leap 0",
    ]


def test_places_are_taken_as_they_come_free() -> None:
    rig = Rig(max_batch=2)
    rig.submit([1], "abc", limit=2)
    assert told(list(rig.loop.stream())) == ["a1", "b1", "a2!", "b2!", "c1", "c2!"]
    assert rig.rows.log[0] == "join ab of 2"


def test_rows_have_left_before_their_last_chunk_is_read() -> None:
    rig = Rig()
    rig.submit([1], "ab", limit=1)
    stream = rig.loop.stream()
    assert told([next(stream)]) == ["a1!"]
    assert (rig.rows.entries, rig.state("ab")) == ([], ["finished"] * 2)
    stream.close()
    assert told(list(rig.loop.stream())) == ["b1!"]  # nothing is lost


def test_a_stopped_trace_leaves_before_the_next_step_and_goes_on_where_it_was() -> None:
    rig = Rig()
    rig.submit([1], "ab", limit=3)
    chunks = []
    for chunk in rig.loop.stream():
        chunks.append(chunk)
        if chunk.trace_id == "a" and chunk.token_ids == (2,):
            rig.scheduler.stop("a")
    assert told(chunks) == ["a1", "b1", "a2", "b2", "a!", "b3!"]
    assert rig.tokens("a") == [1, 2]
    rig.scheduler.resume("a")
    assert told(list(rig.loop.stream())) == ["a3!"]
    assert rig.loop.counted.prompt_tokens == 2  # it was rebuilt


def test_a_stop_that_is_taken_back_changes_nothing() -> None:
    rig = Rig()
    rig.submit([1], "a", limit=3)
    for _ in rig.loop.stream():
        rig.scheduler.stop("a")
        if len(rig.tokens("a")) < 3:
            rig.scheduler.resume("a")
    assert rig.tokens("a") == [1, 2, 3]
    assert rig.scheduler.trace("a").finish_reason == "length"


def test_a_step_that_fails_sets_all_rows_aside() -> None:
    rig = Rig()
    rig.submit([1], "abc", limit=4)
    stream = rig.loop.stream()
    assert told([next(stream)]) == ["a1"]
    rig.rows.fails = "step"
    rig.scheduler.stop("b")
    assert until_it_fails(stream, MemoryError) == ["b1", "c1", "a2", "b2", "c2"]
    assert (rig.state("abc"), rig.rows.entries) == (["waiting", "stopped", "waiting"], [])
    rig.rows.log.clear()
    assert told(list(rig.loop.stream())) == ["b!", "a3", "c3", "a4!", "c4!"]
    assert rig.rows.log[:2] == ["join a of 2", "join c of 2"]  # each rebuilt from its own tokens


def test_a_stop_asked_for_in_the_step_that_fails_has_happened_after_it() -> None:
    rig = Rig()
    rig.submit([1], "ab", limit=3)
    stream = rig.loop.stream()
    next(stream)
    step = rig.rows.step

    def fail() -> list[NextToken]:
        rig.scheduler.stop("a")  # as from a signal's handler
        rig.rows.step = step  # type: ignore[method-assign]
        raise KeyboardInterrupt

    rig.rows.step = fail  # type: ignore[method-assign]
    assert until_it_fails(stream, KeyboardInterrupt) == ["b1", "a2", "b2"]
    assert rig.state("ab") == ["stopped", "waiting"]
    assert told(list(rig.loop.stream())) == ["a!", "b3!"]


@pytest.mark.parametrize(("fails", "cleared"), [("join", False), ("joined", True)])
def test_a_join_that_fails_leaves_the_newcomers_waiting(fails: str, cleared: bool) -> None:
    """Rows that ran run on, unless the failed join has touched them."""
    rig = Rig()
    rig.submit([1], "a", limit=4)
    stream = rig.loop.stream()
    next(stream)
    rig.submit([2], "bc", limit=2)
    rig.rows.fails = fails
    assert until_it_fails(stream, MemoryError) == ["a2"]
    assert rig.state("abc") == ["waiting" if cleared else "running", "waiting", "waiting"]
    assert ("clear" in rig.rows.log) is cleared
    chunks = told(list(rig.loop.stream()))
    assert sorted(chunks) == ["a3", "a4!", "b1", "b2!", "c1", "c2!"]


def test_a_trace_interrupted_as_it_is_told_its_first_token_waits_again() -> None:
    rig = Rig()
    rig.submit([1], "ab", limit=2)

    class Interrupted(Detokenizer):
        def add(self, token: int) -> str:
            rig.scheduler.entry("b").text = Detokenizer(None)
            raise KeyboardInterrupt

    rig.scheduler.entry("b").text = Interrupted(None)
    with pytest.raises(KeyboardInterrupt):
        next(rig.loop.stream())
    assert (rig.state("ab"), rig.rows.entries) == (["waiting"] * 2, [])
    list(rig.loop.stream())
    assert (rig.tokens("a"), rig.tokens("b")) == ([1, 2], [1, 2])


def test_a_trace_without_a_distribution_stops_and_is_named_once_the_others_are_done() -> None:
    rig = Rig(chunk_tokens=3)
    rig.submit([1], "ab", limit=6)
    stream = rig.loop.stream()
    assert told([next(stream)]) == ["a123"]
    rig.rows.undrawn = {"a"}
    with pytest.raises(LaconicError, match="token 3 of trace 'a'"):
        list(stream)
    assert (rig.state("ab"), rig.tokens("a"), len(rig.tokens("b"))) == (["stopped", "finished"], [1, 2, 3], 6)
    rig.rows.undrawn = set()
    rig.scheduler.resume("a")
    assert told(list(rig.loop.stream())) == ["a456!"]


def test_only_one_stream_runs() -> None:
    rig = Rig()
    rig.submit([1], "a", limit=2)
    stream = rig.loop.stream()
    next(stream)
    with pytest.raises(LaconicError, match="streaming already"):
        next(rig.loop.stream())
    stream.close()
    assert told(list(rig.loop.stream())) == ["a2!"]
