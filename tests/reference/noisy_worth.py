"""What a further draw is worth beside noisy ones, slow and obvious: polynomials with exact fractions, multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

Polynomial = list[Fraction]
Look = tuple[Polynomial, Sequence[Sequence[Polynomial]]]
"""Some draws: the likelihood without them, and what each may turn out to be, which adds up to its factor of now."""
THETA: Polynomial = [Fraction(0), Fraction(1)]
REST: Polynomial = [Fraction(1), Fraction(-1)]  # 1 - theta
HALF = Fraction(1, 2)


def times(one: Polynomial, other: Polynomial) -> Polynomial:
    found = [Fraction(0)] * (len(one) + len(other) - 1)
    for i, x in enumerate(one):
        for j, y in enumerate(other):
            found[i + j] += x * y
    return found


def combined(u: float | Fraction, v: float | Fraction, r: float = 0) -> Polynomial:
    """u theta + v (1 - theta) + r"""
    return [Fraction(v) + Fraction(r), Fraction(u) - Fraction(v)]


def integral(polynomial: Polynomial, low: Fraction, high: Fraction) -> Fraction:
    total = Fraction(0)
    for power, x in enumerate(polynomial):
        total += x * (high ** (power + 1) - low ** (power + 1)) / (power + 1)
    return total


def likelihood(a: int, b: int, noisy: Sequence[tuple[float, float]]) -> Polynomial:
    found: Polynomial = [Fraction(1)]
    for factor in [THETA] * a + [REST] * b + [combined(u, v) for u, v in noisy]:
        found = times(found, factor)
    return found


def ahead(a: int, b: int, noisy: Sequence[tuple[float, float]]) -> Fraction:
    found = likelihood(a, b, noisy)
    return integral(found, HALF, Fraction(1)) / integral(found, Fraction(0), Fraction(1))


def best(before: Polynomial, draws: Sequence[Sequence[Polynomial]]) -> Fraction:
    """The expected probability that the leader is the likelier, once each draw has turned out to be one of its outcomes."""
    total = Fraction(0)
    for outcome in product(*draws):
        after = before
        for factor in outcome:
            after = times(after, factor)
        total += max(integral(after, HALF, Fraction(1)), integral(after, Fraction(0), HALF))
    return total


def rise(before: Polynomial, looks: Sequence[Look]) -> Fraction:
    """A draw, the largest over looks ahead."""
    whole = integral(before, Fraction(0), Fraction(1))
    now = max(integral(before, HALF, Fraction(1)), integral(before, Fraction(0), HALF))
    return max((best(base, draws) - now) / len(draws) for base, draws in looks) / whole


def rise_exact(a: int, b: int, noisy: Sequence[tuple[float, float]], most: int) -> Fraction:
    before = likelihood(a, b, noisy)
    return rise(before, [(before, [(THETA, REST)] * m) for m in range(1, most + 1)])


def rise_noisy(
    a: int, b: int, noisy: Sequence[tuple[float, float]], channel: tuple[float, float], most: int
) -> Fraction:
    before, (t, f) = likelihood(a, b, noisy), channel
    outcomes = combined(t, f), combined(1 - Fraction(t), 1 - Fraction(f))
    return rise(before, [(before, [outcomes] * m) for m in range(1, most + 1)])


def rise_finished(
    a: int,
    b: int,
    noisy: Sequence[tuple[float, float]],
    read: Sequence[tuple[float, float, float]],
    most: int,
) -> Fraction:
    """A prefix that is finished turns out to be of the first, of the second, or of neither."""
    alone = likelihood(a, b, noisy)
    before, looks = alone, []
    for p, q, r in read:
        before = times(before, combined(p, q, r))
    for count in range(1, min(most, len(read)) + 1):
        base = alone
        for p, q, r in read[count:]:
            base = times(base, combined(p, q, r))
        outcomes = [
            ([Fraction(0), Fraction(p)], [Fraction(q), -Fraction(q)], [Fraction(r)]) for p, q, r in read[:count]
        ]
        looks.append((base, outcomes))
    return rise(before, looks)
