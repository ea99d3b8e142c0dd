"""Slow, obvious versions: DeepPrune's clustering as its description reads, and votes counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import product
from math import fsum


def cluster(
    newcomers: Iterable[int],
    same: Callable[[int, int], float],
    tau: float,
    K: int,
    members: Callable[[int, Sequence[int]], Sequence[int]],
    decisions: bool = True,
) -> tuple[list[list[int]], list[int]]:
    """(clusters, left out). members(newcomer, cluster): who of a cluster is compared."""
    clusters: list[list[int]] = []
    left_out: list[int] = []
    for newcomer in newcomers:
        ranked = []
        for number, inside in enumerate(clusters):
            probabilities = [same(other, newcomer) for other in members(newcomer, inside)]
            mean = fsum(probabilities) / len(probabilities)
            votes = sum(1 for p in probabilities if p > 0.5) / len(probabilities)
            ranked.append((votes if decisions else mean, mean, -number))
        best = max(ranked, default=None)
        if best is not None and best[0] > tau:
            clusters[-best[2]].append(newcomer)
        elif len(clusters) < K:
            clusters.append([newcomer])
        else:
            left_out.append(newcomer)
    return clusters, left_out


def winner(votes: Sequence[tuple[int, str, int]]) -> str | None:
    """(index, answer, weight) each. The most weight; of equals, whose first voter has the lowest index."""
    best = None
    for answer in {answer for _, answer, _ in votes}:
        mine = [(index, weight) for index, given, weight in votes if given == answer]
        key = (-sum(weight for _, weight in mine), min(index for index, _ in mine))
        if best is None or key < best[0]:
            best = key, answer
    return None if best is None else best[1]


def overtakable(cast: Sequence[tuple[int, str, int]], pending: Sequence[tuple[int, int]]) -> bool:
    """Whether some way of filling in the pending (index, weight) votes changes the winner, by trying all of them."""
    lead = winner(cast)
    answers = [*sorted({answer for _, answer, _ in cast}), "new", "newer", None]
    for choice in product(answers, repeat=len(pending)):
        filled = [(i, a, w) for (i, w), a in zip(pending, choice, strict=True) if a is not None]
        if winner([*cast, *filled]) != lead:
            return True
    return False


def window_confidence(logprobs: Sequence[float], window: int) -> Fraction:
    """The least mean of minus the log-probabilities over any `window` neighbours; over all where there are fewer."""
    exact = [-Fraction(value) for value in logprobs]
    if len(exact) < window:
        return sum(exact, Fraction(0)) / len(exact)
    return min(sum(exact[i : i + window], Fraction(0)) / window for i in range(len(exact) - window + 1))
