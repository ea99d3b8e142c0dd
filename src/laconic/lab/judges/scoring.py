"""How good a judge is: ranking, the paper's operating point, calibration, with intervals over problems.

Positive means "same". The pairs of one problem share traces, so they are no independent observations: intervals resample
problems, each with all its pairs. P pairs, B resamples.

Resamples of few problems, or of problems on which a judge never errs, hardly vary and would claim to know the figure
exactly. There `intervals.adjusted_wald_interval` takes their variance and allows for problems not seen. One problem has no
interval.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laconic.errors import InputError
from laconic.intervals import EQUAL, adjusted_wald_interval, normal_quantile

FNR = 0.2
RESAMPLES = 1000
BINS = 10
SMALL = 30  # below this many problems a percentile bootstrap is too narrow
_CELLS = 4_000_000  # of the [resamples, pairs] matrices held at once


class Estimate(NamedTuple):
    """A figure and its 95 % interval; not a number where it can't be told."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Ready for JSON, which has no "not a number": None there."""
        return {name: None if math.isnan(end) else end for name, end in self._asdict().items()}


class ReliabilityBin(NamedTuple):
    """Pairs whose probability is in [low, high) (the last bin: high included). predicted: their mean probability;
    observed: the share of them that is "same"."""

    low: float
    high: float
    pairs: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Score:
    """A judge on labelled pairs. same: the share of pairs with that label. tnr: at FNR 0.2, see `tnr_at_fnr`. within: see
    `within_problems`.

    ece: mean distance between predicted and observed over `bins`, weighted by pairs. brier: mean squared error.
    """

    pairs: int
    problems: int
    same: float
    auroc: Estimate
    tnr: Estimate
    within: Estimate
    ece: float
    brier: float
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; intervals and bins by name."""
        record = asdict(self)
        for name in ("auroc", "tnr", "within"):
            record[name] = getattr(self, name).to_dict()
        record["bins"] = [bin._asdict() for bin in self.bins]
        return record


def score(probabilities: Tensor, same: Tensor, problem: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Score:
    """All figures of one judge. probabilities: [P] in [0, 1]; same: bool [P]; problem: int64 [P], which problem.

    Raises InputError for pairs of one class only, no pairs, or a probability that is none.
    """
    if len(probabilities) and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError("a judge gave a probability outside 0 to 1, or none at all; expected P(same) of every pair")
    whole = _figures(probabilities, same, torch.ones(1, len(probabilities), dtype=torch.float64))
    draws = bootstrap(probabilities, same, problem, resamples, seed)
    bins = reliability(probabilities, same)
    problems = len(problem.unique())
    return Score(
        pairs=len(same),
        problems=problems,
        same=float(same.double().mean()),
        auroc=_interval(float(whole[0]), draws[:, 0], problems),
        tnr=_interval(float(whole[1]), draws[:, 1], problems),
        within=within_problems(probabilities, same, problem, resamples, seed),
        ece=sum(bin.pairs * abs(bin.predicted - bin.observed) for bin in bins) / len(same),
        brier=float(((probabilities.double() - same.double()) ** 2).mean()),
        bins=bins,
    )


def auroc(scores: Tensor, same: Tensor) -> float:
    """The probability that a "same" pair scores above a "different" one, ties counting half (Mann and Whitney)."""
    return float(_figures(scores, same, torch.ones(1, len(scores), dtype=torch.float64))[0])


def within_problems(
    scores: Tensor, same: Tensor, problem: Tensor, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean over problems of the AUROC among a problem's own pairs, those with pairs of both classes. Not a number where
    there are none.

    A strategy compares traces of one problem alone: what a judge knows of problems (on the easy ones most pairs agree) raises
    the AUROC over all pairs and tells it nothing.
    """
    _check(scores, same)
    found = []
    for place in problem.unique().tolist():
        mine = problem == place
        if 0 < int(same[mine].sum()) < int(mine.sum()):
            found.append(auroc(scores[mine], same[mine]))
    if not found:
        return Estimate(math.nan, math.nan, math.nan)
    each = torch.tensor(found, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draws = each[torch.randint(len(each), (resamples, len(each)), generator=generator)].mean(1)
    return _interval(float(each.mean()), draws, len(each))


def tnr_at_fnr(scores: Tensor, same: Tensor, fnr: float = FNR) -> float:
    """The share of "different" pairs called so at the threshold that calls at most `fnr` of the "same" pairs so.

    A pair is called "same" where its score is at least the threshold. Among thresholds that miss at most that share of the
    "same" pairs, the highest counts; nothing is interpolated, and pairs of equal score are called alike.
    """
    return float(_figures(scores, same, torch.ones(1, len(scores), dtype=torch.float64), fnr)[1])


def bootstrap(
    scores: Tensor, same: Tensor, problem: Tensor, resamples: int = RESAMPLES, seed: int = 0, fnr: float = FNR
) -> Tensor:
    """AUROC and TNR of resampled problems, float64 [B, 2]: NaN where a resample has one class only.

    Equal seeds draw the same problems for every judge, so differences between judges are paired.
    """
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; expected at least 1")
    _check(scores, same)
    _, place = problem.unique(return_inverse=True)
    problems = int(place.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    found = []
    step = max(1, _CELLS // len(scores))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = torch.randint(problems, (rows, problems), generator=generator)
        counts = torch.zeros(rows, problems, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones_like(drawn).double()
        )
        found.append(_figures(scores, same, counts[:, place], fnr).T)
    return torch.cat(found)


def difference(ours: Tensor, theirs: Tensor, same: Tensor, problem: Tensor, resamples: int = RESAMPLES) -> Estimate:
    """AUROC of one judge minus that of another on the same pairs, with its paired interval over problems."""
    draws = [bootstrap(scores, same, problem, resamples)[:, 0] for scores in (ours, theirs)]
    value, problems = auroc(ours, same) - auroc(theirs, same), len(problem.unique())
    # Halved and moved, a difference is a share: 0 for all lost, 1 for all won.
    found = _interval((1 + value) / 2, (1 + draws[0] - draws[1]) / 2, problems)
    return Estimate(value, 2 * found.low - 1, 2 * found.high - 1)


def reliability(probabilities: Tensor, same: Tensor, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Bins of equal width over [0, 1], those without pairs left out."""
    place = (probabilities.double() * bins).long().clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins)
    predicted = torch.bincount(place, probabilities.double(), minlength=bins) / count
    observed = torch.bincount(place, same.double(), minlength=bins) / count
    return tuple(
        ReliabilityBin(i / bins, (i + 1) / bins, int(count[i]), float(predicted[i]), float(observed[i]))
        for i in range(bins)
        if count[i]
    )


def _figures(scores: Tensor, same: Tensor, weights: Tensor, fnr: float = FNR) -> Tensor:
    """(AUROC, TNR at FNR), float64 [2, B], of pairs that count `weights` [B, P] times."""
    _check(scores, same)
    if not 0 <= fnr < 1:
        raise InputError(f"fnr is {fnr}; expected 0 to below 1")
    ordered, order = scores.sort()
    # Where the pairs of a pair's own score begin and end in that order.
    begin, end = torch.searchsorted(ordered, ordered), torch.searchsorted(ordered, ordered, right=True)
    weights, truth = weights[:, order], same[order]
    positive = weights * truth
    lost = _running(positive)[:, begin]  # "same" pairs below each threshold
    different = _running(weights - positive)
    all_same, all_different = positive.sum(-1), different[:, -1]
    wins = (positive * (different[:, begin] + different[:, end])).sum(-1) / 2
    highest = (lost <= (fnr * all_same * (1 + 1e-12))[:, None]).sum(-1) - 1
    told = different.gather(1, begin[highest][:, None]).squeeze(1)
    return torch.stack([wins / (all_same * all_different), torch.where(all_same > 0, told / all_different, math.nan)])


def _running(weights: Tensor) -> Tensor:
    """Sums of the first 0, 1, ..., P columns, [B, P + 1]."""
    return torch.nn.functional.pad(weights.cumsum(-1), (1, 0))


def _check(scores: Tensor, same: Tensor) -> None:
    if len(scores) != len(same):
        raise InputError(f"there are {len(scores)} scores for {len(same)} pairs; expected one a pair")
    if not 0 < int(same.sum()) < len(same):
        what = "no pairs" if not len(same) else f"{len(same)} pairs, all {'the same' if same.all() else 'different'}"
        raise InputError(f"there are {what}; a judge is scored on pairs of both classes: give more problems")


def _interval(value: float, draws: Tensor, problems: int) -> Estimate:
    """value, draws [B]: shares, in [0, 1]."""
    told = draws[~draws.isnan()]
    if problems < 2 or not len(told):
        return Estimate(value, math.nan, math.nan)
    if problems >= SMALL and told.max() - told.min() > EQUAL:
        low, high = told.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return Estimate(value, low, high)
    # Of a mean over problems, resamples vary by one problem's variance over their number.
    variance = problems * float(told.var(correction=0))
    low, high = adjusted_wald_interval(value, variance, problems, normal_quantile(0.975))
    return Estimate(value, min(low, value), max(high, value))
