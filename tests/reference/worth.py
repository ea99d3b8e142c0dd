"""What a further trace is worth to a vote, slow and obvious: exact fractions, every sequence of draws by itself."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

HALF = Fraction(1, 2)


def ahead(a: int, b: int) -> Fraction:
    """P(theta > 1/2) under Beta(a + 1, b + 1): the integral of its density, a polynomial, from 1/2 to 1."""

    def integral(low: Fraction, high: Fraction) -> Fraction:
        # theta^a (1 - theta)^b, the second factor multiplied out
        total, sign, ways = Fraction(0), 1, 1
        for k in range(b + 1):
            total += sign * ways * (high ** (a + k + 1) - low ** (a + k + 1)) / (a + k + 1)
            sign, ways = -sign, ways * (b - k) // (k + 1)
        return total

    return integral(HALF, Fraction(1)) / integral(Fraction(0), Fraction(1))


def best(a: int, b: int, draws: int) -> Fraction:
    """Over all sequences of draws, each by Polya's urn: the next falls on the first with (a + 1) / (a + b + 2)."""
    total = Fraction(0)
    for sequence in product((True, False), repeat=draws):
        probability, x, y = Fraction(1), a, b
        for first in sequence:
            probability *= Fraction((x if first else y) + 1, x + y + 2)
            x, y = x + first, y + (not first)
        leads = ahead(x, y)
        total += probability * max(leads, 1 - leads)
    return total


def rise(a: int, b: int, most: int, running: int = 0) -> Fraction:
    return max((best(a, b, running + m) - best(a, b, running)) / m for m in range(1, most + 1))


def worth(votes: Sequence[int], traces: int, left: int, ahead_at_most: int = 8) -> Fraction:
    """Without traces on their way."""
    if not left:
        return Fraction(0)
    most = min(left, ahead_at_most)
    a, b = sorted([*votes, 0, 0], reverse=True)[:2]
    if not a:
        return rise(0, 0, most) / (traces + 1) ** 2
    return rise(a, b, most) * Fraction(a + b, traces) * Fraction(a, traces)
