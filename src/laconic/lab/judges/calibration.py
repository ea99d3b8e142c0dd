"""From logits that rank pairs to probabilities that can be believed."""

from __future__ import annotations

import torch
from torch import Tensor


def fit_platt_scaling(logits: Tensor, same: Tensor, steps: int = 50) -> tuple[float, float]:
    """scale and shift that make sigmoid(scale * logit + shift) fit labels best: float [P], bool [P].

    A little ridge (1e-3 a pair) keeps both finite where the logits tell the classes apart. scale is at least 0.01, so that
    the order of pairs is never turned round.
    """
    x = torch.stack([logits.double(), torch.ones(len(logits), dtype=torch.float64)], dim=1)
    y, solution = same.double(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    prior = solution.clone()
    for _ in range(steps):
        p = (x @ solution).sigmoid()
        gradient = x.T @ (p - y) / len(y) + 1e-3 * (solution - prior)
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(y) + 1e-3 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        solution = solution - step.clamp(-2, 2)
        if float(step.abs().max()) < 1e-10:
            break
    return max(0.01, float(solution[0])), float(solution[1])
