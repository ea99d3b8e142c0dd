"""Rows of a layer's buffers come and go: growing, filling holes, moving the frame, joining two batches.

The ledger has changed its rows already when these are called, except where a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

from laconic.engines.hf.eviction import right_align
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.engines.hf.layer import CompressedLayer

ROW_TENSORS = ("key_buffer", "value_buffer", "mass", "ring", "stored")


def grow(layer: CompressedLayer, length: int, slots: int = 0, rows: int | None = None) -> None:
    """Reallocate with `rows` rows and at least `slots` slots, one buffer at a time; `length` slots have content."""
    for name in ("key_buffer", "value_buffer", "mass"):
        old = getattr(layer, name)
        if old is None:
            continue
        shape = list(old.shape)
        shape[0], shape[2] = rows or shape[0], max(slots, shape[2])
        new = old.new_zeros(shape) if name == "mass" else old.new_empty(shape)
        kept = min(old.shape[0], shape[0])
        new[:kept, :, :length] = old[:kept, :, :length]
        setattr(layer, name, new)
    if layer.ring is not None and rows is not None and rows != layer.ring.shape[0]:
        ring = layer.ring.new_zeros((rows, *layer.ring.shape[1:]))
        kept = min(rows, layer.ring.shape[0])
        ring[:kept] = layer.ring[:kept]
        layer.ring = ring


def take_rows(layer: CompressedLayer, indices: Sequence[int]) -> None:
    """Keep rows `indices` in that order, in new buffers of just that many rows."""
    index = torch.tensor(list(indices), device=layer.device)
    for name in ROW_TENSORS:
        old = getattr(layer, name)
        if old is not None:
            setattr(layer, name, old[index])


def move_rows(layer: CompressedLayer, moves: Sequence[tuple[int, int]], left: int) -> None:
    """Fill the holes of rows that leave with rows from the end (from, to); `left` rows remain."""
    for name in ROW_TENSORS:
        tensor = getattr(layer, name)
        if tensor is None:
            continue
        for source, target in moves:
            if name in ("ring", "stored"):
                tensor[target] = tensor[source]
            else:
                length = layer.ledger.length
                tensor[target, :, :length] = tensor[source, :, :length]
    if layer.stored is not None:
        layer.stored = layer.stored[:left]
    if layer.key_buffer is not None and left <= layer.key_buffer.shape[0] // 2:
        grow(layer, layer.ledger.length, rows=left)


def shift(layer: CompressedLayer, rows: int, by: int, length: int) -> None:
    """Move the content of the first `rows` rows by `by` slots (negative: left); `length` slots are in use afterwards."""
    for buffer in layer.buffers():
        live = buffer[:rows]
        if by > 0:
            live[:, :, by:length] = live[:, :, : length - by].clone()
            live[:, :, :by] = 0
        else:
            live[:, :, :length] = live[:, :, -by : length - by].clone()


def absorb(layer: CompressedLayer, other: CompressedLayer, before: int, by: int) -> None:
    """Append the rows of `other`. The ledger has absorbed its ledger already: `before` rows were here, and the frame has
    grown by `by` slots to the left.
    """
    if not other.is_initialized:
        return
    ledger, theirs = layer.ledger, other.ledger
    after = len(ledger.rows)
    assert layer.key_buffer is not None
    have, slots = layer.key_buffer.shape[0], layer.key_buffer.shape[2]
    if after > have or ledger.length >= slots:
        more = max(ledger.length + 1, ledger.slots_to_reserve()) if ledger.length >= slots else slots
        grow(layer, ledger.length - by, slots=more, rows=have if after <= have else max(after, layer.spare_rows))
    if by:
        shift(layer, before, by, ledger.length)
    if layer.mass is None and other.mass is not None:
        layer.mass = other.mass.new_zeros((layer.key_buffer.shape[0], other.mass.shape[1], layer.key_buffer.shape[2]))
    lead = ledger.length - theirs.length
    for mine, its in (
        (layer.key_buffer, other.key_buffer),
        (layer.value_buffer, other.value_buffer),
        (layer.mass, other.mass),
    ):
        if mine is None:
            continue
        mine[before:after, :, :lead] = 0
        if its is None:
            mine[before:after, :, lead : ledger.length] = 0
        else:
            mine[before:after, :, lead : ledger.length] = its[: after - before, :, : theirs.length]
    _absorb_ring(layer, other, before, after)
    _absorb_stored(layer, other, before, after)


def _absorb_ring(layer: CompressedLayer, other: CompressedLayer, before: int, after: int) -> None:
    """Both rings oldest first, so that the next write is at 0 in both; the cache sets the ledger's `ring_next`."""
    mine, its = _queries_of(layer, before), other.queries()
    some = mine if mine is not None else its
    if some is None:
        return
    assert layer.key_buffer is not None
    ring = some.new_zeros((layer.key_buffer.shape[0], *some.shape[1:]))
    if mine is not None:
        ring[:before] = mine
    if its is not None:
        ring[before:after] = its
    layer.ring = ring


def _absorb_stored(layer: CompressedLayer, other: CompressedLayer, before: int, after: int) -> None:
    if layer.stored is None and other.stored is None:
        return
    some = layer.stored if layer.stored is not None else other.stored
    assert some is not None
    none = some.new_full((0, some.shape[1], 1), -1)
    mine = layer.stored if layer.stored is not None else none.new_full((before, some.shape[1], 1), -1)
    its = other.stored if other.stored is not None else none.new_full((after - before, some.shape[1], 1), -1)
    width = max(mine.shape[-1], its.shape[-1])
    layer.stored = torch.cat((right_align(mine, width, -1), right_align(its, width, -1)))


def _queries_of(layer: CompressedLayer, rows: int) -> Tensor | None:
    if layer.ring is None:
        return None
    return torch.roll(layer.ring[:rows], -layer.ledger.ring_next, dims=2)


def check_rows(layers: Sequence[Any]) -> None:
    """InputError if rows can't come and go in one of a cache's layers. Asked before anything runs."""
    for layer in layers:
        known = isinstance(layer, (DynamicSlidingWindowLayer, LinearAttentionLayer)) or hasattr(layer, "ledger")
        if not (known or kind_of(layer) == KINDS["Dummy"]):  # a class that transformers 5.16 to 5.19 lack
            raise InputError(
                f"laconic's engine can't let rows come and go in a {kind_of(layer)} layer ({type(layer).__name__}): "
                "use laconic.compress(model, policy) with model.generate for this model"
            )


def take_others(layer: Any, indices: Sequence[int]) -> None:
    """Keep rows `indices` of what a layer holds beside compressed KV: a sliding window's KV, a linear layer's states."""
    index = torch.tensor(list(indices), dtype=torch.long)
    if isinstance(layer, LinearAttentionLayer):
        # New tables, not new entries: a fork of the cache shares the old ones.
        layer.conv_states = {i: _rows_of(state, index) for i, state in layer.conv_states.items()}
        layer.recurrent_states = {i: _rows_of(state, index) for i, state in layer.recurrent_states.items()}
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.batch_select_indices(index)


def absorb_others(layer: Any, other: Any, mine: int, theirs: int) -> None:
    """Append what another cache's layer holds beside compressed KV. mine, theirs: the caches' logical lengths."""
    if isinstance(layer, LinearAttentionLayer):
        layer.conv_states = {i: _joined(state, other.conv_states[i]) for i, state in layer.conv_states.items()}
        layer.recurrent_states = {
            i: _joined(state, other.recurrent_states[i]) for i, state in layer.recurrent_states.items()
        }
    if isinstance(layer, DynamicSlidingWindowLayer):
        absorb_sliding(layer, other, mine, theirs)


def _rows_of(state: Tensor | None, index: Tensor) -> Tensor | None:
    return None if state is None else state[index.to(state.device)]


def _joined(mine: Tensor | None, its: Tensor | None) -> Tensor | None:
    return None if mine is None or its is None else torch.cat((mine, its))


def absorb_sliding(layer: Any, other: Any, mine: int, theirs: int) -> None:
    """Join two sliding layers, right-aligned; what a shorter one lacks is masked by the 2D attention mask."""
    logical = max(mine, theirs)
    width = min(logical, layer.sliding_window - 1)
    for name in ("keys", "values"):
        pair = [_pad_slots(getattr(one, name), width) for one in (layer, other)]
        setattr(layer, name, torch.cat(pair))
    layer.cumulative_length = logical


def _pad_slots(tensor: Tensor, width: int) -> Tensor:
    lack = width - tensor.shape[2]
    return tensor if lack <= 0 else torch.nn.functional.pad(tensor, (0, 0, lack, 0))


KINDS = {"Sliding": "sliding", "Linear": "linear", "Dummy": "without KV of its own", "Indexed": "indexed"}


def kind_of(layer: Any) -> str:
    """What a layer that is left alone is, in a word."""
    name = type(layer).__name__
    return next((kind for part, kind in KINDS.items() if part in name), name)
