"""n-gram entropy against a count by hand, a slow formula, and known cases."""

from __future__ import annotations

import math
import random

import pytest

from laconic.errors import LaconicError
from laconic.lab.analyze.entropy import LENGTHS, SHORT_LENGTHS, default_lengths, entropy_by_length, ngram_entropy


def slow_entropy(tokens: list[int], n: int) -> float:
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    total = 0.0
    for gram in set(grams):
        p = sum(other == gram for other in grams) / len(grams)
        total -= p * math.log2(p)
    return total


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kinds", [2, 7, 50])
def test_it_is_the_slow_formula(n: int, kinds: int) -> None:
    rng = random.Random(n * kinds)
    tokens = [rng.randrange(kinds) for _ in range(120)]
    assert ngram_entropy(tokens, n) == pytest.approx(slow_entropy(tokens, n))


def test_known_cases() -> None:
    assert ngram_entropy([7] * 100, 1) == pytest.approx(0.0)
    assert ngram_entropy([0, 1] * 50, 1) == pytest.approx(1.0)
    assert ngram_entropy(list(range(64)), 1) == pytest.approx(6.0)  # all different: log2 of how many
    assert ngram_entropy(list(range(66)), 3) == pytest.approx(6.0)
    assert ngram_entropy([0, 1, 0], 2) == pytest.approx(1.0)
    assert ngram_entropy([1, 2], 3) == 0.0


def test_only_traces_that_are_long_enough_count_and_only_their_start() -> None:
    rng = random.Random(0)
    traces = [[rng.randrange(9) for _ in range(length)] for length in (50, 100, 200)]
    points = {point.length: point for point in entropy_by_length(traces, [100, 60, 100, 500])}
    assert list(points) == [60, 100]
    assert (points[60].traces, points[100].traces) == (2, 2)
    for length, point in points.items():
        for n in (1, 2, 3):
            values = [slow_entropy(trace[:length], n) for trace in traces[1:]]
            assert point.bits[n] == pytest.approx(sum(values) / 2)
            assert point.least[n] == pytest.approx(min(values))
            assert point.most[n] == pytest.approx(max(values))
            assert point.bound[n] == pytest.approx(math.log2(length - n + 1))
            assert point.bits[n] <= point.bound[n]


def test_short_traces_get_short_lengths() -> None:
    assert default_lengths([[0] * 1023, [0] * 9]) == SHORT_LENGTHS
    assert default_lengths([[0] * 1024]) == LENGTHS
    assert default_lengths([]) == SHORT_LENGTHS


@pytest.mark.parametrize("n", [0, -1, 1.0, True])
def test_bad_orders_are_refused(n) -> None:
    with pytest.raises(LaconicError, match=r"at least 1 \(of n-grams\)"):
        ngram_entropy([1, 2, 3], n)


@pytest.mark.parametrize("length", [0, -5, 2.5])
def test_bad_lengths_are_refused(length) -> None:
    with pytest.raises(LaconicError, match=r"lengths\[0\] is .*; expected a whole number of at least 1 \(tokens\)"):
        entropy_by_length([[1, 2, 3]], [length])
