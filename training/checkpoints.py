"""Checkpoints of a training: written whole or not at all, gone on from, and refused where they are of another recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch

from training.reasoner.muon import Muon


class TrainingRecipe(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class ResumableTraining(ABC):
    """A training at a step of its recipe, with Muon and Adam, that `checkpoint.pt` in `directory` holds all of.

    seconds: spent on the steps up to the checkpoint. What else a training has, it gives in `own_state` and takes in
    `take_state`: by names of its own.
    """

    recipe: TrainingRecipe
    directory: Path
    step: int
    seconds: float
    muon: Muon
    adam: torch.optim.Optimizer

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """The weights and the place in the stream of batches."""

    @abstractmethod
    def take_state(self, state: dict[str, Any]) -> None:
        """Go on from what `own_state` gave."""

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint; the one before stays until this one is whole."""
        self.directory.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": self.recipe.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            **self.own_state(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on from the checkpoint in the directory. Raises ValueError for one of another recipe."""
        state = torch.load(self.checkpoint, weights_only=False)
        if state["recipe"] != self.recipe.to_dict():
            raise ValueError(f"The checkpoint {self.checkpoint} was made by another recipe; use another directory.")
        self.step, self.seconds = state["step"], state["seconds"]
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.take_state(state)
