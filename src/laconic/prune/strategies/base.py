"""What a strategy is: how many traces, which to stop, how to vote.

A strategy is a frozen record of settings; `begin` binds it to an engine and a question. The `Solving` that it returns is
advanced by iterating: each item is a `Progress`, and `verdict()` is valid at any moment, so an interruption loses nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from laconic.prune.source import Source
from laconic.prune.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of a run, for who watches. phase: "explore", "judge", "finish" or "vote". moved: ids of the traces that have
    new tokens, another state or another cluster. message: one clause where something was decided, else ""."""

    phase: str
    moved: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One trace as a live view shows it. cluster: index or None. answer: once finished."""

    id: str
    index: int
    tokens: int
    state: str
    cluster: int | None = None
    answer: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a live view needs, cheap to make (no judging, no equivalence checks beyond those already made).

    clusters: their sizes. votes: answers and weights. seconds: of wall time; phases: the same by phase.
    """

    phase: str
    rows: tuple[Row, ...]
    clusters: tuple[int, ...] = ()
    votes: tuple[tuple[str, float], ...] = ()
    generated: int = 0
    judged: int = 0
    seconds: float = 0.0
    kv_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)


class Solving(ABC):
    """One run of a strategy on one question: iterate it to the end, or stop iterating and call `interrupt`."""

    @abstractmethod
    def __iter__(self) -> Iterator[Progress]:
        """Run to the end. Raises InputError before the first item for settings or a question that can't work."""

    @abstractmethod
    def snapshot(self) -> Snapshot: ...

    @abstractmethod
    def verdict(self) -> Verdict:
        """The outcome, or (complete=False) what it would be now."""

    @abstractmethod
    def interrupt(self) -> Verdict:
        """Stop every trace that still runs and return the verdict so far; the traces' records stay in the engine.

        Of a run that has ended: its verdict. Valid after an exception too, of the engine's or of the judge's.
        """


class Strategy(ABC):
    """A frozen record of settings with a name. summary: one clause for people; source: the paper that it comes from."""

    name: str
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @abstractmethod
    def begin(self, source: Source, question: str, sampling: Any) -> Solving:
        """Bind to an engine and a question (the user's message; `source.render` makes the prompt). Nothing runs yet."""

    def solve(self, source: Source, question: str, sampling: Any) -> Verdict:
        """Run to the end and return the verdict. The traces are stopped and dropped from the engine, whatever happens."""
        solving = self.begin(source, question, sampling)
        try:
            for _ in solving:
                pass
        finally:
            verdict = solving.interrupt()
            source.forget([trace.id for trace in verdict.traces])
        return verdict
