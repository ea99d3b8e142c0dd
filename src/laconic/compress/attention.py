"""Attention probabilities for scorers: fp32, grouped queries without repeated keys, bounded memory.

All shapes: B rows, H query heads, G KV heads (H a multiple of G), S queries, T slots, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# fp32 elements of attention held at once: 256 MiB. At 32 rows of 13K candidates a layer would need gigabytes.
CHUNK_ELEMENTS = 1 << 26


def chunks(count: int, elements_each: int, limit: int | None = None) -> Iterator[slice]:
    """Slices of range(count), each of at most `limit` elements in all and at least one item."""
    step = max(1, (CHUNK_ELEMENTS if limit is None else limit) // max(1, elements_each))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def grouped(x_BHSD: Tensor, G: int) -> Tensor:
    """[B, H, S, D] -> [B, G, H/G, S, D]: query head h reads KV head h // (H/G), as in every transformers model."""
    B, H, S, D = x_BHSD.shape
    return x_BHSD.reshape(B, G, H // G, S, D)


def masked_softmax(logits: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax over the last axis in fp32; invisible slots get 0, and so does all of a row that sees nothing."""
    logits = logits.float()
    if visible is None:
        return logits.softmax(dim=-1)
    # where, not addition: a junk slot may hold NaN or infinity.
    logits = torch.where(visible, logits, torch.full((), -torch.inf, device=logits.device))
    return torch.where(visible, logits.softmax(dim=-1), torch.zeros((), device=logits.device))


def attention_sums(
    query_BHSD: Tensor,
    keys_BGTD: Tensor | Sequence[Tensor],
    scaling: float,
    visible: Tensor | None,
    *,
    by_group: bool,
) -> Tensor:
    """The attention that S queries pay to T slots: summed over the queries, averaged over heads. fp32 [B, g, T].

    keys: one tensor, or several [B, G, *, D] that follow one another (joining logits is cheaper than joining keys).
    visible: bool, broadcastable to [B, G, H/G, S, T]; None: all. by_group: average over the query heads of each KV head
    (g = G) instead of over all (g = 1).
    """
    pieces = [keys_BGTD] if isinstance(keys_BGTD, Tensor) else list(keys_BGTD)
    B, H, S, _ = query_BHSD.shape
    G, T = pieces[0].shape[1], sum(piece.shape[2] for piece in pieces)
    out = torch.empty(B, G if by_group else 1, T, dtype=torch.float32, device=query_BHSD.device)
    for rows in chunks(B, H * S * T):
        query = grouped(query_BHSD[rows].float(), G).flatten(2, 3)  # [b, G, H/G * S, D]
        parts = [query @ piece[rows].float().transpose(-1, -2) for piece in pieces]
        logits = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).mul_(scaling)
        seen = visible if visible is None or visible.shape[0] == 1 else visible[rows]
        by_head: Tensor = logits.unflatten(2, (H // G, S))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        probs = masked_softmax(by_head, seen)  # [b, G, H/G, S, T]
        mean = probs.sum(dim=3).mean(dim=2)  # [b, G, T]
        out[rows] = mean if by_group else mean.mean(dim=1, keepdim=True)
    return out


def pool(scores_BgM: Tensor, kernel: int, kind: str) -> Tensor:
    """Average or maximum over each token's neighbourhood of `kernel` (odd) candidates; beyond the ends there is 0."""
    if kernel == 1:
        return scores_BgM
    if kind == "max":
        padded = torch.nn.functional.pad(scores_BgM, (kernel // 2, kernel // 2))
        return torch.nn.functional.max_pool1d(padded, kernel, stride=1)
    return torch.nn.functional.avg_pool1d(scores_BgM, kernel, stride=1, padding=kernel // 2, count_include_pad=True)
