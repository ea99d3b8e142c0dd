"""VaSE (arXiv 2606.03928): the tokens with the widest values stay for sure, the others by a draw that attention weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from laconic.checks import odd, share, unwrap_numpy_fields, whole, word
from laconic.compress.attention import pool
from laconic.compress.draws import random_bits
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.policies import AGGREGATION, INTERVAL, RATIO, WINDOW
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.scorers import recent_attention
from laconic.compress.select import rank_keys, rounded
from laconic.compress.shares import WithRatio
from laconic.settings import setting

PROTECTED = "share of what stays that goes to the tokens with the widest values, whatever they are attended to"
CERTAIN = 1e6
"""The score of a token that stays for sure: above every draw, of which none reaches 100."""


@dataclass(frozen=True)
class WeightedDraw(Scorer):
    """VaSE's AttnV: of K that stay, the `protected` share with the widest values (largest minus smallest number); then a draw.

    The draw is one without replacement, with probabilities proportional to the attention of the latest `queries` queries,
    smoothed as SnapKV's: the highest log(weight) + Gumbel noise stay, which is the same (arXiv 1903.06059). The noise is a hash
    of (seed, row, layer, KV head, compression, position), so it is new at every compression and the same in every run.
    """

    queries: int = 32
    seed: int = 0
    protected: float = 0.25
    kernel: int = 5
    aggregation: Aggregation = "group"
    reads_values: bool = field(default=True, init=False, repr=False)
    reads_keep: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("queries", self.queries, 1, meaning="latest queries whose attention weights the draw")
        whole("seed", self.seed, 0)
        share("protected", self.protected)
        odd("kernel", self.kernel)
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        by_group = self.aggregation == "group"
        weights = pool(recent_attention(self, evidence), self.kernel, "avg")
        bits = random_bits(self.seed, evidence, by_group=by_group, redraw=True)
        uniform = ((bits >> 9).float() + 0.5) / 2**23  # never 0 nor 1, and exact in fp32
        scores = weights.clamp(min=1e-30).log() - uniform.log().neg().log()
        width = value_ranges(evidence)
        if not by_group:
            width = evidence.over_heads(width.mean(1, keepdim=True))
        count = (evidence.need("keep", "WeightedDraw") * self.protected).long()
        return scores.masked_fill(among_largest(width, count, evidence.valid), CERTAIN)


def value_ranges(evidence: Evidence) -> Tensor:
    """Largest minus smallest number of each candidate's value, fp32 [B, G, M]; 0 for junk."""
    values = evidence.candidate_values("WeightedDraw").float()
    width = rounded(values.amax(-1) - values.amin(-1))
    return width if evidence.valid is None else width.masked_fill(~evidence.valid[:, None], 0.0)


def among_largest(scores: Tensor, counts: Tensor, valid: Tensor | None) -> Tensor:
    """bool [B, g, M]: which are among their row's `counts` (long [B]) largest real candidates; of equals, the later."""
    order = rank_keys(scores, valid).argsort(dim=-1, descending=True)
    first = torch.arange(scores.shape[-1], device=scores.device) < counts.view(-1, 1, 1)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, first.expand_as(order))


@dataclass(frozen=True)
class VaSE(WithRatio):
    """VaSE (arXiv 2606.03928): the widest values stay, the rest of the budget is drawn by attention, each KV head for itself.

    Its authors keep a fixed budget and compress every 64 tokens, by the queries of those 64; here it is on RPC's schedule, to
    compare at equal cache.
    """

    name: ClassVar[str] = "vase"
    summary: ClassVar[str] = "keeps the tokens with the widest values, and of the others a draw that attention weights"
    source: ClassVar[str] = "arXiv 2606.03928"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW + ", whose queries weight the draw", shown=True)
    protected: float = setting(0.25, PROTECTED)
    kernel: int = setting(5, "neighbourhood of the average pooling of attention, odd; 1 is none")
    seed: int = setting(0, "which draw")
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return WeightedDraw(self.window, self.seed, self.protected, self.kernel, self.aggregation)
