"""How a judge is trained: the loss, the steps and the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from laconic import checks
from laconic.errors import InputError
from laconic.lab.judges.losses import Loss


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train.

    oversample: how often a pair of the rarer class is drawn an epoch (1 is off). batch: problems a step, with all their
    pairs, or pairs a step where by_problem is False. micro: pairs that go through the model at once, 0 for all of a step's.
    rate: AdamW's, reached after the share `warmup` of all steps, falling to 0 along a cosine. decay: of matrices. clip: the
    most that the gradient's norm may be. every: steps between two looks at the validation part, each followed by a
    checkpoint; 0 is an epoch's. patience: looks without a better AUROC before training ends early; 0 is off.
    """

    loss: Loss = field(default_factory=Loss)
    oversample: int = 2
    epochs: int = 8
    batch: int = 1
    by_problem: bool = True
    micro: int = 0
    rate: float = 1e-3
    warmup: float = 0.05
    decay: float = 0.05
    clip: float = 1.0
    every: int = 0
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        for name, least in (
            ("oversample", 1), ("epochs", 1), ("batch", 1), ("micro", 0), ("every", 0), ("patience", 0),
        ):  # fmt: skip
            checks.whole(name, getattr(self, name), least)
        for name, high in (("rate", 10), ("clip", math.inf)):
            checks.number(name, getattr(self, name), 0, high, above=True)
        for name in ("warmup", "decay"):
            checks.share(name, getattr(self, name), "1 excluded")
            if getattr(self, name) == 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to below 1")
        checks.flag("by_problem", self.by_problem)
        checks.instance("loss", self.loss, Loss, "a Loss, such as Loss(focal=True)")
        checks.seed("seed", self.seed)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step, the first being 0, of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
