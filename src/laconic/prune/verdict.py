"""What a strategy returns: the answer, how it came about, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Fate = Literal["finished", "pruned", "abandoned", "interrupted", "lost", "waiting", "running"]


@dataclass(frozen=True, slots=True)
class TraceFate:
    """One trace and what became of it."""

    id: str
    index: int
    fate: Fate
    """finished (to its end, or to its token limit), pruned (stopped as redundant or unpromising), abandoned (stopped because
    the vote was decided or its cluster was not chosen), interrupted (by the user), lost (the engine gave it up; it has no
    vote); waiting and running occur in a verdict that is asked for before the end. Where a strategy probes, one that was
    stopped may have a vote: what the probe gave."""
    reason: str
    """One clause, for people."""
    tokens: int
    """Generated."""
    cluster: int | None = None
    """Index into `Verdict.clusters`; None: in none."""
    answer: str | None = None
    """Extracted, or given by the probe that it votes with; None for none."""
    weight: float = 0.0
    """Of its vote; 0 for no vote."""
    text: str = ""
    """All that it wrote; where a probe answered for it, with an end that gives this answer."""
    confidence: float | None = None
    """Mean over the tokens of a finished trace; None where none were asked for."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer (the first spelling of its equivalence class), its weight and the indices of the traces that voted so."""

    answer: str
    weight: float
    traces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a strategy took."""

    generated: int
    """By all traces."""
    judged: int = 0
    """By the judge, through networks of its own or the engine's; or by the strategy's probes, what they append included."""
    saved: int | None = None
    """Against finishing all n traces, whose tokens are estimated as n times the mean length of the finished ones; None where
    none finished. An estimate: `laconic bench parallel` measures it."""

    @property
    def total(self) -> int:
        """Generated and judged."""
        return self.generated + self.judged


@dataclass(frozen=True, slots=True)
class PlainVote:
    """What a majority vote without any strategy would have come to for the same tokens, as far as the traces at hand tell."""

    answer: str | None
    """Of the traces that have finished, each with one vote, ties by their confidences where these are known (which costs
    nothing); None where none gave an answer."""
    votes: int
    """That it has."""
    finished: int
    """Traces that have finished."""
    affordable: float
    """Traces of the mean length of these that the tokens so far would have paid for: at least `finished`. Where there are
    more, the others' answers aren't known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a strategy on one problem."""

    strategy: str
    n: int
    """Traces of the problem."""
    answer: str | None
    """None where no trace that counted gave one."""
    votes: tuple[Vote, ...]
    """By falling weight; ties keep the order of the first trace."""
    traces: tuple[TraceFate, ...]
    tokens: Tokens
    clusters: tuple[tuple[int, ...], ...] = ()
    """Indices of traces, in order of joining."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by phase ("explore", "judge", "finish", "vote") and "total"."""
    kv: Mapping[str, float] = field(default_factory=dict)
    """Where the engine tells: "peak_bytes", "steps" (of the engine, one after another, all rows at once), "token_steps" (tokens
    attended, summed over steps and rows), "mean_tokens" (those a trace held at a step, one layer, the prompt's included),
    "compressions" (of one trace each) and "evicted" (tokens of one layer, over all of them)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The strategy's, by name."""
    complete: bool = True
    """False for a verdict before the end or after an interruption."""
    note: str = ""
    """What else a reader should know."""
    plain: PlainVote | None = None
    """What a plain vote would have come to for the same tokens, by the traces that have finished; None before one has."""

    @property
    def winner(self) -> int | None:
        """The index of the trace whose reasoning stands for the answer: of those that voted for it the one of most weight,
        of several one that came to its end, the first of these. None without an answer."""
        if not self.votes:
            return None
        rank = {trace.index: (trace.weight, trace.fate == "finished") for trace in self.traces}
        return max(sorted(self.votes[0].traces), key=lambda index: rank[index])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON; `tokens` has its total, and `winner` is there."""
        record = asdict(self)
        record["winner"] = self.winner
        record["tokens"]["total"] = self.tokens.total
        return record
