"""Scores against slow, obvious versions, ties included."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from laconic.errors import LaconicError
from laconic.lab.judges.scoring import auroc, bootstrap, difference, reliability, score, tnr_at_fnr, within_problems


def slow_auroc(scores: list[float], same: list[bool]) -> float:
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, y in zip(scores, same, strict=True)
        if y
        for b, z in zip(scores, same, strict=True)
        if not z
    ]
    return sum(wins) / len(wins)


def slow_tnr(scores: list[float], same: list[bool], fnr: float) -> float:
    positives = [s for s, y in zip(scores, same, strict=True) if y]
    negatives = [s for s, y in zip(scores, same, strict=True) if not y]
    best = 0.0
    for threshold in sorted({*scores, math.inf}):
        missed = sum(s < threshold for s in positives)
        if missed <= fnr * len(positives) + 1e-9:
            best = max(best, sum(s < threshold for s in negatives) / len(negatives))
    return best


def made(seed: int, pairs: int, values: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (of few different values, for ties), labels that lean on them, problems of unequal size."""
    rng = random.Random(seed)
    scores = [rng.random() if values is None else rng.randrange(values) / (values - 1) for _ in range(pairs)]
    same = [rng.random() < 0.3 + 0.5 * s for s in scores]
    same[:2] = [True, False]
    problem = [rng.randrange(6) ** 2 % 7 for _ in range(pairs)]
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(same), torch.tensor(problem)


@pytest.mark.parametrize("values", [None, 2, 5])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pairs", [2, 9, 60])
def test_figures_equal_the_slow_ones(seed: int, pairs: int, values: int | None) -> None:
    scores, same, _ = made(seed, pairs, values)
    assert auroc(scores, same) == pytest.approx(slow_auroc(scores.tolist(), same.tolist()), abs=1e-12)
    for fnr in (0.0, 0.1, 0.2, 0.5):
        slow = slow_tnr(scores.tolist(), same.tolist(), fnr)
        assert tnr_at_fnr(scores, same, fnr) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_within_problems_is_the_mean_of_each_problems_own(seed: int) -> None:
    scores, same, problem = made(seed, 60, 5)
    rows = list(zip(scores.tolist(), same.tolist(), problem.tolist(), strict=True))
    own = []
    for place in sorted({p for _, _, p in rows}):
        mine = [(s, y) for s, y, p in rows if p == place]
        if len({y for _, y in mine}) == 2:
            own.append(slow_auroc([s for s, _ in mine], [y for _, y in mine]))
    found = within_problems(scores, same, problem, 50)
    assert found.value == pytest.approx(sum(own) / len(own), abs=1e-12)
    assert found.low <= found.value <= found.high


def test_a_judge_that_knows_problems_alone_tells_nothing_within_them() -> None:
    problem = torch.arange(40).repeat_interleave(5)
    same = (torch.arange(200) % 5) < 1 + problem % 4
    scores = (problem % 4).double() / 4
    assert auroc(scores, same) > 0.65
    assert within_problems(scores, same, problem).value == 0.5
    assert math.isnan(within_problems(scores, torch.arange(200) < 5, problem).value)  # each problem of one class


def test_a_share_that_is_a_whole_number_of_pairs_may_be_missed_in_full() -> None:
    # 5 "same" pairs: one of them may be missed at FNR 0.2, so the threshold is the second one's score.
    scores = torch.tensor([0.1, 0.5, 0.6, 0.7, 0.8, 0.2, 0.45, 0.55])
    same = torch.tensor([True] * 5 + [False] * 3)
    assert tnr_at_fnr(scores, same, 0.2) == pytest.approx(2 / 3)


def test_all_scores_equal_say_nothing() -> None:
    scores, same = torch.full((10,), 0.5), torch.tensor([True, False] * 5)
    assert auroc(scores, same) == 0.5
    assert tnr_at_fnr(scores, same) == 0.0


@pytest.mark.parametrize("values", [None, 4])
def test_resampled_problems_equal_pairs_written_out(values: int | None) -> None:
    scores, same, problem = made(3, 80, values)
    draws = bootstrap(scores, same, problem, resamples=40, seed=11)
    assert not draws.isnan().all()
    names = problem.unique()
    generator = torch.Generator().manual_seed(11)
    drawn = torch.randint(len(names), (40, len(names)), generator=generator)
    for row, (area, rate) in zip(drawn.tolist(), draws.tolist(), strict=True):
        index = torch.cat([torch.nonzero(problem == names[i]).flatten() for i in row])
        some, labels = scores[index].tolist(), same[index].tolist()
        if all(labels) or not any(labels):
            assert math.isnan(area)
            assert math.isnan(rate)
            continue
        assert area == pytest.approx(slow_auroc(some, labels), abs=1e-9)
        assert rate == pytest.approx(slow_tnr(some, labels, 0.2), abs=1e-9)


def test_resamples_of_one_class_are_left_out_of_the_interval() -> None:
    scores = torch.tensor([0.9, 0.8, 0.1, 0.2])
    same = torch.tensor([True, True, False, False])
    problem = torch.tensor([0, 0, 1, 1])
    found = score(scores, same, problem, resamples=50)
    assert (found.auroc.value, found.auroc.high) == (1.0, 1.0)
    assert torch.isnan(bootstrap(scores, same, problem, 50)[:, 0]).any()


def test_an_interval_resamples_problems_not_pairs() -> None:
    # Copies of every pair inside its problem say nothing new.
    scores, same, problem = made(5, 60, None)
    once, twice = (score(scores.repeat(k), same.repeat(k), problem.repeat(k)) for k in (1, 3))
    assert twice.auroc == pytest.approx(once.auroc)
    assert once.auroc.low < once.auroc.value < once.auroc.high


def test_a_difference_is_paired() -> None:
    scores, same, problem = made(7, 90, None)
    assert difference(scores, scores.clone(), same, problem).value == 0.0
    problem = torch.arange(90) % 30  # enough of them for the resamples' own quantiles
    noise = torch.rand(90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = difference(scores, noise, same, problem, resamples=200)
    assert found.value == pytest.approx(auroc(scores, same) - auroc(noise, same))
    draws = bootstrap(scores, same, problem, 200)[:, 0] - bootstrap(noise, same, problem, 200)[:, 0]
    assert found.low == pytest.approx(draws.quantile(0.025).item())


@pytest.mark.parametrize("problems", [2, 3, 10, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_a_judge_that_never_errs_on_a_few_problems_is_not_certain(problems: int, turned: bool) -> None:
    same = torch.tensor([True, False, True, False]).repeat(problems)
    problem = torch.arange(problems).repeat_interleave(4)
    found = score(same.double() if not turned else (~same).double(), same, problem, resamples=200)
    for figure in (found.auroc, found.tnr):
        assert figure.value == (0.0 if turned else 1.0)
        assert 1 / (problems + 2) < figure.high - figure.low < 4.5 / (problems + 2)
        assert figure.value in (figure.low, figure.high)
    other = difference(same.double(), same.double(), same, problem, resamples=50)
    assert other.value == 0.0
    assert other.low == pytest.approx(-other.high)
    # Bonett and Price's interval for `problems` pairs that don't differ.
    assert other.high == pytest.approx(1.959964 * math.sqrt(2 / (problems + 2) / (problems + 2)), abs=1e-6)


def test_one_problem_has_no_interval() -> None:
    scores, same, _ = made(2, 40, None)
    problem = torch.zeros(40, dtype=torch.int64)
    found = score(scores, same, problem, resamples=20)
    assert found.auroc.value == pytest.approx(slow_auroc(scores.tolist(), same.tolist()))
    assert all(math.isnan(end) for end in (*found.auroc[1:], *found.tnr[1:]))
    assert found.to_dict()["auroc"] == {"value": found.auroc.value, "low": None, "high": None}
    assert math.isnan(difference(scores, scores, same, problem, resamples=20).low)


@pytest.mark.parametrize("problems", [5, 40])
def test_intervals_hold_the_true_area_as_often_as_they_say(problems: int) -> None:
    """Problems on which a judge tells well, or badly: of 150 draws of problems, most intervals hold the whole's AUROC."""
    generator = torch.Generator().manual_seed(3)

    def world(count: int) -> tuple[Tensor, Tensor, Tensor]:
        same = torch.rand(count, 12, generator=generator) < 0.5
        good = torch.rand(count, 1, generator=generator) < 0.8
        scores = torch.randn(count, 12, generator=generator, dtype=torch.float64) + 3.0 * (same & good)
        return torch.sigmoid(scores).flatten(), same.flatten(), torch.arange(count).repeat_interleave(12)

    scores, same, _ = world(4000)
    truth, held = auroc(scores, same), 0
    for _ in range(150):
        found = score(*world(problems), resamples=200).auroc
        held += found.low <= truth <= found.high
    assert held / 150 >= 0.9


def test_calibration_by_hand() -> None:
    probabilities = torch.tensor([0.05, 0.0, 0.32, 0.38, 1.0, 0.95])
    same = torch.tensor([False, True, False, True, True, True])
    found = score(probabilities, same, torch.arange(6), resamples=2)
    assert [(b.low, b.pairs) for b in found.bins] == [(0.0, 2), (0.3, 2), (0.9, 2)]
    assert [b.observed for b in found.bins] == [0.5, 0.5, 1.0]
    assert [b.predicted for b in found.bins] == pytest.approx([0.025, 0.35, 0.975])
    assert found.ece == pytest.approx((2 * 0.475 + 2 * 0.15 + 2 * 0.025) / 6)
    assert found.brier == pytest.approx((0.05**2 + 1 + 0.32**2 + 0.62**2 + 0 + 0.05**2) / 6)
    assert found.same == pytest.approx(4 / 6)


def test_a_calibrated_judge_has_no_error() -> None:
    probabilities = torch.tensor([0.25] * 8 + [0.75] * 8)
    same = torch.tensor(([True] * 2 + [False] * 6) + ([True] * 6 + [False] * 2))
    bins = reliability(probabilities, same)
    assert sum(b.pairs for b in bins) == 16
    assert sum(b.pairs * abs(b.predicted - b.observed) for b in bins) == 0


def test_a_score_is_ready_for_json() -> None:
    scores, same, problem = made(1, 30, None)
    record = score(scores, same, problem, resamples=5).to_dict()
    assert set(record["auroc"]) == {"value", "low", "high"}
    assert set(record["bins"][0]) == {"low", "high", "pairs", "predicted", "observed"}


@pytest.mark.parametrize(
    ("scores", "same", "said"),
    [
        ([], [], "no pairs"),
        ([0.1, 0.2], [True, True], "2 pairs, all the same"),
        ([0.1, 0.2], [False, False], "2 pairs, all different"),
        ([0.1, 1.2], [True, False], "outside 0 to 1"),
        ([0.1, math.nan], [True, False], "outside 0 to 1"),
        ([0.1], [True, False], "1 scores for 2 pairs"),
    ],
)
def test_bad_input_is_one_sentence(scores: list[float], same: list[bool], said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        score(torch.tensor(scores), torch.tensor(same, dtype=torch.bool), torch.zeros(len(same), dtype=torch.int64))


def test_settings_out_of_range_are_refused() -> None:
    scores, same, problem = made(1, 10, None)
    with pytest.raises(LaconicError, match="fnr is 1"):
        tnr_at_fnr(scores, same, 1.0)
    with pytest.raises(LaconicError, match="resamples is 0"):
        bootstrap(scores, same, problem, 0)
