"""Expected Attention (arXiv 2510.00636): the attention that coming queries are expected to pay, times the size of the value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from laconic.checks import instance, unwrap_numpy_fields, whole, word
from laconic.compress.attention import chunks, grouped, masked_softmax
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.policies import AGGREGATION, INTERVAL, RATIO, WINDOW
from laconic.compress.policy import ModelInfo, Policy
from laconic.compress.schedule import Proportional, Schedule
from laconic.compress.selector import Rotation
from laconic.compress.shares import WithRatio
from laconic.errors import InputError
from laconic.settings import setting


@dataclass(frozen=True)
class ExpectedAttentionScore(Scorer):
    """softmax over the candidates of E[exp(q k)], for queries q that are normally distributed, times the value's L2 norm.

    Mean m and covariance C of q are those of the latest `queries` queries before RoPE, turned by the mean of the rotations at
    the next `future` positions; then log E[exp(s q k)] = s m k + s^2 k C k / 2, for an attention scaling s.
    """

    rotation: Rotation | None = None
    queries: int = 128
    future: int = 512
    aggregation: Aggregation = "group"
    reads_values: bool = field(default=True, init=False, repr=False)
    reads_rotation: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        if self.rotation is not None:
            instance("rotation", self.rotation, Rotation, "a Rotation, or None")
        whole("queries", self.queries, 1, meaning="latest queries that stand for the coming ones")
        whole("future", self.future, 1, meaning="coming positions")
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        coming = self._coming(evidence)
        keys, G = evidence.keys[:, :, : evidence.candidates], evidence.keys.shape[1]
        B, H, S, _ = coming.shape
        scores = torch.empty(keys.shape[:3], dtype=torch.float32, device=keys.device)
        for rows in chunks(B, H * S * evidence.candidates):
            logits = grouped(coming[rows], G) @ keys[rows, :, None].float().transpose(-1, -2) * evidence.scaling
            spread = logits[..., 1:, :].square().mean(-2) / 2  # k C k, as C is a mean of outer products
            valid = None if evidence.valid is None else evidence.valid[rows, None, None]
            scores[rows] = masked_softmax(logits[..., 0, :] + spread, valid).mean(2)
        sizes = evidence.candidate_values("ExpectedAttentionScore").float().norm(dim=-1)
        if evidence.valid is not None:
            sizes = sizes.masked_fill(~evidence.valid[:, None], 0.0)
        scores = scores * sizes
        return scores if self.aggregation == "group" else evidence.over_heads(scores.mean(1, keepdim=True))

    def _coming(self, evidence: Evidence) -> Tensor:
        """fp32 [B, H, 1 + S, D]: the mean of the coming queries, then S deviations from it."""
        if self.rotation is None:
            raise InputError(
                "policy expectedattention has not been given the model's rotation: run it through an engine"
            )
        queries, starts = (evidence.need(name, "ExpectedAttentionScore") for name in ("queries", "starts"))
        # The token before the window is always cached, so it is the last candidate.
        newest = starts + evidence.positions[:, 0, -1] + evidence.window
        asked = newest[:, None] - torch.arange(queries.shape[2] - 1, -1, -1, device=queries.device)
        before = self.rotation.undo(queries, asked[:, None])
        mean = before.mean(2, keepdim=True)
        return self.rotation.mean_of(torch.cat((mean, before - mean), dim=2), newest + 1, self.future)


@dataclass(frozen=True)
class ExpectedAttention(WithRatio):
    """Expected Attention (arXiv 2510.00636): tokens to which the coming queries are expected to attend, by what they hold.

    kvpress takes the queries of the whole prompt and compresses that; here the latest generated ones stand for the coming, on
    RPC's schedule. Only an engine knows the model's rotation: until then (`for_model`) the policy can plan, not score.
    """

    name: ClassVar[str] = "expectedattention"
    summary: ClassVar[str] = (
        "keeps what the coming queries are expected to attend to, from the spread of the latest ones"
    )
    source: ClassVar[str] = "arXiv 2510.00636"

    interval: int = setting(4096, INTERVAL, shown=True)
    ratio: int | float = setting(4, RATIO, shown=True)
    window: int = setting(32, WINDOW, shown=True)
    queries: int = setting(128, "latest queries that stand for the coming ones")
    future: int = setting(512, "coming positions over which their rotation is averaged")
    aggregation: Literal["layer", "group"] = setting("group", AGGREGATION)

    def make_schedule(self) -> Schedule:
        return Proportional(self.interval, self.ratio, self.window)

    def make_scorer(self) -> Scorer:
        return ExpectedAttentionScore(None, self.queries, self.future, self.aggregation)

    def for_model(self, model: ModelInfo) -> Policy:
        """See Policy.for_model. Raises InputError where the model's rotation can't be told."""
        fitted = dataclasses.replace(self)
        scorer = ExpectedAttentionScore(model.find_rotation(), self.queries, self.future, self.aggregation)
        fitted.__dict__["scorer"] = scorer  # where the cached property keeps what make_scorer made
        return fitted
