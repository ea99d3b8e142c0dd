"""Hindsight: the tokens that later ones will really attend to stay. A ceiling for scorers, which have to guess that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from laconic.checks import word
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.policies import AGGREGATION, INTERVAL, RATIO, WINDOW
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.shares import WithRatio
from laconic.settings import setting


@dataclass(frozen=True)
class FutureAttention(Scorer):
    """The largest attention that any later token will pay a token under full KV; layer: in any KV head."""

    aggregation: Aggregation = "layer"
    reads_future: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        future = evidence.need("future", type(self).__name__).float()
        if self.aggregation == "layer":
            future = future.amax(1, keepdim=True)
        return future if evidence.valid is None else future.masked_fill(~evidence.valid[:, None], 0.0)


@dataclass(frozen=True)
class Hindsight(WithRatio):
    """laconic's own ceiling: on RPC's schedule, the tokens that the rest of a recorded trace attends to most."""

    name: ClassVar[str] = "hindsight"
    summary: ClassVar[str] = "keeps what later tokens will attend to most: a ceiling (in laconic bench fidelity only)"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)
    aggregation: Literal["layer", "group"] = setting("layer", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return FutureAttention(self.aggregation)
