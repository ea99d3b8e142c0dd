"""Training a judge: what can be trained, and the loop that trains it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from laconic.judges.pairs import Pairs


class Trainable(Protocol):
    """What `fit` needs of a model; what else the model is (a `Judge`, say) is its own affair."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the optimizer steps: the same tensors in the same order every time, frozen ones left out or not."""
        ...

    def loss_logits(self, pairs: Pairs) -> Tensor:
        """log P(same) / P(different) of each pair, float [P], with a gradient unless that is switched off.

        `pairs` is a batch: each excerpt of it is there once, so a model that encodes excerpts does so once each.
        """
        ...

    def train(self, mode: bool = True) -> Any:
        """Dropout and the like on or off."""
        ...

    def save(self, directory: Path) -> None:
        """Everything that training changes, exactly, into a directory that exists."""
        ...

    def load(self, directory: Path) -> Any:
        """Take back, in place, what `save` wrote."""
        ...
