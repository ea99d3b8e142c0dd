"""What somebody who looks on sees of a layer's attention: experiments and training read it, nothing of it is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from laconic.engines.hf.ledger import Ledger


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One compressible layer's attention in one forward pass.

    B rows, H query heads, G KV heads, q queries, T slots, D head size. Rows end at the same slot, so shorter ones have junk
    before their first. The tensors are views of buffers that the next pass changes.
    """

    layer: int
    """The layer's index in the model."""
    query: Tensor
    """[B, H, q, D] after RoPE: of this pass's tokens."""
    key: Tensor
    """[B, G, T, D] after RoPE, what was attended to: this pass's tokens are the last q."""
    value: Tensor
    """[B, G, T, Dv]."""
    scaling: float
    """What query-key products are multiplied by."""
    valid: Tensor | None
    """bool [B, T], False at junk and padding; None: every slot holds a token."""
    held: tuple[int, ...]
    """Of each row, how many of its last slots are generated tokens; 0 while the prompt is fed."""
    generated: tuple[int, ...]
    """Of each row, its generated tokens so far, this pass's included; equal to `held` as long as none was evicted."""
    rows: tuple[int, ...]
    """The numbers of the rows' traces."""


Observer = Callable[[AttentionCall], None]
"""Told of every attention call of every compressible layer, in the order of the layers."""


def attention_call(
    layer: int, ledger: Ledger, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> AttentionCall:
    """What the pass that runs shows of a layer that has attended."""
    rows = ledger.rows
    return AttentionCall(
        layer=layer,
        query=query,
        key=key,
        value=value,
        scaling=scaling,
        valid=ledger.validity(0, key.device),
        held=tuple(row.held for row in rows),
        generated=tuple(row.generated for row in rows),
        rows=tuple(row.number for row in rows),
    )
