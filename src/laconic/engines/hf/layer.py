"""One layer's KV, as transformers sees it: what is written, what is held, and what happens once the layer has attended.

Shapes: B rows, G KV heads, H query heads, L slots in use, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from laconic.compress import Scorer
from laconic.engines.hf.attention import required_pass
from laconic.engines.hf.buffers import KVBuffers
from laconic.engines.hf.ledger import Ledger
from laconic.engines.hf.observing import Observer, attention_call
from laconic.engines.hf.scoring import LayerScoring, Replacement, Selection
from laconic.errors import InputError


class CompressedLayer(DynamicLayer):
    """One layer's KV. `keys` and `values` are views [B, G, L, D] of what is held now."""

    is_croppable = False

    def __init__(self, ledger: Ledger, scorer: Scorer | None, index: int) -> None:
        self.ledger, self.index = ledger, index
        self.is_initialized = False
        self.buffers: KVBuffers | None = None  # made by the first write, which shows their shapes
        self.scoring = LayerScoring(scorer, index) if scorer is not None else None  # None: nothing is ever compressed
        self.observer: Observer | None = None  # who looks on
        self.selection: Selection | Replacement | None = None  # what stays, from this pass's attention to its end
        self.spare_rows = 0  # rows that will be needed in all, so that buffers grow once

    # ---- what transformers asks -----------------------------------------------------------------------------------

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        return None if self.buffers is None else self.buffers.keys[: len(self.ledger.rows), :, : self.ledger.length]

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        return None if self.buffers is None else self.buffers.values[: len(self.ledger.rows), :, : self.ledger.length]

    def get_seq_length(self) -> int:
        """The logical length: positions count on as if nothing had been evicted."""
        return self.ledger.logical_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        ledger = self.ledger
        required_pass().mask_of = ledger
        return ledger.length + query_length, ledger.logical_length - ledger.length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows = max(key_states.shape[0], self.spare_rows)
        slots = max(self.ledger.slots_to_reserve(), self.ledger.write_at + key_states.shape[2])
        self.buffers = KVBuffers.allocate(key_states, value_states, rows, slots)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, G, q, D] in place; returns views over all that is held, this step's tokens included."""
        ledger = self.ledger
        required_pass().write(self, key_states.shape[0], key_states.shape[2])
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.buffers is not None
        if ledger.length > self.buffers.slots:  # the ledger counts this pass's tokens already
            self.buffers.reallocate(ledger.write_at, slots=max(ledger.length, ledger.slots_to_reserve()))
        return self.buffers.append(key_states, value_states, ledger.write_at)

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

    @property
    def must_be_seen(self) -> bool:
        """Whether somebody has to see this layer's attention calls."""
        return self.scoring is not None or self.observer is not None

    def attended(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Called once this layer has attended.

        query: [B, H, q, D] after RoPE; key: [B, Gk, L, D], what it attended to: the cached keys, or what the model made of them
        (latent attention expands what is cached), and value alike; mask: bool or additive [B, 1 or H, q, L], or None.
        """
        ledger, buffers, scoring = self.ledger, self.buffers, self.scoring
        if not self.must_be_seen:
            return
        assert buffers is not None
        if key.shape[2] != ledger.length or query.shape[0] != len(ledger.rows):
            raise InputError(
                f"layer {self.index} attends to {key.shape[2]} tokens while its KV cache holds {ledger.length}: laconic can't "
                "compress a layer that selects or regroups what it has cached"
            )
        if self.observer is not None:
            self.observer(attention_call(self.index, ledger, query, key, value, scaling))
        if scoring is None:
            return
        if ledger.captures_queries:
            buffers.capture_queries(query, ledger.queries, ledger.ring_at, rows=self.spare_rows)
        if scoring.scorer.accumulates and ledger.rows[0].generated:
            scoring.add_attention(ledger, buffers, query, key, scaling, mask)
        if scoring.scorer.reads_inputs and ledger.rows[0].generated:
            scoring.note_tokens(ledger, buffers, required_pass().inputs)
        if ledger.eviction is not None:
            self.selection = scoring.choose(ledger, buffers, key, scaling)

    def evict(self) -> None:
        """At the end of the pass: move what was chosen. Another layer may have read this one's keys until now."""
        selection, self.selection = self.selection, None
        assert self.buffers is not None
        assert self.ledger.eviction is not None
        assert selection is not None
        rows = len(self.ledger.rows)
        if isinstance(selection, Replacement):
            self.buffers.replace(rows, self.ledger.length, selection.slots, selection.positions)
        else:
            self.buffers.evict(self.ledger.eviction, rows, selection.slots, selection.positions)

    def held_positions(self, row: int) -> Tensor:
        """long [g, held]: which generated tokens of a row this layer holds, in order."""
        slots = self.ledger.rows[row]
        if self.buffers is None:
            return torch.arange(slots.compressed_at, slots.generated)[None]
        return self.buffers.held_positions(row, slots.generated, slots.compressed_at, slots.held)

    def put_in_order(self) -> None:
        """Before other rows join: what is held lies in the order in which it was generated."""
        if self.buffers is not None and not self.buffers.in_order:
            first = self.ledger.rows[0]  # every row gave up a token at the same step
            self.buffers.put_in_order(
                len(self.ledger.rows), self.ledger.length - (first.generated - first.compressed_at)
            )

    # ---- rows come and go: the ledger has changed its rows already ------------------------------------------------

    def take_rows(self, indices: Sequence[int]) -> None:
        """Rows `indices`, in that order, in buffers of their own; a copy of this layer keeps the old ones."""
        if self.buffers is not None:
            self.buffers = self.buffers.take_rows(indices)

    def remove_rows(self, order: Sequence[int], length: int) -> None:
        """Which rows stand where from here on; `length` slots are in use."""
        if self.buffers is not None:
            moves = [(source, hole) for hole, source in enumerate(order) if source != hole]
            self.buffers.fill_holes(moves, len(order), length)

    def append_rows(self, other: CompressedLayer, before: int, shift: int) -> None:
        """Append the rows of `other`. `before` rows were here, which move by `shift` slots to the right."""
        if other.buffers is None:
            return
        assert self.buffers is not None
        ledger, buffers = self.ledger, self.buffers
        after, length = len(ledger.rows), ledger.length
        if after > buffers.rows or length >= buffers.slots:
            # With a slot for the next token at least.
            slots = max(length + 1, ledger.slots_to_reserve()) if length >= buffers.slots else buffers.slots
            rows = buffers.rows if after <= buffers.rows else max(after, self.spare_rows)
            buffers.reallocate(length - shift, slots=slots, rows=rows)
        if shift:
            buffers.shift(before, shift, length)
        its = other.ledger
        buffers.append_rows(other.buffers, before, after, length, its.length, ledger.ring_next, its.ring_next)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of one row takes in this layer."""
        return 0 if self.buffers is None else self.buffers.bytes_per_token

    @property
    def reserved_bytes(self) -> int:
        return 0 if self.buffers is None else self.buffers.reserved_bytes


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
