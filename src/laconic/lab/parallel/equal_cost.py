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

    tokens: a problem, by k - 1. right: [problem][k - 1], the share of orders in which the vote is right.
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


def plain_votes(records: Sequence[dict[str, Any]]) -> PlainVotes | None:
    """From each problem's record of single traces; None where one lacks `classes` (written before they were noted)."""
    if any("classes" not in record for record in records):
        return None
    right = tuple(_right(record, number) for number, record in enumerate(records))
    mean = sum(record["generated"] for record in records) / len(records)
    # In the mean over all orders any k traces cost k times the mean trace.
    return PlainVotes(tuple(mean * (k + 1) for k in range(len(right[0]))), right)


def difference(record_right: Sequence[Sequence[float]], plain: PlainVotes, tokens: float) -> Interval:
    """A strategy's accuracy minus that of the plain vote at its mean tokens a problem, paired by problem."""
    return paired_difference(record_right, [[share] for share in plain.at(tokens)])


def _right(record: dict[str, Any], number: int) -> tuple[float, ...]:
    classes, right = record["classes"], record["right"]
    drawn, counted = random.Random(number), [0.0] * len(classes)
    order = list(range(len(classes)))
    for _ in range(ORDERS):
        drawn.shuffle(order)
        votes: dict[int, int] = {}  # in the order of their first traces, which breaks ties
        for k, trace in enumerate(order):
            mine = classes[trace]
            if mine is not None:
                votes[mine] = votes.get(mine, 0) + 1
            if votes:
                counted[k] += right[classes.index(max(votes, key=votes.__getitem__))]
    return tuple(count / ORDERS for count in counted)
