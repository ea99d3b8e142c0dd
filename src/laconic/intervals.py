"""Intervals for shares known from few problems: they widen where data can't show its own spread, and never collapse.

Shares lie in [0, 1]; `count` is how many problems (the independent observations) stand behind one. Pure arithmetic.
"""

from __future__ import annotations

import math

import torch

EQUAL = 1e-12  # means closer than this differ by rounding alone


def normal_quantile(probability: float) -> float:
    """The standard normal value below which the given share lies."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * probability - 1, dtype=torch.float64)))


def wilson_interval(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share seen in `count` independent observations (a fraction where it is effective)."""
    square = quantile * quantile
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = (
        quantile
        / (1 + square / count)
        * math.sqrt(max(0.0, share * (1 - share) / count + square / (4 * count * count)))
    )
    # At 0 and 1 the ends meet the share exactly; floating point would leave them a hair apart.
    low = 0.0 if share <= 0 else max(0.0, centre - half)
    high = 1.0 if share >= 1 else min(1.0, centre + half)
    return low, high


def adjusted_wald_interval(share: float, variance: float, count: int, quantile: float) -> tuple[float, float]:
    """The adjusted Wald interval: as if two more problems had been seen, one at 0 and one at 1.

    variance: of one problem's share, the sum of squared distances over `count`. Agresti and Coull (1998) add such
    observations for one proportion. With a paired difference d in [-1, 1] as the share (1 + d) / 2 this is Bonett and
    Price's interval (2012, J. Educ. Behav. Stat. 37:479), one of those that Fagerland, Lydersen and Laake (2014, Stat.
    Med. 33:2850) recommend; a problem's share here may also be a mean over samples. The two stand for the kinds of
    problem that few have not shown yet: variances of few problems, and resamples of them, know none of these.
    """
    more = count + 2
    centre = (count * share + 1) / more
    spread = max(0.0, (count * (variance + share * share) + 1) / more - centre * centre)
    half = quantile * math.sqrt(spread / more)
    return max(0.0, centre - half), min(1.0, centre + half)


def unanimous_interval(share: float, count: int, confidence: float) -> tuple[float, float]:
    """The interval where every one of `count` problems has the same share.

    The largest part of all problems that may be otherwise and still show none in `count` is 1 - ((1 - confidence) / 2)^(1 /
    count) (Clopper and Pearson's bound); at worst all of these are at 0, or at 1.
    """
    unseen = 1 - ((1 - confidence) / 2) ** (1 / count)
    return share * (1 - unseen), share + (1 - share) * unseen
