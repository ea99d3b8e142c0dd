"""What a further trace is worth to a vote: by how much it should raise the probability that the leader is the mode.

The mode is the answer that most traces of the model would give. Of the two leading answers, those of `a` and of `b` traces, the
share of draws that falls on the first has the posterior Beta(a + 1, b + 1), from a flat prior; how the next draws on these two
fall is Beta-binomial. That the leader stays ahead by this posterior is adaptive consistency's rule to stop (Aggarwal et al.,
arXiv 2305.11860); looking ahead, and weighing by how scattered the vote is, are laconic's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

AHEAD = 8
"""Traces that are looked ahead at most. Where the leader is two votes ahead, one trace alone can't change who leads."""


@lru_cache(maxsize=1 << 16)
def ahead_probability(a: int, b: int) -> float:
    """P(theta > 1/2) for theta of Beta(a + 1, b + 1): that the first of two answers with a and b votes is the likelier one.

    For whole numbers it is the probability that at most a of a + b + 1 fair coins show heads.
    """
    if a < b:
        return 1 - ahead_probability(b, a)
    coins, heads, beyond = a + b + 1, a + 1, 0.0
    chance = math.exp(math.lgamma(coins + 1) - math.lgamma(heads + 1) - math.lgamma(b + 1) - coins * math.log(2))
    while chance > beyond * 1e-17 and heads <= coins:  # from the middle outwards each is smaller than the one before
        beyond += chance
        chance *= (coins - heads) / (heads + 1)
        heads += 1
    return 1 - beyond


@lru_cache(maxsize=1 << 16)
def best_probability(a: int, b: int, draws: int) -> float:
    """The expected probability that the leader of the two is the likelier one, after so many more draws on these two."""
    found = []
    for first in range(draws + 1):
        probability = ahead_probability(a + first, b + draws - first)
        found.append(_share(a, b, first, draws - first) * max(probability, 1 - probability))
    return math.fsum(found)


def _share(a: int, b: int, first: int, second: int) -> float:
    """Beta-binomial: that of first + second draws just `first` fall on the first answer."""
    ways = math.lgamma(first + second + 1) - math.lgamma(first + 1) - math.lgamma(second + 1)
    return math.exp(ways + _log_beta(a + 1 + first, b + 1 + second) - _log_beta(a + 1, b + 1))


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@lru_cache(maxsize=1 << 16)
def rise(a: int, b: int, most: int, running: int = 0) -> float:
    """The largest rise of `best_probability` a draw, over 1 to `most` more draws. running: draws that are on their way."""
    now = best_probability(a, b, running)
    return max((best_probability(a, b, running + draws) - now) / draws for draws in range(1, most + 1))


def worth(votes: Sequence[int], traces: int, left: int, running: int = 0) -> float:
    """What one more trace is worth to a vote, from 0 to 1/4: `rise`, times the share of traces that fall on the two leading
    answers, times the leader's share (a scattered vote is hardly ever right at its mode).

    votes: of each answer, in any order. traces: that have ended, those without an answer among them. left: that may still be
    started; 0 are worth nothing. running: that are on their way; of them as large a share counts as has fallen on the two.
    While no trace has given an answer the next one is taken to, one time in traces + 1.
    """
    if left <= 0:
        return 0.0
    most = min(AHEAD, left)
    leading = sorted(votes, reverse=True)[:2]
    a, b = [*leading, 0, 0][:2]
    if not a:
        return rise(0, 0, most, 0) / (traces + 1) ** 2
    share = (a + b) / traces
    return rise(a, b, most, round(running * share)) * share * a / traces
