"""The losses against the formula, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch

from laconic.errors import LaconicError
from laconic.lab.judges.losses import Loss, cross_entropy, focal_loss

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 0.2, 1.7, 4.0], dtype=torch.float64)
SAME = torch.tensor([True, False, True, False, True, False])


def slow_focal(logits: torch.Tensor, same: torch.Tensor, alpha: float, gamma: float) -> float:
    total = 0.0
    for z, y in zip(logits.tolist(), same.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        pt, at = (p, alpha) if y else (1 - p, 1 - alpha)
        total += -at * (1 - pt) ** gamma * math.log(pt)
    return total / len(logits)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_focal_is_the_formula(alpha: float, gamma: float) -> None:
    assert focal_loss(LOGITS, SAME, alpha, gamma).item() == pytest.approx(slow_focal(LOGITS, SAME, alpha, gamma))
    assert Loss(True, alpha, gamma)(LOGITS, SAME).item() == pytest.approx(slow_focal(LOGITS, SAME, alpha, gamma))


def test_cross_entropy_is_minus_log_of_the_truth() -> None:
    slow = sum(
        -math.log(1 / (1 + math.exp(-z if y else z))) for z, y in zip(LOGITS.tolist(), SAME.tolist(), strict=True)
    )
    assert cross_entropy(LOGITS, SAME).item() == pytest.approx(slow / len(SAME))
    assert Loss(focal=False)(LOGITS, SAME).item() == pytest.approx(slow / len(SAME))


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    assert focal_loss(LOGITS, SAME, 0.5, 0.0).item() == pytest.approx(cross_entropy(LOGITS, SAME).item() / 2)


def test_alpha_is_the_weight_of_same() -> None:
    only = torch.ones(6, dtype=torch.bool)
    assert focal_loss(LOGITS, only, 0.9, 2).item() == pytest.approx(9 * focal_loss(LOGITS, only, 0.1, 2).item())


def test_extreme_logits_keep_finite_losses_and_gradients() -> None:
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([True, False, False, True]), 0.5, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(50.0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_is_that_of_the_formula() -> None:
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, SAME, 0.3, 2.0), logits)


@pytest.mark.parametrize(("field", "value"), [("alpha", 0.0), ("alpha", 1.0), ("gamma", -0.1), ("gamma", math.nan)])
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(LaconicError, match=field):
        Loss(**{field: value})  # type: ignore[arg-type]
