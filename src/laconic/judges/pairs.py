"""Pairs of excerpts with labels: all pairs of a problem's traces, labelled by a rule, split by problem.

Problems are what a judge must generalise over, so a problem's traces are never in two parts of a split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.errors import LaconicError
from laconic.prune.judge import Excerpt


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs over E excerpts of some problems.

    excerpts: each once. left, right: which two a pair is of, indices into excerpts, int64 [P]. same: whether the two
    traces end in the same answer, bool [P]. problem: index into problems, int64 [P]. problems: their ids.

    Raises LaconicError for tensors of other shapes or kinds, or indices out of range.
    """

    excerpts: tuple[Excerpt, ...]
    left: Tensor
    right: Tensor
    same: Tensor
    problem: Tensor
    problems: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, kind, most in (
            ("left", torch.int64, len(self.excerpts)),
            ("right", torch.int64, len(self.excerpts)),
            ("same", torch.bool, 2),
            ("problem", torch.int64, len(self.problems)),
        ):
            value: Tensor = getattr(self, name)
            if value.dtype != kind or value.dim() != 1 or len(value) != len(self.left):
                raise LaconicError(
                    f"Pairs.{name} is {value.dtype} {list(value.shape)}; expected {kind} [{len(self.left)}]."
                )
            if len(value) and not 0 <= int(value.min()) <= int(value.max()) < most:
                raise LaconicError(f"Pairs.{name} has an index out of range; expected 0 to {most - 1}.")

    def __len__(self) -> int:
        return len(self.left)

    def take(self, index: Tensor) -> Pairs:
        """The pairs at `index` (int64 [Q], repeats allowed), with only the excerpts that they need."""
        ends = torch.stack([self.left[index], self.right[index]])
        needed, places = ends.unique(return_inverse=True)
        excerpts = tuple(self.excerpts[i] for i in needed.tolist())
        return Pairs(excerpts, places[0], places[1], self.same[index], self.problem[index], self.problems)
