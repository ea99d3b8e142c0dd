"""How a vote stands where some traces have finished and a judge has read prefixes of others, and what a draw is worth to it.

A finished trace is one vote of its answer. A prefix belongs to each answer with a probability: the judge has said of it and of
the traces of that answer whether they agree, and errs at known rates. Answers that only prefixes have are not known yet; they
are groups of prefixes that were judged alike. `laconic.prune.noisy_worth` values what this comes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from laconic.prune.noisy_worth import Channel, Factor, NoisyVotes
from laconic.prune.worth import AHEAD, worth

ROUNDS = 5
"""Of shares from probabilities, and of probabilities from shares."""
ANOTHER = 1.0
"""Votes that an answer which nobody has given so far is taken to have."""
NEVER = 1e-9
"""A rate of errors is at least this: a judge may be wrong in what it never was."""

Word = Callable[[int, int], bool | None]
"""The judge's on two traces by their indices; None: it was not asked."""


@dataclass(frozen=True, slots=True)
class Standing:
    """groups: indices by answer; the first `known` are finished traces, the others prefixes that were judged alike. expected:
    votes of each group, a prefix counted by its probability. prefixes: their indices, in the order in which they were read;
    odds: of each, the likelihood with each group, and last with an answer of its own, the largest being 1. other: votes of
    answers in no group. draws: finished and read. tpr, fpr: shares of pairs that agree, and that don't, which the judge calls
    the same."""

    groups: tuple[tuple[int, ...], ...]
    known: int
    expected: tuple[float, ...]
    prefixes: tuple[int, ...]
    odds: tuple[tuple[float, ...], ...]
    other: float
    draws: int
    tpr: float
    fpr: float

    @property
    def leaders(self) -> tuple[int, ...]:
        """The two groups of most expected votes, or as many as there are; of equals the earlier."""
        return tuple(sorted(range(len(self.groups)), key=lambda g: (-self.expected[g], g))[:2])

    def probabilities(self, prefix: int) -> list[float]:
        """Of a prefix by its place: that it belongs to each group, and last that it belongs to none."""
        found = [p * w for p, w in zip([*self.expected, self.other], self.odds[prefix], strict=True)]
        whole = math.fsum(found)
        return [p / whole for p in found]

    def share(self) -> float:
        """Of draws, on the two leaders."""
        return min(1.0, math.fsum(self.expected[g] for g in self.leaders) / self.draws)

    def value_of_finishing(self, left: int) -> float:
        """A fresh trace's, as `worth` has it. left: traces that may still start."""
        if left <= 0:
            return 0.0
        if not self.prefixes or not self.groups:
            return worth([len(group) for group in self.groups], self.draws, left)
        return self._votes().rise_exact(min(AHEAD, left)) * self.share() * self._leads()

    def value_of_reading(self, left: int) -> float:
        """A fresh trace's prefix."""
        if left <= 0 or not self.groups:
            return 0.0
        informative, channel = self.channel()
        return self._votes().rise_noisy(channel, min(AHEAD, left)) * informative * self._leads()

    def value_of_completing(self) -> tuple[float, int | None]:
        """That of finishing a trace that was read, and which: that whose answer is the least certain. None: there is none."""
        if not self.prefixes:
            return 0.0, None
        factors = self._factors()
        # The farther from certain the three are together, the less is known.
        order = sorted(
            range(len(factors)), key=lambda i: (-math.fsum(min(x, 1 - x) for x in factors[i]), self.prefixes[i])
        )
        asked, rest = order[:AHEAD], order[AHEAD:]
        votes = self._votes(rest)
        return votes.rise_finished([factors[i] for i in asked], AHEAD) * self._leads(), self.prefixes[order[0]]

    def channel(self) -> tuple[float, Channel]:
        """What reading one more tells: the share of prefixes that are judged like one leader alone, and of these P(like the
        first) where it is on the first, and where it is on the second. Without a second answer whatever is unlike the first is
        on the second."""
        same, false, share = self.tpr, self.fpr, self.share()
        if len(self.leaders) < 2:
            return share, (same, false)
        right, wrong, astray = same * (1 - false), false * (1 - same), false * (1 - false)
        told = share * (right + wrong) + 2 * (1 - share) * astray
        if told <= 0:
            return 0.0, (0.5, 0.5)
        hit = (share * right + (1 - share) * astray) / told
        return told, (hit, 1 - hit)

    def _leads(self) -> float:
        """The leader's share of all draws."""
        return self.expected[self.leaders[0]] / self.draws

    def _factors(self) -> list[Factor]:
        """Of every prefix, to a sum of 1."""
        first, *second = self.leaders
        share, found = self.share(), []
        rest = [*(g for g in range(len(self.groups)) if g not in self.leaders), len(self.groups)]
        votes = [*self.expected, self.other]
        for odds in self.odds:
            on_first = share * odds[first]
            on_second = share * odds[second[0] if second else -1]
            elsewhere = math.fsum(votes[g] * odds[g] for g in rest) / math.fsum(votes[g] for g in rest)
            parts = on_first, on_second, (1 - share) * elsewhere
            whole = math.fsum(parts)
            found.append((parts[0] / whole, parts[1] / whole, parts[2] / whole))
        return found

    def _votes(self, places: Sequence[int] | None = None) -> NoisyVotes:
        """Of the two leaders. places: of the prefixes that count; None: all."""
        exact = [len(self.groups[g]) if g < self.known else 0 for g in self.leaders]
        factors = self._factors() if self.prefixes else []
        kept = factors if places is None else [factors[i] for i in places]
        return NoisyVotes(exact[0], exact[1] if len(exact) > 1 else 0, tuple((p + r, q + r) for p, q, r in kept))


def stand(
    answers: Sequence[Sequence[int]],
    unanswered: int,
    read: Sequence[int],
    same: Word,
    tpr: float,
    fpr: float,
) -> Standing:
    """answers: indices of the finished traces by answer, in the order in which equals rank. unanswered: finished without one.
    read: indices of the traces that have been read and not finished, in the order in which they were. tpr, fpr: see Standing.

    What the judge says of a prefix and a group's members is weighed as one judgement, their mean: its errors come with traces
    more than with pairs, so that ten words of it on the same prefix are not ten times as much. A prefix that is most
    probably of no group opens one of its own.
    """
    tpr, fpr = (min(max(rate, NEVER), 1 - NEVER) for rate in (tpr, fpr))
    yes, no = math.log(tpr / fpr), math.log((1 - tpr) / (1 - fpr))
    groups, known = [list(each) for each in answers], len(answers)

    def log_odds(index: int, members: Sequence[int]) -> float:
        words = [word for word in (same(index, member) for member in members) if word is not None]
        agree = sum(words) / len(words) if words else 0.0
        return agree * yes + (1 - agree) * no if words else 0.0

    other, rows = ANOTHER + unanswered, []
    founders: set[int] = set()
    for index in read:
        row = [log_odds(index, group) for group in groups]
        weights = [math.log(len(group) if g < known else 1) + row[g] for g, group in enumerate(groups)]
        best = max(range(len(groups)), key=lambda g: weights[g], default=None)
        if best is None or math.log(other) >= _log_sum(weights):
            groups.append([index])
            row.append(0.0)
            founders.add(index)
        elif best >= known:
            groups[best].append(index)
        rows.append(row)
    odds = []
    for index, row in zip(read, rows, strict=True):
        for group in groups[len(row) :]:  # groups that were opened later
            row.append(log_odds(index, group))
        row.append(-math.inf if index in founders else 0.0)
        highest = max(row)
        odds.append(tuple(math.exp(each - highest) for each in row))
    votes = [float(len(group)) if g < known else 0.0 for g, group in enumerate(groups)]
    expected = [count if g < known else 1.0 for g, count in enumerate(votes)]
    beyond = other
    for _ in range(ROUNDS if read else 0):
        counts = [*votes, other]
        for each in odds:
            found = [p * w for p, w in zip([*expected, beyond], each, strict=True)]
            whole = math.fsum(found)
            counts = [count + p / whole for count, p in zip(counts, found, strict=True)]
        *expected, beyond = counts
    return Standing(
        tuple(map(tuple, groups)),
        known,
        tuple(expected),
        tuple(read),
        tuple(odds),
        beyond,
        sum(map(len, answers)) + unanswered + len(read),
        tpr,
        fpr,
    )


def _log_sum(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(math.fsum(math.exp(each - highest) for each in logs))
