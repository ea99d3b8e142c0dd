"""Voting: answers grouped by equivalence, weights added up, and whether the lead can still be overtaken.

The winner is the answer with the most weight; of equals, the one whose traces have the highest mean `tie`, where they were
given one, then the one that the trace with the lowest index gave. Votes are plain (weight 1), by cluster size (`shares`) or by
confidence (`Confidence`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from laconic import answers, checks
from laconic.errors import InputError
from laconic.prune.trace_engine import TraceView
from laconic.prune.verdict import PlainVote, Vote

TIES = ("confidence", "index")
"""What breaks ties: the mean confidence of the traces that gave an answer, or which of them came first."""

Pending = tuple[int, float]
"""A vote not cast yet: (index of the trace, weight at most)."""


class Tally:
    """Votes as they come in, in any order. The outcome depends on which there are, not on that order."""

    def __init__(self) -> None:
        self._cast: dict[int, tuple[str, float, float]] = {}
        self._classes: dict[str, int] = {}
        self._spellings: tuple[str, ...] = ()

    def add(self, index: int, answer: str, weight: float = 1.0, tie: float = 0.0) -> None:
        """The vote of trace `index`. A trace votes once: a second vote takes the place of its first. tie: what its answer is
        ranked by among those of equal weight, as a mean over the traces that gave it."""
        self._cast[index] = answer, weight, tie

    def remove(self, index: int) -> None:
        """Take the vote of trace `index` back, if there is one."""
        self._cast.pop(index, None)

    def __len__(self) -> int:
        return len(self._cast)

    def votes(self) -> tuple[Vote, ...]:
        """By falling weight, equals by their mean `tie`, then by their first trace. An answer is spelled as the first trace
        that gave it spelled it.

        Equivalence is asked (`answers.group_equivalent`) only where there is a spelling that wasn't there before.
        """
        order = sorted(self._cast)
        spellings = tuple(dict.fromkeys(self._cast[i][0] for i in order))
        if spellings != self._spellings:
            found = answers.group_equivalent(spellings)
            self._classes = {s: c for s, c in zip(spellings, found, strict=True) if c is not None}
            self._spellings = spellings
        members: dict[int, list[int]] = {}
        for i in order:
            where = self._classes.get(self._cast[i][0])
            if where is not None:  # a blank answer is none
                members.setdefault(where, []).append(i)
        counted = [
            Vote(self._cast[voters[0]][0], math.fsum(self._cast[i][1] for i in voters), tuple(voters))
            for voters in members.values()
        ]
        return tuple(sorted(counted, key=lambda vote: (-vote.weight, -self._tie(vote), vote.traces[0])))

    def _tie(self, vote: Vote) -> float:
        return math.fsum(self._cast[i][2] for i in vote.traces) / len(vote.traces)


def plain_vote(votes: Sequence[Vote], finished: Sequence[int], tokens: int) -> PlainVote | None:
    """votes: of the finished traces, one each. finished: their lengths in tokens. tokens: spent so far, the judge's among
    them. None while no trace has finished, or all that did are empty: nothing is known of a trace's length."""
    lengths = sum(finished)
    if not lengths:
        return None
    lead = votes[0] if votes else None
    return PlainVote(
        lead.answer if lead else None,
        len(lead.traces) if lead else 0,
        len(finished),
        max(tokens * len(finished) / lengths, float(len(finished))),
    )


def known_confidence(trace: TraceView) -> float | None:
    """`mean_confidence`; None where the engine gave none, or fewer than tokens."""
    known = trace.confidences and len(trace.confidences) >= len(trace.token_ids)
    return mean_confidence(trace) if known else None


def mean_confidence(trace: TraceView) -> float:
    """Of a trace's tokens. Raises InputError where the engine gave none, or fewer than tokens."""
    found = trace.confidences
    if not found or len(found) < len(trace.token_ids):
        raise InputError(
            f"trace {trace.id} has {len(found)} confidences for {len(trace.token_ids)} tokens, and ties are broken by them: "
            "use an engine that returns them, or ties=index"
        )
    return math.fsum(found) / len(found)


def confidences_of(trace: TraceView, who: str) -> list[float]:
    """One a token. who: as in "DeepConf needs", for the InputError where the engine gave fewer."""
    found = trace.confidences
    if len(found) < len(trace.token_ids):
        raise InputError(
            f"trace {trace.id} has {len(found)} confidences for {len(trace.token_ids)} tokens; {who} one of each: use an "
            "engine that returns them"
        )
    return found


def decided(votes: Sequence[Vote], pending: Sequence[Pending], *, open_ties: bool = False) -> bool:
    """Whether the first of `votes` wins whatever the pending ones turn out to be; each may also not be cast at all.

    Exact, tie rule included: the worst for the leader is that all the pending vote for one and the same rival. open_ties: ties
    are broken by what pending votes bring along (their confidence), so a tie may go either way.
    """
    if not pending:
        return True
    if not votes:
        return False
    lead = votes[0]
    weights, first = [weight for _, weight in pending], min(index for index, _ in pending)
    rivals = [(vote.weight, vote.traces[0]) for vote in votes[1:]]
    for weight, index in [*rivals, (0.0, first)]:  # the last: an answer that nobody has given yet
        reach = math.fsum([weight, *weights])
        if reach > lead.weight or (reach == lead.weight and (open_ties or min(index, first) < lead.traces[0])):
            return False
    return True


def enough(votes: Sequence[Vote], pending: Sequence[Pending]) -> int:
    """The fewest of `pending`, from its start, that could decide the vote: if all of them vote for the leader.

    All of them where a weight is infinite, which stands for one that isn't known.
    """
    if any(math.isinf(weight) for _, weight in pending):
        return len(pending)
    return bisect_left(range(len(pending)), True, key=lambda count: _could(votes, pending, count))


def _could(votes: Sequence[Vote], pending: Sequence[Pending], count: int) -> bool:
    """Whether the vote is decided once the first `count` pending votes have gone to the leader (or made one)."""
    cast, rest = pending[:count], pending[count:]
    lead = votes[0] if votes else None
    voters = [*(lead.traces if lead else ()), *(index for index, _ in cast)]
    if not voters:
        return False
    weight = math.fsum([lead.weight if lead else 0.0, *(weight for _, weight in cast)])
    return decided([Vote("", weight, (min(voters),)), *votes[1:]], rest)


def consensus(votes: Sequence[Vote]) -> float:
    """The leader's share of the weight; 0 without votes."""
    total = math.fsum(vote.weight for vote in votes)
    return votes[0].weight / total if total > 0 else 0.0


def seats(sizes: Sequence[int], count: int) -> list[int]:
    """`count` voters over clusters in proportion to their sizes (Webster's rule, which favours neither large
    nor small ones; ties: the earlier cluster).

    No cluster gets more voters than it has members; fewer than `count` are given where there are fewer members.
    """
    given = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        best = max(
            (c for c in range(len(sizes)) if given[c] < sizes[c]), key=lambda c: (sizes[c] / (2 * given[c] + 1), -c)
        )
        given[best] += 1
    return given


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of the values lies, linear between neighbours (numpy's default).

    Raises InputError for no values, or another share.
    """
    if not values:
        raise InputError("there are no values; expected at least one")
    checks.share("share", share)
    ranked = sorted(values)
    at = share * (len(ranked) - 1)
    low = min(int(at), len(ranked) - 1)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (at - low)


@dataclass(slots=True)
class Confidence:
    """One trace's confidence as it is written (DeepConf, arXiv 2508.15260), a token at a time.

    A token's confidence is minus the mean log-probability of its top candidates; a group's is the mean over the latest
    `window` tokens, once there are so many; `lowest` is that of the least confident group so far. A trace shorter than a
    window is one group: all of it.
    """

    window: int
    tokens: int = 0
    _latest: list[float] | None = None
    _sum: float = 0.0
    _lowest: float = math.inf

    def add(self, confidence: float) -> None:
        """The next token's confidence."""
        if self._latest is None:
            self._latest = [0.0] * self.window
        place = self.tokens % self.window
        self.tokens += 1
        old, self._latest[place] = self._latest[place], confidence
        # Summed anew once a window, so that rounding does not pile up over a long trace.
        self._sum = math.fsum(self._latest) if place == self.window - 1 else self._sum - old + confidence
        if self.tokens >= self.window:
            self._lowest = min(self._lowest, self._sum / self.window)

    @property
    def latest(self) -> float:
        """The mean over the latest `window` tokens, or over all where there are fewer; 0 for a trace without tokens."""
        return self._sum / min(self.tokens, self.window) if self.tokens else 0.0

    @property
    def lowest(self) -> float:
        """0 for a trace without tokens."""
        if self.tokens >= self.window:
            return self._lowest
        return self._sum / self.tokens if self.tokens else 0.0
