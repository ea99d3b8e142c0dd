"""What later tokens attend to: measured where a whole trace is at hand, and kept small enough for traces of 32K tokens.

Shapes: B rows, H query heads, G KV heads, q queries, T slots, D head size, K generated tokens of a trace, N blocks of queries.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from laconic import checks
from laconic.compress.attention import chunks, grouped, masked_softmax
from laconic.errors import InputError

BLOCK = 16
"""Queries whose attention is remembered as one maximum, where nothing else is asked for."""


def largest_attention(query: Tensor, keys: Tensor, scaling: float, valid: Tensor | None = None) -> Tensor:
    """The largest attention that any of q queries of a KV head pays each of T slots, fp32 [B, G, T].

    query: [B, H, q, D] after RoPE, the last one standing at the last slot; keys: [B, G, T, D]; valid: bool [B, T], False at
    junk, None: all real. Every query's softmax is over all that it sees, prompt included, as the model's own. Memory grows with
    q * T, so q should be a block.
    """
    return _reduced(query, keys, scaling, valid, lambda paid: paid.amax(dim=(2, 3)))


def summed_attention(query: Tensor, keys: Tensor, scaling: float, valid: Tensor | None = None) -> Tensor:
    """As `largest_attention`: summed over the queries, averaged over a KV head's query heads."""
    return _reduced(query, keys, scaling, valid, lambda paid: paid.sum(dim=3).mean(dim=2))


def _reduced(
    query: Tensor, keys: Tensor, scaling: float, valid: Tensor | None, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """reduce: from the attention that is paid, [B, G, H/G, q, T], to [B, G, T]."""
    B, H, q, _ = query.shape
    G, T = keys.shape[1], keys.shape[2]
    if H % G or keys.shape[0] != B or q > T:
        raise InputError(
            f"queries are {tuple(query.shape)} and keys {tuple(keys.shape)}; expected equally many rows, query heads that KV "
            "heads divide, and a slot for every query"
        )
    causal = None
    if q > 1:
        causal = torch.ones(q, T, dtype=torch.bool, device=keys.device).tril(T - q)[None, None, None]
    out = torch.empty(B, G, T, dtype=torch.float32, device=query.device)
    for rows in chunks(B, H * q * T):
        logits = grouped(query[rows].float(), G).flatten(2, 3) @ keys[rows].float().transpose(-1, -2)
        visible = causal
        if valid is not None:
            real = valid[rows, None, None, None]
            visible = real if causal is None else causal & real
        by_head: Tensor = logits.mul_(scaling).unflatten(2, (H // G, q))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        out[rows] = reduce(masked_softmax(by_head, visible))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMaxima:
    """The attention that one trace's tokens pay each other in one layer, a maximum for each block of queries.

    Raises InputError for blocks that don't begin at 0, or don't ascend.
    """

    maxima: Tensor
    """fp16 [N, G, K]: entry [n, g, i] is the largest attention that the generated tokens of block n pay token i under full
    KV, in any head of KV head g."""
    starts: tuple[int, ...]
    """The first generated token of each block; a block ends where the next begins, the last one with the trace."""

    def __post_init__(self) -> None:
        shape = tuple(checks.instance("maxima", self.maxima, Tensor, "a tensor [blocks, KV heads, tokens]").shape)
        starts = checks.wholes("starts", self.starts, 0, meaning="first tokens of the blocks")
        if len(shape) != 3 or shape[0] != len(starts):
            raise InputError(
                f"maxima have shape {shape}; expected [blocks, KV heads, tokens], a block for each of starts"
            )
        if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
            raise InputError(f"starts are {checks.shown(self.starts)}; expected ascending numbers from 0 on")

    @property
    def tokens(self) -> int:
        """K."""
        return self.maxima.shape[2]

    def after(self, generated: int) -> Tensor:
        """The largest attention that tokens computed after the first `generated` ones pay each token, fp32 [G, K].

        Counted from the first block that begins then: exact where one begins at `generated`; where none does, the rest of the
        block that is under way is left out. Zeros where no block is left.
        """
        first = bisect_left(self.starts, checks.whole("generated", generated, 0, meaning="tokens"))
        if first >= len(self.maxima):
            return torch.zeros(self.maxima.shape[1:], dtype=torch.float32, device=self.maxima.device)
        return self.maxima[first:].amax(0).float()

    def delayed(self, delay: int) -> Tensor:
        """The largest attention that tokens `delay` or more after each token pay it, fp32 [G, K]; 0 where none comes.

        delay: at least 1. Of token i it is counted from the first block that begins at i + delay or later, as in `after`.
        """
        delay = checks.whole("delay", delay, 1, meaning="tokens")
        N, G, K = self.maxima.shape
        found = torch.zeros(G, K, dtype=torch.float32, device=self.maxima.device)
        largest = torch.zeros(G, K, dtype=self.maxima.dtype, device=self.maxima.device)
        for n in range(N - 1, 0, -1):
            # Block n is the first of the tokens i with starts[n - 1] < i + delay <= starts[n].
            low, high = max(0, self.starts[n - 1] - delay + 1), min(K, self.starts[n] - delay + 1)
            if high <= 0:
                break
            torch.maximum(largest, self.maxima[n], out=largest)
            found[:, low:high] = largest[:, low:high].float()
        return found


def even_starts(tokens: int, block: int = BLOCK) -> tuple[int, ...]:
    """The starts of blocks of equal length."""
    return tuple(range(0, tokens, checks.whole("block", block, 1, meaning="queries that share a maximum")))
