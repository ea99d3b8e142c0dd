"""What a strategy is: how many traces, which to stop, how to vote.

A strategy is a frozen record of settings; `begin` binds it to an engine and a question. The `StrategyRun` that it returns is
advanced by iterating: each item is a `StrategyProgress`, and `verdict()` is valid at any moment, so an
interruption loses nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from laconic.prune.needs import Needs
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.verdict import PlainVote, Verdict


@dataclass(frozen=True, slots=True)
class StrategyProgress:
    """A step of a strategy's run, for a live view or a log."""

    phase: str
    """"explore", "judge", "finish" or "vote"."""
    moved: tuple[str, ...] = ()
    """Ids of the traces that have new tokens, another state or another cluster."""
    message: str = ""
    """One clause where something was decided, else ""."""
    waits: bool = False
    """Nothing has moved: the engine is shared, and this run goes on when there are chunks for it."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One trace as a live view shows it."""

    id: str
    index: int
    tokens: int
    """Generated so far."""
    state: str
    """Its fate so far, see `Fate`."""
    cluster: int | None = None
    """Index of its cluster; None for none yet."""
    answer: str | None = None
    """Of a finished trace; None for none."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a live view needs, cheap to make (no judging, no equivalence checks beyond those already made)."""

    phase: str
    rows: tuple[TraceRow, ...]
    clusters: tuple[int, ...] = ()
    """Their sizes."""
    votes: tuple[tuple[str, float], ...] = ()
    """Answers and their weights."""
    generated: int = 0
    """Tokens of all traces."""
    judged: int = 0
    """Tokens that the judge ran."""
    seconds: float = 0.0
    """Of wall time."""
    kv_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by phase."""
    plain: PlainVote | None = None
    """What a plain vote would have come to for the same tokens."""


class StrategyRun(ABC):
    """One run of a strategy on one question: iterate it to the end, or stop iterating and call `interrupt`."""

    @abstractmethod
    def __iter__(self) -> Iterator[StrategyProgress]:
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
    acts_at_ends: ClassVar[bool] = False
    """Whether its runs only act when a trace has ended, so that a replay may hand out all tokens before that at once."""

    @property
    def alone(self) -> bool:
        """Whether a run goes by the clock or by what the engine's whole cache holds, so that none should run beside it."""
        return False

    def acts_at(self) -> int | None:
        """Tokens of a trace at which its runs act beside the trace's end; 0: at ends alone. None: they may act at any."""
        return 0 if self.acts_at_ends else None

    def needs(self) -> Needs:
        """What its runs read of the engine beside tokens: what its judge, its excerpts and its vote need, together.

        A run asks the engine to arrange for it (`Engine.prepare`) before it submits; who starts an engine for it can ask
        beforehand (`Engine.check_needs`). Raises InputError where its parts need what one run can't give.
        """
        return Needs()

    @abstractmethod
    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> StrategyRun:
        """Bind to an engine and a question (the user's message; `engine.render` makes the prompt). Nothing runs yet."""

    def solve(self, engine: TraceEngine, question: str, sampling: SamplingView) -> Verdict:
        """Run to the end and return the verdict. The traces are stopped and dropped from the engine, whatever happens."""
        solving = self.begin(engine, question, sampling)
        try:
            for _ in solving:
                pass
        finally:
            verdict = solving.interrupt()
            engine.forget([trace.id for trace in verdict.traces])
        return verdict
