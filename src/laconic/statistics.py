"""Means with 95 % intervals over problems and samples, and paired differences. Pure arithmetic on lists of numbers.

Values come as one list a problem, one number a sample (`values[problem][sample]`). Problems are what is drawn at
random from the world, so they are what an interval resamples; the samples of one problem go together. A problem's mean
already varies with the luck of its samples, so resampling problems covers both sources of noise, and resampling the
samples again inside each drawn problem would count the second one twice (Davison and Hinkley 1997, section 3.8).

Resamples, and variances, know only the kinds of problem that were drawn: three problems that agree would be certain. So
where problems are few, or hardly differ, a formula of `laconic.intervals` is used that allows for those not seen. One
problem says nothing about the others: its interval is all that is possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from laconic.errors import InputError
from laconic.intervals import EQUAL, adjusted_wald_interval, normal_quantile, unanimous_interval, wilson_interval

__all__ = ["Interval", "mean_interval", "normal_quantile", "paired_difference", "student_quantile"]

CONFIDENCE = 0.95
RESAMPLES = 10_000
SMALL = 30  # below this many problems a percentile bootstrap is too narrow, and a formula is used
MANY = 50  # problems from which on Student's t holds for small differences on a few of them, to 90 % at the worst
# So is one of shares whose squared distances from their mean come to less: for 0 and 1, the textbook's n p (1 - p) >= 5.
VARIED = 5.0
METHODS = ("auto", "bootstrap", "formula")

Values = Sequence[Sequence[float]]


class Interval(NamedTuple):
    """A mean and its interval; unpacks as (mean, low, high)."""

    mean: float
    low: float
    high: float


def mean_interval(
    values_by_problem: Values,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    method: str = "auto",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean over problems of the mean over their samples, with its interval.

    values_by_problem: `[problem][sample]`, at least one of each; problems may differ in their number of samples.
    bounds: the least and the greatest value possible (0 and 1 for a share); None for values without bounds.
    method: "bootstrap" (percentile, problems resampled with replacement; a formula all the same where problems' means are all
    equal), "formula" (below), or "auto": bootstrap from 30 problems on whose squared distances from the mean come to 5
    or more, in units of the bounds' distance (n p (1 - p) >= 5 for a share), else the formula.

    The formula where every problem's mean is at a bound, or all are equal, is Wilson's score interval at the effective
    number of observations `m (1 - m) / (s^2 / n)`, with s^2 the variance of the problems' means (Dean and Pagano 2015);
    n where that is undefined, which assumes no more than one independent observation a problem. Of other outcomes (every
    value is at a bound, problems' means need not be) it is `intervals.adjusted_wald_interval`. Of measured values, which
    lie between the bounds, it is Wilson's interval again, with Student's t for the normal quantile (Franco, Little, Louis and
    Slud 2019). Without bounds it is Student's t on the problems' means, and infinite where these are all equal: nothing then
    tells how far others may lie. For one problem the interval is the bounds (infinite without).

    Raises InputError for no problems, a problem without samples, a value outside the bounds, or an unknown method.
    """
    _check(values_by_problem, bounds, confidence, resamples)
    if method not in METHODS:
        raise InputError(f"The interval method is {method!r}; expected one of {', '.join(METHODS)}")
    means = [math.fsum(values) / len(values) for values in values_by_problem]
    mean = math.fsum(means) / len(means)
    if bounds is None:
        return _unbounded(means, mean, method, confidence, resamples, seed)
    least, span = bounds[0], bounds[1] - bounds[0]
    if len(means) == 1:
        return Interval(mean, *bounds)
    shares = [(value - least) / span for value in means]
    resampled = method == "bootstrap" or (method == "auto" and _varied(shares))
    if resampled and not _equal(shares):
        return _bootstrap(means, mean, confidence, resamples, seed)
    low, high = _formula(shares, confidence, all(value in bounds for row in values_by_problem for value in row))
    return Interval(mean, least + span * low, least + span * high)


def paired_difference(
    ours: Values,
    theirs: Values,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `ours` minus that of `theirs` on the same problems (in the same order) and seeds, with its interval.

    The difference is taken problem by problem, so what makes a problem hard for both cancels. Bootstrap over problems
    where `mean_interval` would take it, for the share (1 + difference) / 2; else, where every value is at a bound,
    `intervals.adjusted_wald_interval`, Bonett and Price's interval for paired proportions, and where one is not (of 50
    problems or more), so that values are measured, as a mean over many orders of a problem's traces, Wilson's with
    Student's t, as `mean_interval` has it. Where all problems differ alike, by nothing or by as much as can be, the interval
    is `intervals.unanimous_interval`: what a share of problems that could be otherwise and still show none in n might change.
    Without bounds, and for one problem, as `mean_interval`; the bounds of a difference are the values' distance, both ways.

    Raises InputError where the two don't have the same number of problems, or as `mean_interval` does.
    """
    if len(ours) != len(theirs):
        raise InputError(
            f"A paired difference needs the same problems on both sides; got {len(ours)} and {len(theirs)}"
        )
    _check(ours, bounds, confidence, resamples)
    _check(theirs, bounds, confidence, resamples)
    means = [math.fsum(a) / len(a) - math.fsum(b) / len(b) for a, b in zip(ours, theirs, strict=True)]
    mean = math.fsum(means) / len(means)
    if bounds is None:
        return _unbounded(means, mean, "auto", confidence, resamples, seed)
    span = bounds[1] - bounds[0]
    if len(means) == 1:
        return Interval(mean, -span, span)
    shares = [(1 + value / span) / 2 for value in means]
    if _equal(shares):
        low, high = unanimous_interval(shares[0], len(shares), confidence)
    elif _varied(shares):
        return _bootstrap(means, mean, confidence, resamples, seed)
    elif len(means) >= MANY and any(value not in bounds for row in (*ours, *theirs) for value in row):
        low, high = _formula(shares, confidence, outcomes=False)
    else:
        low, high = _adjusted(shares, confidence)
    return Interval(mean, min(mean, span * (2 * low - 1)), max(mean, span * (2 * high - 1)))


def _check(values: Values, bounds: tuple[float, float] | None, confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a number between 0 and 1")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; expected at least 1")
    if not len(values):
        raise InputError("There are no problems to average over; expected at least one")
    for index, row in enumerate(values):
        if not len(row):
            raise InputError(f"Problem {index} has no samples to average over; expected at least one")
        for value in row:
            if bounds is None and not math.isfinite(value):
                raise InputError(f"Problem {index} has the value {value}; expected a finite number")
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                raise InputError(f"Problem {index} has the value {value}; expected {bounds[0]} to {bounds[1]}")


def _equal(values: Sequence[float]) -> bool:
    return max(values) - min(values) < EQUAL


def _squares(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _varied(shares: Sequence[float]) -> bool:
    """Whether resampling these shares has enough to show how far their mean may be off."""
    return len(shares) >= SMALL and _squares(shares) >= VARIED


def _formula(shares: Sequence[float], confidence: float, outcomes: bool) -> tuple[float, float]:
    """The interval of the mean of two or more problems' shares. outcomes: their samples are 0 or 1, nothing between."""
    if outcomes and not _equal(shares) and not all(min(value, 1 - value) < EQUAL for value in shares):
        return _adjusted(shares, confidence)
    count = len(shares)
    mean = math.fsum(shares) / count
    spread = 0.0 if _equal(shares) else _squares(shares) / (count - 1) / count
    measured = spread > 0 and not outcomes
    quantile = student_quantile((1 + confidence) / 2, count - 1) if measured else _normal(confidence)
    return wilson_interval(mean, mean * (1 - mean) / spread if spread > 0 else count, quantile)


def _adjusted(shares: Sequence[float], confidence: float) -> tuple[float, float]:
    count = len(shares)
    return adjusted_wald_interval(math.fsum(shares) / count, _squares(shares) / count, count, _normal(confidence))


def _normal(confidence: float) -> float:
    return normal_quantile((1 + confidence) / 2)


def _unbounded(
    means: Sequence[float], mean: float, method: str, confidence: float, resamples: int, seed: int
) -> Interval:
    if len(means) == 1 or _equal(means):
        return Interval(mean, -math.inf, math.inf)
    if method == "bootstrap" or (method == "auto" and len(means) >= SMALL):
        return _bootstrap(means, mean, confidence, resamples, seed)
    spread = _squares(means) / (len(means) - 1) / len(means)
    half = student_quantile((1 + confidence) / 2, len(means) - 1) * math.sqrt(spread)
    return Interval(mean, mean - half, mean + half)


def _bootstrap(means: Sequence[float], mean: float, confidence: float, resamples: int, seed: int) -> Interval:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(means, dtype=torch.float64)
    drawn = []
    # In slices, so that thousands of problems do not need gigabytes.
    step = max(1, 4_000_000 // len(means))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        index = torch.randint(len(means), (rows, len(means)), generator=generator)
        drawn.append(values[index].mean(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(drawn).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(mean, low, high)


def student_quantile(probability: float, degrees: int) -> float:
    """Student's t value below which the given share (0.5 to 1) lies: bisection on the exact distribution function."""
    low, high = 0.0, 1.0
    while _student_share(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_share(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _student_share(value: float, degrees: int) -> float:
    """P(T <= value), whole degrees of freedom: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    total, term = 0.0, 1.0
    if degrees % 2 == 0:
        for k in range(degrees // 2):
            total += term
            term *= cosine * cosine * (2 * k + 1) / (2 * k + 2)
        return 0.5 + 0.5 * sine * total
    for k in range((degrees - 1) // 2):
        total += term
        term *= cosine * cosine * (2 * k + 2) / (2 * k + 3)
    return 0.5 + (angle + sine * cosine * total) / math.pi
