"""What a file of traces comes to: single traces right, votes right, and how often traces agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.answers import group_equivalent
from laconic.statistics import Interval, mean_interval


@dataclass(frozen=True, slots=True)
class CollectionSummary:
    """What a file holds of the traces that were asked for, and what this run cost.

    problems: with at least one trace. traces, new: in all, and by this run; missing: not there, those of refused problems
    included. pass_at_1, cons_at_n: with 95 % intervals over problems, None where some have no reference answer; a vote's tie
    goes to the answer given first. equal_pairs: share of pairs of one problem's traces with equal answers (a trace without
    answer equals none), None without pairs. refused: (problem's id, why). tokens: of all; new_tokens, seconds: of this run.
    budget, limit: what all problems shared, as it was asked for and in tokens, where they did; cons_at_n then is the vote of
    the traces that each has, n the most of them.
    """

    path: str
    n: int
    problems: int
    traces: int
    new: int
    missing: int
    pass_at_1: Interval | None
    cons_at_n: Interval | None
    equal_pairs: float | None
    refused: tuple[tuple[str, str], ...]
    tokens: int
    new_tokens: int
    seconds: float
    budget: str | None = None
    limit: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of this run; None if it generated nothing."""
        return self.new_tokens / self.seconds if self.new_tokens and self.seconds > 0 else None

    def to_json(self) -> dict[str, Any]:
        record = dataclasses.asdict(self) | {"tokens_per_second": self.tokens_per_second}
        scores = {"pass_at_1": self.pass_at_1, "cons_at_n": self.cons_at_n}
        return record | {name: None if score is None else score._asdict() for name, score in scores.items()}


def sum_up(
    problems: Sequence[Sequence[Mapping[str, Any]]],
    *,
    path: str,
    n: int,
    missing: int,
    refused: Sequence[tuple[str, str]],
    new: int,
    new_tokens: int,
    seconds: float,
    scored: bool = True,
    votes: Sequence[float] | None = None,
    budget: str | None = None,
    limit: int | None = None,
) -> CollectionSummary:
    """problems: each one's traces in the order of their index, at least one: `answer`, `correct` and `tokens` (how many).
    scored: whether all of them have reference answers. votes: whether each problem's is right; None: plain ones."""
    classes = [group_equivalent([trace["answer"] for trace in traces]) for traces in problems]
    pairs = sum(len(traces) * (len(traces) - 1) // 2 for traces in problems)
    equal = sum(size * (size - 1) // 2 for of in classes for size in _sizes(of).values())
    return CollectionSummary(
        path=path,
        n=n,
        problems=len(problems),
        traces=sum(map(len, problems)),
        new=new,
        missing=missing,
        pass_at_1=mean_interval([[float(t["correct"]) for t in traces] for traces in problems]) if scored else None,
        cons_at_n=mean_interval([[right] for right in votes or map(_vote, problems, classes)]) if scored else None,
        equal_pairs=equal / pairs if pairs else None,
        refused=tuple(refused),
        tokens=sum(trace["tokens"] for traces in problems for trace in traces),
        new_tokens=new_tokens,
        seconds=seconds,
        budget=budget,
        limit=limit,
    )


def _vote(traces: Sequence[Mapping[str, Any]], classes: Sequence[int | None]) -> float:
    """Whether the answer that most traces give is right; of several, the one given first."""
    sizes = _sizes(classes)
    if not sizes:
        return 0.0
    winner = max(sizes, key=lambda name: sizes[name])  # the first of the largest
    return float(traces[classes.index(winner)]["correct"])


def _sizes(classes: Sequence[int | None]) -> dict[int, int]:
    """Traces of each class, in the order of their first."""
    sizes: dict[int, int] = {}
    for name in classes:
        if name is not None:
            sizes[name] = sizes.get(name, 0) + 1
    return sizes
