"""The recipe: stages with fixed step counts, and everything else that decides the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from training.reasoner.data import Mixture
from training.reasoner.model import Shape
from training.reasoner.traces import Habits


@dataclass(frozen=True, slots=True)
class Stage:
    """``steps`` optimizer steps; programs grow from ``mixture.longest`` to ``longest`` over ``ramp`` of them.

    The learning rates' factor goes linearly from ``rate[0]`` to ``rate[1]``.
    """

    name: str
    steps: int
    mixture: Mixture
    longest: int
    ramp: int = 1
    rate: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.ramp < 1:
            raise ValueError(f"Stage.steps and Stage.ramp must be at least 1, not {self.steps} and {self.ramp}.")
        if self.longest < self.mixture.longest:
            raise ValueError(f"Stage.longest ({self.longest}) must be at least its mixture's ({self.mixture.longest}).")

    def mixture_at(self, step: int) -> Mixture:
        """What traces to train on at this step of the stage."""
        grown = (self.longest - self.mixture.longest) * min(step, self.ramp) // self.ramp
        return replace(self.mixture, longest=self.mixture.longest + grown)

    def rate_at(self, step: int) -> float:
        return self.rate[0] + (self.rate[1] - self.rate[0]) * step / self.steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training; two runs of one recipe on one machine give the same weights."""

    stages: tuple[Stage, ...]
    seed: int = 0
    shape: Shape = field(default_factory=Shape)
    habits: Habits = field(default_factory=Habits)
    buckets: tuple[int, ...] = (192, 320, 448, 640, 896)
    tokens: int = 4096  # per step
    chunk: int = 512  # traces per chunk of the stream
    muon: float = 5e-3
    adam: float = 3e-3
    clip: float = 1.0
    warmup: int = 30

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and item.name not in ("seed", "warmup") and value <= 0:
                raise ValueError(f"Recipe.{item.name} must be positive, not {value!r}.")
        if not self.stages or list(self.buckets) != sorted(self.buckets) or self.buckets[0] < 7:
            raise ValueError("Recipe needs at least one stage, and buckets of at least 7 tokens in rising order.")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step counted from the start, and the step within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise ValueError(f"The step must be below {self.steps}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


SHIPPED = Recipe(
    stages=(
        Stage("lookup", 550, Mixture(1, 3, flawless=True, drills=0.1), longest=3),
        Stage("slips", 200, Mixture(1, 3, drills=0.03), longest=4, ramp=160),
        Stage("grow", 650, Mixture(1, 5, drills=0.03), longest=8, ramp=300),
        Stage("settle", 600, Mixture(4, 8, drills=0.01), longest=8, rate=(0.8, 0.02)),
        # Fewer hints: a student takes some of them far more often than its teacher, and a vote can't mend those.
        Stage("steady", 300, Mixture(4, 8, drills=0.01, hint=0.26), longest=8, rate=(0.3, 0.02)),
    )
)
TOY = Recipe(
    stages=(
        Stage("lookup", 6, Mixture(1, 1, flawless=True, drills=0.2), longest=1),
        Stage("grow", 6, Mixture(1, 1), longest=2, ramp=4, rate=(1.0, 0.1)),
    ),
    shape=Shape(width=32, layers=1, heads=2, kv_heads=1, head_width=16, hidden=32),
    buckets=(96, 192, 320),
    tokens=384,
    chunk=8,
)
RECIPES = {"shipped": SHIPPED, "toy": TOY}
