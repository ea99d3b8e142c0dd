"""The scorers: RPC's window attention, H2O, TOVA, StreamingLLM's recency, and the tables' floor and ceiling.

Shapes as in `Evidence`: B rows, H query heads, G KV heads, M candidates, W window, S queries, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from laconic.checks import flag, function, odd, unwrap_numpy_fields, whole, word
from laconic.compress.attention import attention_sums, pool
from laconic.compress.draws import random_bits
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.select import rounded
from laconic.errors import InputError

Pooling = Literal["avg", "max"]


def recent_attention(scorer: Scorer, evidence: Evidence) -> Tensor:
    """Attention of the latest `scorer.queries` queries to the candidates alone: fp32 [B, g, M], summed over queries.

    Every query's probabilities add up to 1 over the candidates: prompt and window are outside the softmax. A query
    older than the window (possible if `scorer.queries` > W) sees no candidate that came after it.
    """
    queries = evidence.need("queries", type(scorer).__name__)
    M, W, S = evidence.candidates, evidence.window, queries.shape[2]
    visible = None if evidence.valid is None else evidence.valid[:, None, None, None, :]
    if S > W and M:
        # The token before the window is always cached, so it is the last candidate: it tells the queries' positions.
        positions = evidence.positions[:, :, None, None, :]  # [B, g, 1, 1, M]
        asked = positions[..., -1:] + W - torch.arange(S - 1, -1, -1, device=positions.device)[:, None]  # [B,g,1,S,1]
        causal = positions <= asked
        visible = causal if visible is None else visible & causal
    by_group = scorer.aggregation == "group"
    sums = attention_sums(queries, evidence.keys[:, :, :M], evidence.scaling, visible, by_group=by_group)
    return sums if by_group else evidence.over_heads(sums)


@dataclass(frozen=True)
class WindowAttention(Scorer):
    """RPC (arXiv 2505.13866, section 3) and SnapKV: what the latest queries look at, smoothed over neighbours.

    As in the RPC authors' code: an fp32 softmax over the candidates only, summed over the queries, averaged over the
    layer's query heads (aggregation "group": over each KV head's), then pooled over 2w+1 neighbours, zero-padded.
    """

    queries: int = 32
    pooling: Pooling = "avg"
    kernel: int = 7
    aggregation: Aggregation = "layer"

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("queries", self.queries, 1, meaning="latest queries that judge importance")
        word("pooling", self.pooling, ("avg", "max"))
        odd("kernel", self.kernel)
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        return pool(recent_attention(self, evidence), self.kernel, self.pooling)


@dataclass(frozen=True)
class AccumulatedAttention(Scorer):
    """H2O (arXiv 2306.14048): attention received so far from every query that saw the token, heads averaged."""

    aggregation: Aggregation = "layer"
    accumulates: bool = field(default=True, init=False, repr=False)
    pointwise: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        mass = evidence.need("mass", type(self).__name__).float()
        return mass if evidence.valid is None else mass.masked_fill(~evidence.valid.unsqueeze(1), 0.0)

    def observe(self, query: Tensor, keys: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention that q queries [B, H, q, D] pay each of T slots [B, G, T, D], summed over q: fp32 [B, g, T].

        mask: bool [B, 1 or H, q, T], True where a query sees a slot; None: all of them if q is 1, otherwise causal, the last
        query at the last slot. The softmax runs over every visible slot, prompt included.
        """
        q, T = query.shape[2], keys.shape[2]
        visible = None
        if mask is not None:
            groups = 1 if mask.shape[1] == 1 else keys.shape[1]
            # [B, 1, 1, q, T] or [B, G, H/G, q, T]; torch leaves it untyped
            visible = mask.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
        elif q > 1:
            visible = torch.ones(q, T, dtype=torch.bool, device=keys.device).tril(T - q)[None, None, None]
        return attention_sums(query, keys, scaling, visible, by_group=self.aggregation == "group")


@dataclass(frozen=True)
class NewestQuery(Scorer):
    """TOVA (arXiv 2401.06104): the newest query's attention over prompt and all generated tokens, heads averaged."""

    aggregation: Aggregation = "layer"
    queries: int = field(default=1, init=False, repr=False)
    reads_prompt: bool = field(default=True, init=False, repr=False)
    pointwise: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        query = evidence.need("queries", "NewestQuery")[:, :, -1:]
        context = evidence.need("context_keys", "NewestQuery")
        keys = evidence.keys
        B, M, Pr = keys.shape[0], evidence.candidates, context.shape[2]
        visible = None
        if evidence.valid is not None or evidence.context_valid is not None:
            visible = torch.ones(B, Pr + keys.shape[2], dtype=torch.bool, device=keys.device)
            if evidence.context_valid is not None:
                visible[:, :Pr] = evidence.context_valid
            if evidence.valid is not None:
                visible[:, Pr : Pr + M] = evidence.valid
            visible = visible[:, None, None, None, :]
        by_group = self.aggregation == "group"
        sums = attention_sums(query, (context, keys), evidence.scaling, visible, by_group=by_group)
        return sums[..., Pr : Pr + M]


@dataclass(frozen=True)
class ShortKeys(Scorer):
    """KNorm (arXiv 2406.11430): minus the L2 norm of a token's key, which RoPE leaves as it is; layer: the KV heads' mean."""

    aggregation: Aggregation = "group"
    pointwise: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        norms = rounded(evidence.keys[:, :, : evidence.candidates].float().norm(dim=-1))
        if evidence.valid is not None:
            norms = norms.masked_fill(~evidence.valid[:, None], 0.0)  # junk slots may hold anything, infinities too
        return -norms if self.aggregation == "group" else -evidence.over_heads(norms.mean(1, keepdim=True))


@dataclass(frozen=True)
class Recency(Scorer):
    """StreamingLLM (arXiv 2309.17453): the first `sinks` generated tokens, then the later the better.

    The prompt, which holds the sequence's own attention sinks, stays whole under every policy; these come on top.
    """

    sinks: int = 4
    pointwise: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("sinks", self.sinks, 0, meaning="first generated tokens that stay")

    def score(self, evidence: Evidence) -> Tensor:
        # Whole numbers up to 2^24 are exact in fp32: 8 million positions for either half.
        positions = evidence.positions.float()
        return torch.where(evidence.positions < self.sinks, 2.0**24 - positions, positions)


@dataclass(frozen=True)
class RandomScore(Scorer):
    """A number in [0, 1) that depends on (seed, row, layer, position) and nothing else; group: and on the KV head.

    Drawn once for each token, what stays is a uniformly random part of all that was generated. redraw: anew at every
    compression, so that older tokens, which have stood more draws, are rarer.
    """

    seed: int = 0
    aggregation: Aggregation = "layer"
    redraw: bool = False

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("seed", self.seed, 0)
        word("aggregation", self.aggregation, ("layer", "group"))
        flag("redraw", self.redraw)

    def score(self, evidence: Evidence) -> Tensor:
        bits = random_bits(self.seed, evidence, by_group=self.aggregation == "group", redraw=self.redraw)
        return (bits >> 8).float() / 2**24  # fp32 holds 24 bits exactly


@dataclass(frozen=True)
class OracleScore(Scorer):
    """The ceiling of a table: `keep` is told the candidates' token ids and says which matter.

    keep: long [B, g, M] -> scores or bools of the same shape. Slots without a candidate hold meaningless ids.
    """

    keep: Callable[[Tensor], Tensor]
    needs_token_ids: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        function("keep", self.keep, "from token ids to scores or bools")

    def score(self, evidence: Evidence) -> Tensor:
        token_ids = evidence.need("token_ids", "OracleScore")
        scores = self.keep(token_ids)
        if not isinstance(scores, Tensor) or scores.shape != token_ids.shape:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"keep returned {got}; expected a tensor of shape {tuple(token_ids.shape)}")
        scores = scores.float()
        return scores if evidence.valid is None else scores.masked_fill(~evidence.valid.unsqueeze(1), 0.0)
