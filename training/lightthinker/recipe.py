"""Everything that decides the fine-tuned weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from training.reasoner.data import Mixture
from training.reasoner.traces import Habits


@dataclass(frozen=True, slots=True)
class TuneRecipe:
    """A whole fine-tuning; two runs of one recipe on one machine give the same weights.

    cache_tokens: of each thought (nine in the paper). shortest: tokens of a thought at least. tokens: of a step, padding
    included. longest: of a trace with its splits. chunk: traces of one chunk of the stream. The rates rise over `warmup` steps
    and fall to nothing as a cosine.
    """

    steps: int = 300
    seed: int = 0
    cache_tokens: int = 9
    shortest: int = 24
    mixture: Mixture = field(default_factory=lambda: Mixture(4, 8, drills=0, hint=0.26))
    habits: Habits = field(default_factory=Habits)
    tokens: int = 4096
    longest: int = 1536
    chunk: int = 256
    muon: float = 3e-3
    adam: float = 2e-3
    warmup: int = 20
    clip: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and item.name != "seed" and value <= 0:
                raise ValueError(f"TuneRecipe.{item.name} must be positive, not {value!r}.")
        if self.longest > self.tokens:
            raise ValueError(f"TuneRecipe.longest ({self.longest}) must be at most its tokens ({self.tokens}).")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


STANDARD = TuneRecipe()
BRIEF = TuneRecipe(steps=6, mixture=Mixture(1, 1, drills=0), tokens=512, longest=512, chunk=8, warmup=2)
RECIPES = {"standard": STANDARD, "brief": BRIEF}
