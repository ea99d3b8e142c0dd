"""What a judge is trained to make small. P pairs, logits of "same" against "different"."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from laconic import checks
from laconic.errors import InputError


def cross_entropy(logits: Tensor, same: Tensor) -> Tensor:
    """Mean of -log p_t, where p_t is the probability given to what is true. logits: float [P]; same: bool [P]."""
    return F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype))


def focal_loss(logits: Tensor, same: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean of -alpha_t (1 - p_t)^gamma log p_t (DeepPrune, arXiv 2510.08483; Lin et al., arXiv 1708.02002, equation 5).

    p_t is the probability given to what is true; alpha_t is alpha where that is "same" and 1 - alpha where it is
    "different". gamma 0 and alpha 0.5 is half the cross entropy. logits: float [P]; same: bool [P].
    """
    towards_truth = logits.where(same, -logits)
    weight = same.to(logits.dtype) * (2 * alpha - 1) + (1 - alpha)
    # 1 - p_t as a sigmoid and log p_t as a logsigmoid: exact where p_t rounds to 1 or to 0.
    return -(weight * (-towards_truth).sigmoid() ** gamma * F.logsigmoid(towards_truth)).mean()


@dataclass(frozen=True, slots=True)
class Loss:
    """Which loss. focal: False is cross entropy, which has no other setting. alpha in (0, 1), gamma at least 0."""

    focal: bool = True
    alpha: float = 0.5
    gamma: float = 2.0

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.flag("focal", self.focal)
        checks.number("alpha", self.alpha, 0, 1, "0 and 1 excluded", above=True)
        if self.alpha == 1:
            raise InputError(f"alpha is {self.alpha}; expected a number between 0 and 1, both excluded")
        checks.number("gamma", self.gamma, 0, 100)

    def __call__(self, logits: Tensor, same: Tensor) -> Tensor:
        """The mean loss, a scalar. logits: float [P]; same: bool [P]."""
        return focal_loss(logits, same, self.alpha, self.gamma) if self.focal else cross_entropy(logits, same)
