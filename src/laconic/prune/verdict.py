"""What a strategy returns: the answer, how it came about, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Fate = Literal["finished", "pruned", "abandoned", "interrupted", "waiting", "running"]


@dataclass(frozen=True, slots=True)
class TraceFate:
    """One trace and what became of it.

    fate: finished (to its end, or to its token limit), pruned (stopped as redundant or unpromising), abandoned (stopped
    because the vote was decided or its cluster was not chosen), interrupted (by the user); waiting and running occur in a
    verdict that is asked for before the end. reason: one clause, for people. cluster: index into `Verdict.clusters`, or
    None. tokens: generated. answer: extracted, None for none. weight: of its vote, 0 for no vote. text: all that it wrote.
    """

    id: str
    index: int
    fate: Fate
    reason: str
    tokens: int
    cluster: int | None = None
    answer: str | None = None
    weight: float = 0.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer (the first spelling of its equivalence class), its weight and the indices of the traces that voted so."""

    answer: str
    weight: float
    traces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """generated: by all traces; judged: on the judge's account; total: both.

    saved: against finishing all n traces, whose tokens are estimated as n times the mean length of the finished ones; None
    where none finished. An estimate: `laconic bench parallel` measures it.
    """

    generated: int
    judged: int = 0
    saved: int | None = None

    @property
    def total(self) -> int:
        return self.generated + self.judged


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a strategy on one problem.

    answer: None where no trace that counted gave one. votes: by falling weight; ties keep the order of the first trace.
    clusters: indices of traces, in order of joining. seconds: wall time by phase ("explore", "judge", "finish", "vote") and
    "total". kv: where the engine tells, "peak_bytes", "token_steps" (sum over steps and rows of tokens attended),
    "mean_tokens" (those a trace held at a step, one layer, the prompt's included), "compressions" (of one trace each) and
    "evicted" (tokens of one layer, over all of them). complete: False for a verdict before the end or after an interruption.
    note: what else a reader should know, or "".
    """

    strategy: str
    n: int
    answer: str | None
    votes: tuple[Vote, ...]
    traces: tuple[TraceFate, ...]
    tokens: Tokens
    clusters: tuple[tuple[int, ...], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    kv: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True
    note: str = ""

    @property
    def winner(self) -> int | None:
        """The index of the trace whose reasoning stands for the answer: of those that voted for it the one of most weight,
        the first of several. None without an answer."""
        if not self.votes:
            return None
        weights = {trace.index: trace.weight for trace in self.traces}
        return max(sorted(self.votes[0].traces), key=lambda index: weights[index])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON; `tokens` has its total, and `winner` is there."""
        record = asdict(self)
        record["winner"] = self.winner
        record["tokens"]["total"] = self.tokens.total
        return record
