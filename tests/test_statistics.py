"""The statistics against slow references, tables and simulations."""

from __future__ import annotations

import math
import random

import pytest

from laconic.errors import LaconicError
from laconic.statistics import Interval, mean_interval, normal_quantile, paired_difference, student_quantile


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
    # Enough problems differ for resamples to show how much: below that a formula is used.
    hard, theirs, ours = hard * 10, theirs * 10, ours * 10
    difference = paired_difference(ours, theirs)
    lost = sum(not h for i, h in enumerate(hard) if i % 10 == 0) / 2000
    assert difference.mean == pytest.approx(-lost)
    alone = mean_interval(ours)
    assert difference.high - difference.low < (alone.high - alone.low) / 3
    slow = slow_bootstrap([[a[0] + a[1] - b[0] - b[1]] for a, b in zip(ours, theirs, strict=True)], 4000, 2)
    assert difference.low == pytest.approx(slow[0] / 2, abs=0.01)
    assert difference.high == pytest.approx(slow[1] / 2, abs=0.01)


def test_a_few_pairs_use_bonett_and_prices_interval() -> None:
    """With p12 and p21 the shares of discordant pairs, one added to each: (2012, J. Educ. Behav. Stat. 37:479)."""
    for wins, losses, count in [(2, 0, 3), (1, 4, 12), (0, 1, 40)]:
        ours = [[1.0]] * wins + [[0.0]] * losses + [[1.0]] * (count - wins - losses)
        theirs = [[0.0]] * wins + [[1.0]] * losses + [[1.0]] * (count - wins - losses)
        ahead, behind = (wins + 1) / (count + 2), (losses + 1) / (count + 2)
        half = 1.959964 * math.sqrt((ahead + behind - (ahead - behind) ** 2) / (count + 2))
        mean, low, high = paired_difference(ours, theirs)
        assert mean == pytest.approx((wins - losses) / count)
        assert low == pytest.approx(ahead - behind - half, abs=1e-6)
        assert high == pytest.approx(min(1.0, ahead - behind + half), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10, 40, 1000])
@pytest.mark.parametrize(("ours", "theirs"), [(0, 1), (1, 0)])
def test_a_difference_that_all_problems_show_is_not_certain(count: int, ours: int, theirs: int) -> None:
    mean, low, high = paired_difference([[ours]] * count, [[theirs]] * count)
    assert mean == ours - theirs
    # Where a share p of problems went the other way, `count` without one come up at (1 - p)^count: one time in forty.
    unseen = 1 - 0.025 ** (1 / count)
    far = mean - 2 * mean * unseen
    assert (low, high) == (pytest.approx(min(mean, far)), pytest.approx(max(mean, far)))
    assert high - low > 1 / count


def test_all_problems_differ_by_half() -> None:
    mean, low, high = paired_difference([[1.0, 0.0]] * 40, [[0.0, 0.0]] * 40)
    unseen = 1 - 0.025 ** (1 / 40)
    assert (mean, low, high) == (0.5, pytest.approx(0.5 - 1.5 * unseen), pytest.approx(0.5 + 0.5 * unseen))


@pytest.mark.parametrize("count", [3, 10, 40])
def test_almost_all_alike_is_no_more_certain_than_all_alike(count: int) -> None:
    alike = paired_difference([[0.0] * 4] * count, [[1.0] * 4] * count)
    almost = paired_difference([[0.0] * 4] * (count - 1) + [[0.0, 0.0, 0.0, 1.0]], [[1.0] * 4] * count)
    assert almost.high - almost.low > 0.75 * (alike.high - alike.low)
    alike = mean_interval([[1.0] * 16] * count)
    almost = mean_interval([[1.0] * 16] * (count - 1) + [[1.0] * 15 + [0.0]])
    assert almost.high - almost.low > 0.75 * (alike.high - alike.low)


def test_a_mean_near_a_bound_is_not_resampled() -> None:
    # Resampled, one wrong of 40 would reach to 100 % and no further down than 92.5.
    _, low, high = mean_interval([[1.0]] * 39 + [[0.0]])
    assert low < 0.88
    assert high < 1.0


# Kinds of problems: what share of all they are, and how often we and they are right on them.
WORLDS: dict[str, list[tuple[float, float, float]]] = {
    "always the other way": [(1, 0, 1)],
    "almost always": [(0.95, 0, 1), (0.05, 0, 0)],
    "a few turn it round": [(0.9, 0, 1), (0.1, 1, 0)],
    "the same, with luck": [(0.9, 0.03, 0.97), (0.1, 0.97, 0.03)],
    "never": [(0.5, 1, 1), (0.5, 0, 0)],
    "rarely": [(0.95, 1, 1), (0.05, 1, 0)],
    "rarely, both ways": [(0.93, 1, 1), (0.05, 1, 0), (0.02, 0, 1)],
    "near 1": [(1, 0.99, 0.97)],
    "near 0": [(1, 0.02, 0.01)],
    "luck alone": [(1, 0.5, 0.5)],
    "easy and hard": [(0.5, 0.9, 0.85), (0.5, 0.4, 0.3)],
    "split": [(0.6, 1, 0), (0.4, 0, 1)],
}


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("count", [3, 10, 40])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_hold_the_truth_as_often_as_they_say(world: str, count: int, samples: int) -> None:
    """Problems and samples drawn anew 200 times: the share of intervals that hold the truth, of 95 % nominal.

    Right or wrong answers of few problems come in steps, so that a share can't be had exactly; nor do 200 rounds tell it
    to better than 1.5 points. At least 90 % must hold it, where Student's t and the bootstrap fell to 17 %.
    """
    kinds, rounds = WORLDS[world], 200
    rng = random.Random(7)
    held = [0, 0]
    truth = (sum(p * a for p, a, _ in kinds), sum(p * (a - b) for p, a, b in kinds))
    for _ in range(rounds):
        drawn = rng.choices(kinds, [share for share, _, _ in kinds], k=count)
        ours = [[float(rng.random() < a) for _ in range(samples)] for _, a, _ in drawn]
        theirs = [[float(rng.random() < b) for _ in range(samples)] for _, _, b in drawn]
        found = (mean_interval(ours, resamples=200), paired_difference(ours, theirs, resamples=200))
        for i, (interval, wanted) in enumerate(zip(found, truth, strict=True)):
            held[i] += interval.low - 1e-9 <= wanted <= interval.high + 1e-9
            assert interval.low <= interval.mean <= interval.high
            assert interval.high > interval.low
    assert min(held) / rounds >= 0.9


@pytest.mark.parametrize("count", [3, 10])
def test_measured_values_have_students_coverage(count: int) -> None:
    """Rates such as redundancy: nothing is 0 or 1, and what few problems show of their spread is itself uncertain."""
    rng = random.Random(4)
    held = 0
    for _ in range(300):
        _, low, high = mean_interval([[min(1.0, max(0.0, rng.gauss(0.3, 0.05)))] for _ in range(count)])
        held += low <= 0.3 <= high
        assert high - low < 0.6
    assert 0.92 <= held / 300 <= 0.99  # the normal quantile: 0.85 for three


@pytest.mark.parametrize("count", [50, 100, 300])
@pytest.mark.parametrize(("moved", "by", "spread"), [(1.0, 0.03, 0.07), (0.4, 0.1, 0.2), (0.2, -0.1, 0.1)])
def test_differences_of_measured_values_have_students_coverage(
    count: int, moved: float, by: float, spread: float
) -> None:
    """Means over many orders of a problem's traces: small differences on some problems, none on others. Two pseudo-problems at
    the bounds, as for right and wrong answers, would make these intervals two to three times as wide."""
    rng = random.Random(5)
    held, widths = 0, []
    for _ in range(400):
        theirs = [rng.uniform(0.3, 0.6) for _ in range(count)]
        ours = [value + (rng.gauss(by, spread) if rng.random() < moved else 0.0) for value in theirs]
        ours = [min(1.0, max(0.0, value)) for value in ours]
        _, low, high = paired_difference([[value] for value in ours], [[value] for value in theirs])
        held += low <= moved * by <= high
        widths.append(high - low)
    assert 0.9 <= held / 400 <= 0.985
    deviation = math.sqrt(moved * (spread**2 + by**2) - (moved * by) ** 2)
    assert sum(widths) / 400 == pytest.approx(2 * 1.99 * deviation / math.sqrt(count), rel=0.15)


@pytest.mark.parametrize("method", ["auto", "formula", "bootstrap"])
def test_one_problem_has_no_interval(method: str) -> None:
    assert mean_interval([[1.0] * 16], method=method) == (1.0, 0.0, 1.0)
    assert mean_interval([[3.0]], bounds=(2.0, 6.0), method=method) == (3.0, 2.0, 6.0)
    assert mean_interval([[3.0]], bounds=None, method=method) == (3.0, -math.inf, math.inf)
    assert paired_difference([[1.0] * 16], [[0.0] * 16]) == (1.0, -1.0, 1.0)
    assert paired_difference([[5.0]], [[2.0]], bounds=None) == (3.0, -math.inf, math.inf)


@pytest.mark.parametrize("count", [3, 40])
def test_equal_values_without_bounds_do_not_tell_their_spread(count: int) -> None:
    assert mean_interval([[5.0]] * count, bounds=None) == (5.0, -math.inf, math.inf)
    assert paired_difference([[5.0]] * count, [[5.0]] * count, bounds=None) == (0.0, -math.inf, math.inf)


def test_bootstrap_asked_for_by_name_does_not_collapse() -> None:
    assert mean_interval([[1.0]] * 40, method="bootstrap") == mean_interval([[1.0]] * 40, method="formula")


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
        (lambda: mean_interval([[math.nan]]), "expected 0.0 to 1.0"),
        (lambda: mean_interval([[1.0, math.nan]], bounds=None), "Problem 0 has the value nan; expected a finite"),
        (lambda: mean_interval([[1.0]], method="jackknife"), "bootstrap"),
        (lambda: mean_interval([[1.0]], confidence=1.5), "confidence"),
        (lambda: mean_interval([[1.0]], resamples=0), "resamples"),
        (lambda: paired_difference([[1.0]], [[1.0], [0.0]]), "same problems"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word):
        call()
