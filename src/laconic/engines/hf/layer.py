"""One layer's KV: buffers written in place, the latest queries in a ring, and what happens once the layer has attended.

Shapes: B rows, G KV heads, H query heads, C slots of the buffer, L slots in use, D head size, S captured queries, g index
sets a layer (1, or G when a policy chooses per KV head).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from laconic.compress import Scorer
from laconic.engines.hf.eviction import Selection, choose, move
from laconic.engines.hf.ledger import Eviction, Ledger
from laconic.engines.hf.passes import required_pass
from laconic.engines.hf.rows import grow
from laconic.errors import InputError

TokenLookup = Callable[[list[int]], Tensor]


class CompressedLayer(DynamicLayer):
    """One layer's KV. `keys` and `values` are views [B, G, L, D] of what is held now."""

    is_croppable = False

    def __init__(self, ledger: Ledger, scorer: Scorer | None, index: int) -> None:
        self.ledger, self.scorer, self.index = ledger, scorer, index
        self.is_initialized = False
        self.spare_rows = 0
        self.lookup: TokenLookup | None = None
        self.key_buffer: Tensor | None = None
        self.value_buffer: Tensor | None = None
        self.ring: Tensor | None = None  # [B, H, S, D]
        self.mass: Tensor | None = None  # fp32 [B, g, C]
        self.stored: Tensor | None = None  # long [B, g, n]: positions kept by the last compression, right-aligned
        self.choice: Selection | None = None  # what stays, from this pass's attention to its end
        self.watches = scorer is not None  # somebody has to see this layer's attention calls

    # ---- what transformers asks -----------------------------------------------------------------------------------

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        return None if self.key_buffer is None else self.key_buffer[: len(self.ledger.rows), :, : self.ledger.length]

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        return (
            None if self.value_buffer is None else self.value_buffer[: len(self.ledger.rows), :, : self.ledger.length]
        )

    def get_seq_length(self) -> int:
        """The logical length: positions count on as if nothing had been evicted."""
        return self.ledger.logical_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        ledger = self.ledger
        required_pass().masked = ledger
        return ledger.length + query_length, ledger.logical_length - ledger.length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows = max(key_states.shape[0], self.spare_rows)
        slots = max(self.ledger.slots_to_reserve(), self.ledger.write_at + key_states.shape[2])
        self.key_buffer = key_states.new_empty((rows, key_states.shape[1], slots, key_states.shape[3]))
        self.value_buffer = value_states.new_empty((rows, value_states.shape[1], slots, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, G, q, D] in place; returns views over all that is held, this step's tokens included."""
        ledger = self.ledger
        batch, _, q, _ = key_states.shape
        required_pass().write(self, batch, q)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = ledger.write_at, ledger.length
        keys, values = self.key_buffer, self.value_buffer
        assert keys is not None
        assert values is not None
        if end > keys.shape[2]:
            grow(self, start, slots=max(end, ledger.slots_to_reserve()))
            keys, values = self.key_buffer, self.value_buffer
            assert keys is not None
        assert values is not None
        keys[:batch, :, start:end] = key_states
        values[:batch, :, start:end] = value_states
        return keys[:batch, :, :end], values[:batch, :, :end]

    def batch_repeat_interleave(self, repeats: int) -> None:
        raise RuntimeError("repeat rows through the cache, not a layer of it")

    def batch_select_indices(self, indices: Tensor) -> None:
        raise RuntimeError("select rows through the cache, not a layer of it")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise InputError(
            "beam search reorders the cache between steps, which compression does not support: use sampling or greedy decoding"
        )

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise InputError(
                "the cache can't be rolled back once tokens may have been evicted: assisted decoding and compression exclude "
                "each other"
            )

    def reset(self) -> None:
        raise InputError("a compressed cache serves one generation: make a new one instead of resetting it")

    # ---- after attention ------------------------------------------------------------------------------------------

    def attended(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Called once this layer has attended.

        query: [B, H, q, D] after RoPE; key: [B, Gk, L, D], what it attended to: the cached keys, or what the model made of them
        (latent attention expands what is cached); mask: bool or additive [B, 1 or H, q, L], or None.
        """
        ledger, scorer = self.ledger, self.scorer
        if scorer is None:
            return
        if key.shape[2] != ledger.length or query.shape[0] != len(ledger.rows):
            raise InputError(
                f"layer {self.index} attends to {key.shape[2]} tokens while its KV cache holds {ledger.length}: laconic can't "
                "compress a layer that selects or regroups what it has cached"
            )
        if ledger.capture:
            self._capture(query)
        if scorer.accumulates and ledger.rows[0].generated:
            self._accumulate(query, key, scaling, mask)
        if ledger.eviction is not None:
            self.choice = choose(self, ledger.eviction, key, scaling)

    def evict(self, plan: Eviction) -> None:
        """At the end of the pass: move what was chosen."""
        choice, self.choice = self.choice, None
        assert choice is not None
        move(self, plan, choice)

    def _capture(self, query: Tensor) -> None:
        size = self.ledger.queries
        batch, heads, q, dim = query.shape
        if self.ring is None or self.ring.shape[0] < batch:
            rows = max(batch, self.spare_rows)
            ring = query.new_zeros((rows, heads, size, dim))
            if self.ring is not None:
                ring[: self.ring.shape[0]] = self.ring
            self.ring = ring
        at = self.ledger.ring_at
        if q == 1:
            self.ring[:batch, :, at] = query[:, :, 0]
            return
        take = min(q, size)
        slots = (torch.arange(take, device=query.device) + at) % size
        self.ring[:batch, :, slots] = query[:, :, -take:]

    def queries(self) -> Tensor | None:
        """[B, H, S, D], oldest first."""
        if self.ring is None:
            return None
        ring = self.ring[: len(self.ledger.rows)]
        at = self.ledger.ring_next
        return ring if at == 0 else torch.cat((ring[:, :, at:], ring[:, :, :at]), dim=2)

    def _accumulate(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        assert self.scorer is not None
        assert self.key_buffer is not None
        batch, end = query.shape[0], self.ledger.length
        if mask is not None and mask.dtype != torch.bool:
            # Eager attention's masks are added to the logits: the most negative number hides a slot.
            mask = mask > torch.finfo(mask.dtype).min / 2
        paid = self.by_cached_head(self.scorer.observe(query, key, mask, scaling))
        if self.mass is None:
            self.mass = paid.new_zeros((self.key_buffer.shape[0], paid.shape[1], self.key_buffer.shape[2]))
        # A slot's sum starts with the step that writes it: what stood there before an eviction moved the end is not its own.
        self.mass[:batch, :, self.ledger.write_at : end] = 0
        self.mass[:batch, :, :end] += paid

    def by_cached_head(self, scores: Tensor) -> Tensor:
        """[B, g, T] for each head attended to -> for each cached head: several that are made of one are averaged."""
        assert self.key_buffer is not None
        heads = self.key_buffer.shape[1]
        return scores if scores.shape[1] in (1, heads) else scores.unflatten(1, (heads, -1)).mean(2)

    def buffers(self) -> list[Tensor]:
        return [b for b in (self.key_buffer, self.value_buffer, self.mass) if b is not None]

    def held_positions(self, row: int) -> Tensor:
        """long [g, held]: which generated tokens of a row this layer holds, in order."""
        record = self.ledger.rows[row]
        since = record.generated - record.compressed_at
        recent = torch.arange(record.compressed_at, record.generated)
        if self.stored is None or record.held == since:
            return recent[None]
        stored = self.stored[row, :, self.stored.shape[-1] - (record.held - since) :].cpu()
        return torch.cat((stored, recent.expand(stored.shape[0], -1)), dim=-1)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of one row takes in this layer."""
        if self.key_buffer is None or self.value_buffer is None:
            return 0
        item = self.key_buffer.element_size()
        return item * (
            self.key_buffer.shape[1] * self.key_buffer.shape[3]
            + self.value_buffer.shape[1] * self.value_buffer.shape[3]
        )

    @property
    def reserved_bytes(self) -> int:
        tensors = (self.key_buffer, self.value_buffer, self.mass, self.ring, self.stored)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


class CompressedHybridLayer(LinearAttentionLayer, CompressedLayer):  # type: ignore[misc]
    """A layer that attends and keeps a linear-attention state beside (Falcon-H1, Zamba): only its KV is compressed."""

    is_compileable = False
    is_croppable = False

    def __init__(self, ledger: Ledger, scorer: Scorer | None, index: int, number_of_states: int = 1) -> None:
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)
        CompressedLayer.__init__(self, ledger, scorer, index)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """transformers names the states, and gives keys and values by position."""
        (CompressedLayer if args else LinearAttentionLayer).lazy_initialization(self, *args, **kwargs)

    def crop(self, tokens_to_remove: int) -> None:
        CompressedLayer.crop(self, tokens_to_remove)

    def reset(self) -> None:
        CompressedLayer.reset(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        CompressedLayer.reorder_cache(self, beam_idx)
