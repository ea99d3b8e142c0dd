"""Random Attention (arXiv 2609.03430): what stays of the generated tokens is drawn, for each KV head, at each compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from laconic.compress.evidence import Scorer
from laconic.compress.policies import AGGREGATION, INTERVAL, RATIO, WINDOW
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.scorers import RandomScore
from laconic.compress.shares import WithRatio
from laconic.settings import setting


@dataclass(frozen=True)
class RandomAttention(WithRatio):
    """Random Attention (arXiv 2609.03430): a random part of the generated tokens, another for each KV head. Reads nothing.

    A token that stayed faces a new draw at the next compression, so older ones are rarer. The paper keeps a fixed budget,
    compresses every 64 tokens and keeps the latest 64; here it is on RPC's schedule, to compare at equal cache.
    """

    name: ClassVar[str] = "randomattention"
    summary: ClassVar[str] = (
        "keeps random tokens, others for each KV head, drawn anew at each compression; reads nothing"
    )
    source: ClassVar[str] = "arXiv 2609.03430"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)
    seed: int = setting(0, "which random tokens")
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return RandomScore(self.seed, self.aggregation, redraw=True)
