"""When waiting traces are let in, and which together. The rest of KeepingEngine is what the conformance tests look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from laconic.compress import FullKV
from laconic.engines.base import Chunk, EngineStats, Prompt, Sampling, Trace
from laconic.engines.keeping import KeepingEngine
from laconic.errors import LaconicError


@dataclass
class Row:
    trace: Trace
    number: int

    @property
    def computed(self) -> int:
        return max(0, len(self.trace.token_ids) - 1)


class Idle(KeepingEngine[Row]):
    """It keeps traces and computes nothing."""

    name = "idle"

    def __init__(self, max_batch: int, chunk_tokens: int = 1) -> None:
        self._open(max_batch, chunk_tokens)
        self.policy = FullKV()

    def render(self, question: str) -> str:
        return question

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        assert not isinstance(prompt, str)
        return self._enter(tuple(prompt), sampling, n, ids, Row)

    def stream(self) -> Iterator[Chunk]:
        with self._alone():
            yield from ()

    @property
    def stats(self) -> EngineStats:
        return EngineStats()

    def groups(self, most: int) -> list[list[str]]:
        found = []
        while self._waiting:
            found.append([row.trace.id for row in self._next_group(most)])
        return found


@pytest.mark.parametrize(("max_batch", "chunk_tokens", "says"), [(0, 1, "max_batch is 0"), (1, 0, "chunk_tokens is 0")])
def test_settings_below_one_are_refused(max_batch: int, chunk_tokens: int, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        Idle(max_batch, chunk_tokens)


@pytest.mark.parametrize(
    ("running", "waiting", "admits"),
    [
        (0, 0, False),  # nobody waits
        (0, 1, True),
        (32, 1, False),  # nothing is free
        (31, 1, True),  # one is free for the one that waits
        (31, 9, False),  # each prompt is a forward pass: an eighth of the rows comes free first
        (29, 9, False),
        (28, 9, True),
        (0, 99, True),  # an idle engine waits for nothing
    ],
)
def test_an_eighth_of_the_rows_is_free_before_others_join(running: int, waiting: int, admits: bool) -> None:
    engine = Idle(max_batch=32)
    if waiting:
        engine.submit([1], Sampling(), n=waiting)
    assert engine._to_admit(running) is admits


def test_fresh_traces_of_one_prompt_join_together_and_those_with_tokens_alone() -> None:
    engine = Idle(max_batch=8)
    engine.submit([1, 2], Sampling(), n=5, ids=list("abcde"))
    engine.submit([3], Sampling(), n=2, ids=list("fg"))
    engine.submit([1, 2], Sampling(), ids=["h"])
    engine._run("d").trace.token_ids.append(9)
    assert engine.groups(most=2) == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"], ["h"]]


def test_a_trace_that_waits_leaves_at_once_and_comes_back_last() -> None:
    engine = Idle(max_batch=8)
    engine.submit([1], Sampling(), n=3, ids=list("abc"))
    engine.stop("a")
    assert (engine.trace("a").state, engine.trace("a").finish_reason) == ("stopped", "stopped")
    with pytest.raises(LaconicError, match="only a stopped trace can be resumed"):
        engine.resume("b")
    engine.resume("a")
    assert (engine.trace("a").state, engine.trace("a").finish_reason) == ("waiting", None)
    assert engine.groups(most=1) == [["b"], ["c"], ["a"]]
