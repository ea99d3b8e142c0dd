"""What a cache holds beside compressed KV, as rows come and go: sliding windows and linear states, made by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

from laconic.engines.hf.layer import CompressedLayer
from laconic.errors import InputError

KINDS = {"Sliding": "sliding", "Linear": "linear", "Dummy": "without KV of its own", "Indexed": "indexed"}
"""Layers that are left alone, in a word, by a part of their class's name."""


def kind_of(layer: Any) -> str:
    """What a layer that is left alone is, in a word."""
    name = type(layer).__name__
    return next((kind for part, kind in KINDS.items() if part in name), name)


def check_rows(layers: Sequence[Any]) -> None:
    """InputError if rows can't come and go in one of a cache's layers. Asked before anything runs."""
    for layer in layers:
        known = isinstance(layer, (DynamicSlidingWindowLayer, LinearAttentionLayer, CompressedLayer))
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


def append_others(layer: Any, other: Any, mine: int, theirs: int) -> None:
    """Append what another cache's layer holds beside compressed KV. mine, theirs: the caches' logical lengths."""
    if isinstance(layer, LinearAttentionLayer):
        layer.conv_states = {i: _joined(state, other.conv_states[i]) for i, state in layer.conv_states.items()}
        layer.recurrent_states = {
            i: _joined(state, other.recurrent_states[i]) for i, state in layer.recurrent_states.items()
        }
    if isinstance(layer, DynamicSlidingWindowLayer):
        _append_sliding(layer, other, mine, theirs)


def _rows_of(state: Tensor | None, index: Tensor) -> Tensor | None:
    return None if state is None else state[index.to(state.device)]


def _joined(mine: Tensor | None, its: Tensor | None) -> Tensor | None:
    return None if mine is None or its is None else torch.cat((mine, its))


def _append_sliding(layer: Any, other: Any, mine: int, theirs: int) -> None:
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
