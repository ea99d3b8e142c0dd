"""The plain vote that costs as many tokens as a strategy: what the strategy has to beat.

Against the vote of all n traces whatever stops early looks thrifty. The question is what a vote of fewer whole traces gives for
the same tokens, and its answer lies between those of cons@k and cons@(k + 1) for some k. One order of the recorded traces would
show that vote with the luck of that order, so many are drawn.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laconic.statistics import Interval, paired_difference

ORDERS = 200
"""Drawn at random for each problem, the same in every run."""


@dataclass(frozen=True, slots=True)
class PlainVotes:
    """cons@1, cons@2, ... of the same recorded traces: means over orders of them.

    tokens: a problem, by k - 1. right: [problem][k - 1], the share of orders in which the vote is right, or, where that
    was asked for, the one that most of all traces give.
    """

    tokens: tuple[float, ...]
    right: tuple[tuple[float, ...], ...]

    def at(self, tokens: float) -> list[float]:
        """Each problem's share of right votes at a mean cost of so many tokens a problem: linear between neighbours; less than
        one trace counts as one, more than all traces as all."""
        k = bisect_left(self.tokens, tokens)
        if k in (0, len(self.tokens)):
            at = min(k, len(self.tokens) - 1)
            return [shares[at] for shares in self.right]
        part = (tokens - self.tokens[k - 1]) / (self.tokens[k] - self.tokens[k - 1])
        return [(1 - part) * shares[k - 1] + part * shares[k] for shares in self.right]


def plain_votes(
    records: Sequence[dict[str, Any]], by_confidence: bool = False, what: str = "right"
) -> PlainVotes | None:
    """From each problem's record of single traces; None where one lacks `classes` (written before they were noted).

    by_confidence: ties go to the answer whose traces are the more confident ones, not to the first; None where a record lacks
    `confidences`. what: "right", or "agrees", which votes are the mode of all traces; None where a record lacks it.
    """
    needed = ("classes", what, "confidences") if by_confidence else ("classes", what)
    if any(record.get(name) is None for record in records for name in needed):
        return None
    right = tuple(_right(record, number, by_confidence, what) for number, record in enumerate(records))
    mean = sum(record["generated"] for record in records) / len(records)
    # In the mean over all orders any k traces cost k times the mean trace.
    return PlainVotes(tuple(mean * (k + 1) for k in range(len(right[0]))), right)


def difference(record_right: Sequence[Sequence[float]], plain: PlainVotes, tokens: float) -> Interval:
    """A strategy's accuracy (or how often it is the mode) minus that of the plain vote at its mean tokens a problem, paired."""
    return paired_difference(record_right, [[share] for share in plain.at(tokens)])


def _right(record: dict[str, Any], number: int, by_confidence: bool, what: str) -> tuple[float, ...]:
    classes, right = record["classes"], record[what]
    silent = float(what == "agrees" and not any(each is not None for each in classes))  # no answer is then that of all
    sure = record["confidences"] if by_confidence else [0.0] * len(classes)
    right_of = {answer: right[classes.index(answer)] for answer in classes if answer is not None}
    drawn, counted = random.Random(number), [0.0] * len(classes)
    order = list(range(len(classes)))
    for _ in range(ORDERS):
        drawn.shuffle(order)
        # Of an answer: its votes, their mean confidence, minus the place of its first trace, which breaks ties that are left.
        votes: dict[int, tuple[int, float, int]] = {}
        lead = -1
        for k, trace in enumerate(order):
            mine = classes[trace]
            if mine is not None:
                # Only this answer's votes have changed, so nobody but it can have overtaken the leader.
                count, mean, first = votes.get(mine, (0, 0.0, -k))
                votes[mine] = count + 1, mean + (sure[trace] - mean) / (count + 1), first
                if lead < 0 or votes[mine] > votes[lead]:
                    lead = mine
            counted[k] += right_of[lead] if lead >= 0 else silent
    return tuple(count / ORDERS for count in counted)
