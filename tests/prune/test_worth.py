"""What a further trace is worth, against exact fractions over every sequence of draws."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from laconic.prune.worth import AHEAD, ahead_probability, best_probability, rise, worth
from tests.reference import worth as slow


@pytest.mark.parametrize("a", range(6))
@pytest.mark.parametrize("b", range(6))
def test_probabilities_are_the_integrals_and_the_urns(a: int, b: int) -> None:
    assert ahead_probability(a, b) == pytest.approx(float(slow.ahead(a, b)), abs=1e-14)
    for draws in range(5):
        assert best_probability(a, b, draws) == pytest.approx(float(slow.best(a, b, draws)), abs=1e-12)
    assert rise(a, b, 4) == pytest.approx(float(slow.rise(a, b, 4)), abs=1e-12)
    assert rise(a, b, 3, running=2) == pytest.approx(float(slow.rise(a, b, 3, 2)), abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "traces", "left"),
    [
        ([], 2, 14),
        ([1], 2, 14),
        ([1, 1], 2, 14),
        ([2], 2, 6),
        ([3, 1], 4, 12),
        ([1, 2, 3], 6, 2),
        ([5], 9, 7),
        ([4], 4, 0),
    ],
)
def test_worth_is_the_rise_times_both_shares(votes: list[int], traces: int, left: int) -> None:
    assert worth(votes, traces, left) == pytest.approx(float(slow.worth(votes, traces, left)), abs=1e-12)


def slow_normal(a: int, b: int) -> float:
    """Of many coins the heads are about normal."""
    coins = a + b + 1
    return 0.5 * math.erfc((coins / 2 - a - 0.5) / math.sqrt(coins / 2))


def test_what_a_reader_would_expect() -> None:
    assert worth([1, 1], 2, 14) == max(worth(votes, 2, 14) for votes in ([1, 1], [2], [1], []))  # nothing is known yet
    certain = [worth([n], n, 50) for n in range(2, 12)]
    assert all(more >= less - 1e-12 for more, less in pairwise(certain))  # the longer all agree, the less
    assert certain[0] > 0.005 > certain[1] > certain[2] > 0.0002
    assert certain[7:] == pytest.approx([0.0] * 3, abs=1e-12)  # nine votes ahead, and eight are looked ahead
    assert worth([3, 3], 6, 10) > worth([5, 1], 6, 10)
    assert worth([2, 2], 4, 10) > worth([2, 2], 12, 10)  # two leaders, but nine in twelve say other things or nothing
    assert worth([2, 1], 3, 10, running=1) != worth([2, 1], 3, 10)
    # A draw whose outcome can't change the leader is worth nothing by itself; several of them are.
    assert rise(3, 0, 1) == pytest.approx(0, abs=1e-12)
    assert rise(3, 0, AHEAD) > 0.001
    assert abs(worth([600, 300], 1000, 3000, running=64)) < 1e-12  # large counts are computed as well
    assert ahead_probability(2000, 2000) == pytest.approx(0.5, abs=1e-9)
    assert ahead_probability(2100, 2000) == pytest.approx(float(slow_normal(2100, 2000)), abs=1e-3)


def test_hopeless_problems_end() -> None:
    """Where no trace answers, what a trace is worth falls with each."""
    falling = [worth([], traces, 100) for traces in range(2, 30)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 0.02
    assert falling[-1] < 0.0005
