"""R-KV's scorer: attention minus similarity to other tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.checks import number, odd, unwrap_numpy_fields, whole, word
from laconic.compress.attention import chunks, pool
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.scorers import recent_attention


@dataclass(frozen=True)
class Redundancy(Scorer):
    """R-KV (arXiv 2505.24133): lam * importance - (1 - lam) * redundancy.

    importance: softmax over the candidates of the latest `queries` queries' attention, averaged over queries and over
    the heads of each KV head, then max-pooled over `kernel` neighbours.

    redundancy: for each cached generated token (window included), the mean cosine similarity of all keys to its key,
    without its own; then a softmax over the candidates, so that both terms are spread over the candidates like
    probabilities. Of near-copies the latest is spared: token i's similarity to the latest token that is more similar
    to it than `threshold` counts as 0.

    Where the paper leaves room we chose: prompt keys take no part in either term (the prompt is never evicted);
    aggregation "group", one set of tokens for each KV head, is the default, and "layer" averages the two terms over
    the KV heads; lam 0.1, 8 queries, kernel 7, threshold 0.5.

    Similarities are computed a block of rows at a time: memory stays linear in the number of tokens.
    """

    queries: int = 8
    lam: float = 0.1
    kernel: int = 7
    threshold: float = 0.5
    aggregation: Aggregation = "group"

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("queries", self.queries, 1, meaning="latest queries that judge importance")
        number("lam", self.lam, 0, 1)
        odd("kernel", self.kernel)
        number("threshold", self.threshold, -1, 1)
        word("aggregation", self.aggregation, ("layer", "group"))

    def score(self, evidence: Evidence) -> Tensor:
        queries = evidence.need("queries", "Redundancy")
        importance = pool(recent_attention(self, evidence) / queries.shape[2], self.kernel, "max")
        similar = mean_similarity(evidence.keys, evidence.valid, self.threshold)[..., : evidence.candidates]
        if evidence.valid is not None:
            similar = similar.masked_fill(~evidence.valid.unsqueeze(1), -torch.inf)
        redundancy = similar.softmax(dim=-1).nan_to_num(0.0)  # a row without candidates has nothing to share
        if self.aggregation == "layer":
            redundancy = evidence.over_heads(redundancy.mean(dim=1, keepdim=True))
        return self.lam * importance - (1 - self.lam) * redundancy


def mean_similarity(keys: Tensor, valid: Tensor | None, threshold: float) -> Tensor:
    """Mean over i != j of cos(k_i, k_j), for each slot j: fp32 [B, G, T] from keys [B, G, T, D].

    valid: bool [B, M], M <= T, which of the first M slots hold a token; the rest do. cos(k_i, k_j) counts as 0 where j
    is the latest token with cos(k_i, k_j) > threshold. The mean is over all the row's tokens, j itself counting 0.
    """
    B, G, T, _ = keys.shape
    unit = torch.nn.functional.normalize(keys.float(), dim=-1, eps=1e-8)
    count = torch.full((B, 1, 1), float(T), device=keys.device)
    if valid is not None:
        real = torch.nn.functional.pad(valid, (0, T - valid.shape[1]), value=True)  # [B, T]
        unit = torch.where(real[:, None, :, None], unit, torch.zeros((), device=keys.device))
        count = real.sum(dim=1).view(B, 1, 1).float()
    slots = torch.arange(T, device=keys.device)
    total = torch.zeros(B, G, T, dtype=torch.float32, device=keys.device)
    for block in chunks(T, B * G * T):
        cos = unit[:, :, block] @ unit.transpose(-1, -2)  # [B, G, block, T]
        itself = slots[block, None] == slots
        cos.masked_fill_(itself, 0.0)
        latest = torch.where((cos > threshold) & ~itself, slots, -1).amax(dim=-1, keepdim=True)  # -1: no near-copy
        cos.masked_fill_(slots == latest, 0.0)
        total += cos.sum(dim=2)
    return total / count
