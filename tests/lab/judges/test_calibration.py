"""Calibration against its own generating model, and against its optimum."""

from __future__ import annotations

import pytest
import torch

from laconic.lab.judges.calibration import fit_platt_scaling
from laconic.lab.judges.scoring import auroc, score


def made(scale: float, shift: float, count: int = 20000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, generator=generator)
    return logits, torch.rand(count, generator=generator) < (scale * logits + shift).sigmoid()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 1.0), (2.5, -1.5)])
def test_it_finds_the_scale_and_shift_that_made_the_labels(scale: float, shift: float) -> None:
    assert fit_platt_scaling(*made(scale, shift)) == pytest.approx((scale, shift), abs=0.1)


def test_it_leaves_the_order_and_mends_the_error() -> None:
    logits, same = made(0.3, 0.8)
    scale, shift = fit_platt_scaling(logits, same)
    problem = torch.zeros(len(same), dtype=torch.int64)
    mended = (scale * logits + shift).sigmoid()
    assert auroc(mended, same) == pytest.approx(auroc(logits, same), abs=1e-6)
    assert score(mended, same, problem, 1).ece < 0.02 < score(logits.sigmoid(), same, problem, 1).ece


def test_classes_that_are_told_apart_do_not_run_away() -> None:
    scale, shift = fit_platt_scaling(torch.tensor([-3.0, -2.0, 2.0, 3.0]), torch.tensor([False, False, True, True]))
    assert 1 < scale < 20
    assert abs(shift) < 1


def test_the_order_is_never_turned_round() -> None:
    assert fit_platt_scaling(torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([True, True, False, False]))[0] == 0.01
