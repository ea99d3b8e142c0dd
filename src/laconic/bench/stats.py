"""Means with 95 % intervals over problems and samples, and paired differences. Pure arithmetic on lists of numbers.

Values come as one list a problem, one number a sample (`values[problem][sample]`). Problems are what is drawn at
random from the world, so they are what an interval resamples; the samples of one problem go together. A problem's mean
already varies with the luck of its samples, so resampling problems covers both sources of noise, and resampling the
samples again inside each drawn problem would count the second one twice (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from laconic.errors import LaconicError

CONFIDENCE = 0.95
RESAMPLES = 10_000
SMALL = 30  # below this many problems a percentile bootstrap is too narrow, and a formula is used
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
    method: "bootstrap" (percentile, problems resampled with replacement), "formula" (below), or "auto": bootstrap from
    30 problems on, unless all problems' means are equal (resampling would then claim to know the mean exactly).

    The formula for a share is Wilson's score interval at the effective number of observations `m (1 - m) / (s^2 / n)`,
    with s^2 the variance of the problems' means (Dean and Pagano 2015); n problems where that is undefined, which
    assumes no more than one independent observation a problem. Without bounds it is Student's t on the problems'
    means.

    Raises LaconicError for no problems, a problem without samples, a value outside the bounds, or an unknown method.
    """
    _check(values_by_problem, bounds, confidence, resamples)
    if method not in METHODS:
        raise LaconicError(f"The interval method is {method!r}; expected one of {', '.join(METHODS)}.")
    means = [math.fsum(values) / len(values) for values in values_by_problem]
    mean = math.fsum(means) / len(means)
    constant = max(means) - min(means) < 1e-12
    if method == "bootstrap" or (method == "auto" and len(means) >= SMALL and not constant):
        return _bootstrap(means, mean, confidence, resamples, seed)
    if bounds is None:
        return _student(means, mean, confidence)
    return _wilson(means, mean, bounds, confidence)


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
    from 30 on, Student's t below. Where no problem differs at all, the interval is the largest share of problems that
    could differ and still have shown none in n: 1 - ((1 - confidence) / 2)^(1/n), both ways (Clopper and Pearson's
    bound).

    Raises LaconicError where the two don't have the same number of problems, or as `mean_interval` does.
    """
    if len(ours) != len(theirs):
        raise LaconicError(
            f"A paired difference needs the same problems on both sides; got {len(ours)} and {len(theirs)}."
        )
    _check(ours, bounds, confidence, resamples)
    _check(theirs, bounds, confidence, resamples)
    means = [math.fsum(a) / len(a) - math.fsum(b) / len(b) for a, b in zip(ours, theirs, strict=True)]
    mean = math.fsum(means) / len(means)
    if bounds is not None and all(abs(value) < 1e-12 for value in means):
        widest = (bounds[1] - bounds[0]) * (1 - ((1 - confidence) / 2) ** (1 / len(means)))
        return Interval(0.0, -widest, widest)
    if len(means) >= SMALL:
        return _bootstrap(means, mean, confidence, resamples, seed)
    interval = _student(means, mean, confidence)
    if bounds is None:
        return interval
    span = bounds[1] - bounds[0]
    return Interval(mean, max(interval.low, -span), min(interval.high, span))


def _check(values: Values, bounds: tuple[float, float] | None, confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise LaconicError(f"confidence is {confidence}; expected a number between 0 and 1.")
    if resamples < 1:
        raise LaconicError(f"resamples is {resamples}; expected at least 1.")
    if not len(values):
        raise LaconicError("There are no problems to average over; expected at least one.")
    for index, row in enumerate(values):
        if not len(row):
            raise LaconicError(f"Problem {index} has no samples to average over; expected at least one.")
        for value in row:
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                raise LaconicError(f"Problem {index} has the value {value}; expected {bounds[0]} to {bounds[1]}.")


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


def _variance(means: Sequence[float], mean: float) -> float:
    return math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)


def _student(means: Sequence[float], mean: float, confidence: float) -> Interval:
    if len(means) == 1:
        return Interval(mean, -math.inf, math.inf)  # one problem says nothing about the others
    half = student_quantile((1 + confidence) / 2, len(means) - 1) * math.sqrt(_variance(means, mean) / len(means))
    return Interval(mean, mean - half, mean + half)


def _wilson(means: Sequence[float], mean: float, bounds: tuple[float, float], confidence: float) -> Interval:
    least, span = bounds[0], bounds[1] - bounds[0]
    share = (mean - least) / span
    count = float(len(means))
    spread = _variance(means, mean) / span**2 / len(means) if len(means) > 1 else 0.0
    if spread > 1e-24 and 0 < share < 1:
        count = share * (1 - share) / spread
    z = normal_quantile((1 + confidence) / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At 0 and 1 the ends meet the mean exactly; floating point would leave them a hair apart.
    low = 0.0 if share <= 0 else max(0.0, centre - half)
    high = 1.0 if share >= 1 else min(1.0, centre + half)
    return Interval(mean, least + span * low, least + span * high)


def normal_quantile(probability: float) -> float:
    """The standard normal value below which the given share lies."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * probability - 1, dtype=torch.float64)))


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
