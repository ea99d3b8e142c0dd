"""The statistics against slow references, tables and simulations."""

from __future__ import annotations

import math
import random

import pytest

from laconic.bench.stats import Interval, mean_interval, normal_quantile, paired_difference, student_quantile
from laconic.errors import LaconicError


def slow_bootstrap(values: list[list[float]], resamples: int, seed: int) -> tuple[float, float]:
    """Draw problems with replacement, one at a time; sort; count in from both ends."""
    rng = random.Random(seed)
    means = [sum(row) / len(row) for row in values]
    drawn = sorted(sum(rng.choice(means) for _ in means) / len(means) for _ in range(resamples))
    return drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)]


@pytest.mark.parametrize("samples", [1, 4])
def test_bootstrap_agrees_with_the_slow_one(samples: int) -> None:
    rng = random.Random(3)
    values = [[float(rng.random() < p) for _ in range(samples)] for p in [rng.random() for _ in range(60)]]
    mean, low, high = mean_interval(values, method="bootstrap")
    slow_low, slow_high = slow_bootstrap(values, 4000, seed=9)
    assert mean == pytest.approx(sum(sum(row) / samples for row in values) / 60)
    assert low == pytest.approx(slow_low, abs=0.02)
    assert high == pytest.approx(slow_high, abs=0.02)


def test_the_bootstrap_of_independent_shares_has_the_textbook_width() -> None:
    values = [[1.0]] * 120 + [[0.0]] * 80
    mean, low, high = mean_interval(values)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 200)
    assert mean == 0.6
    assert high - low == pytest.approx(2 * half, rel=0.06)


def test_sampling_noise_is_counted_once() -> None:
    """Coverage of the truth over many draws of problems AND samples is near 95 %: neither 85 nor 99.5."""
    rng = random.Random(5)
    truth, hits, rounds = 0.6, 0, 300
    for _ in range(rounds):
        # Problems' own rates are Beta(3, 2), mean 0.6; four samples each.
        values = [[float(rng.random() < p) for _ in range(4)] for p in [rng.betavariate(3, 2) for _ in range(40)]]
        _, low, high = mean_interval(values, resamples=500)
        hits += low <= truth <= high
    assert 0.90 <= hits / rounds <= 0.985


def test_a_few_problems_use_wilson() -> None:
    # Wilson for 8 of 10 by hand; the count is a little under 10, as a variance over 10 problems divides by 9.
    values = [[1.0]] * 8 + [[0.0]] * 2
    _, low, high = mean_interval(values)
    count = 0.8 * 0.2 / ((8 * 0.04 + 2 * 0.64) / 9 / 10)
    z = 1.959964
    centre = (0.8 + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(0.16 / count + z * z / (4 * count**2))
    assert (low, high) == (pytest.approx(centre - half, abs=1e-6), pytest.approx(centre + half, abs=1e-6))
    assert 0.4 < low < 0.55
    assert 0.92 < high < 0.96


def test_all_right_does_not_mean_certain() -> None:
    for count in (5, 50):
        mean, low, high = mean_interval([[1.0, 1.0]] * count)
        z = 1.959964
        assert mean == high == 1.0
        assert low == pytest.approx(count / (count + z * z), abs=1e-6)


def test_small_unbounded_values_use_student() -> None:
    # By hand: mean 4, s = 2, n = 4, t(0.975, 3) = 3.182446.
    values = [[2.0], [3.0], [4.0], [7.0]]
    mean, low, high = mean_interval(values, bounds=None)
    half = 3.182446 * math.sqrt((4 + 1 + 0 + 9) / 3 / 4)
    assert (mean, low, high) == (4.0, pytest.approx(4 - half, abs=1e-5), pytest.approx(4 + half, abs=1e-5))


@pytest.mark.parametrize(("degrees", "table"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (29, 2.04523)])
def test_student_quantiles_are_those_of_the_tables(degrees: int, table: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(table, abs=1e-4)


def test_normal_quantile() -> None:
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)


def test_pairing_removes_what_problems_share() -> None:
    rng = random.Random(1)
    hard = [rng.random() < 0.5 for _ in range(100)]
    theirs = [[float(not h)] * 2 for h in hard]
    ours = [[float(not h), float(not h and i % 10 != 0)] for i, h in enumerate(hard)]
    difference = paired_difference(ours, theirs)
    lost = sum(not h for i, h in enumerate(hard) if i % 10 == 0) / 200
    assert difference.mean == pytest.approx(-lost)
    alone = mean_interval(ours)
    assert difference.high - difference.low < (alone.high - alone.low) / 3
    slow = slow_bootstrap([[a[0] + a[1] - b[0] - b[1]] for a, b in zip(ours, theirs, strict=True)], 4000, 2)
    assert difference.low == pytest.approx(slow[0] / 2, abs=0.01)
    assert difference.high == pytest.approx(slow[1] / 2, abs=0.01)


def test_a_few_pairs_use_student() -> None:
    difference = paired_difference([[1.0], [0.0], [1.0]], [[0.0], [0.0], [0.0]])
    assert difference.mean == pytest.approx(2 / 3)
    assert difference.low == pytest.approx(2 / 3 - 4.30265 * math.sqrt(1 / 3 / 3), abs=1e-4)
    assert difference.high == 1.0  # no difference of shares is larger


def test_no_difference_seen_is_not_no_difference() -> None:
    values = [[1.0]] * 20 + [[0.0]] * 20
    mean, low, high = paired_difference(values, values)
    assert (mean, low) == (0.0, -high)
    # With that share of differing problems, 40 without one come up one time in forty.
    assert (1 - high) ** 40 == pytest.approx(0.025)


def test_one_problem_without_bounds_says_nothing() -> None:
    assert mean_interval([[3.0, 4.0]], bounds=None) == Interval(3.5, -math.inf, math.inf)


def test_problems_weigh_the_same_whatever_their_samples() -> None:
    assert mean_interval([[1.0, 1.0, 1.0], [0.0]]).mean == 0.5


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: mean_interval([]), "no problems"),
        (lambda: mean_interval([[1.0], []]), "Problem 1 has no samples"),
        (lambda: mean_interval([[2.0]]), "expected 0.0 to 1.0"),
        (lambda: mean_interval([[1.0]], method="jackknife"), "bootstrap"),
        (lambda: mean_interval([[1.0]], confidence=1.5), "confidence"),
        (lambda: mean_interval([[1.0]], resamples=0), "resamples"),
        (lambda: paired_difference([[1.0]], [[1.0], [0.0]]), "same problems"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word):
        call()
