"""The cache: a DynamicCache whose plain layers are laconic's, one batch under one policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer

from laconic.compress import Policy
from laconic.engines.hf.layer import CompressedHybridLayer, CompressedLayer
from laconic.engines.hf.ledger import Ledger
from laconic.engines.hf.left_alone import append_others, kind_of, take_others
from laconic.engines.hf.observing import Observer
from laconic.engines.hf.scoring import FutureLookup, LayerScoring, TokenLookup
from laconic.errors import InputError


class CompressedCache(DynamicCache):
    """A DynamicCache for one batch under one policy. Layers that slide or are linear stay as transformers makes them.

    prompt: slots of the prompt when it is fed in several passes (None: the first pass is the prompt). limit: tokens a row
    may generate, for sizing buffers. Raises InputError if the model has no layer that can be compressed.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        policy: Policy,
        prompt: int | None = None,
        limit: int | None = None,
        spare_rows: int = 0,
    ) -> None:
        super().__init__(config=config)
        scorer = policy.scorer
        self.ledger = Ledger(policy.schedule, scorer.queries if scorer is not None else 0, prompt=prompt, limit=limit)
        whole = (DynamicLayer, LinearAttentionAndFullAttentionLayer)
        plain = [i for i, layer in enumerate(self.layers) if type(layer) in whole]
        self.left_alone: dict[str, list[int]] = {}
        for i, layer in enumerate(self.layers):
            if i not in plain:
                self.left_alone.setdefault(kind_of(layer), []).append(i)
        if not plain:
            raise InputError(
                f"{type(config).__name__} has no plain full-attention layer to compress (it has {_list(self.left_alone)}); "
                "laconic compresses models with at least one full-attention layer"
            )
        self.compressed_layers: list[CompressedLayer] = []
        for i in plain:
            theirs = self.layers[i]
            ours = (
                CompressedHybridLayer(self.ledger, scorer, i, theirs.number_of_states)
                if isinstance(theirs, LinearAttentionAndFullAttentionLayer)
                else CompressedLayer(self.ledger, scorer, i)
            )
            ours.spare_rows = spare_rows
            self.layers[i] = ours
            self.compressed_layers.append(ours)

    def set_token_lookup(self, lookup: TokenLookup) -> None:
        """lookup: row numbers -> long [rows, generated], for policies that look at token ids."""
        for layer in self.compressed_layers:
            if layer.scoring is not None:
                layer.scoring.lookup = lookup

    def set_future_lookup(self, lookup: FutureLookup) -> None:
        """lookup: see `FutureLookup`, for policies that know a recorded trace's end."""
        for layer in self.compressed_layers:
            if layer.scoring is not None:
                layer.scoring.future = lookup

    def set_observer(self, observer: Observer | None) -> None:
        """observer: looks on at every attention call of the layers that can be compressed; None: nobody."""
        for layer in self.compressed_layers:
            layer.observer = observer

    @property
    def batch_size(self) -> int:
        return len(self.ledger.rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor | Sequence[int]) -> None:
        """Rows `indices` in that order, copied into new buffers of just that many rows."""
        wanted = [int(i) for i in indices]
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.take_rows(wanted)
            take_others(layer, wanted)
        self.ledger.take_rows(wanted)

    def remove_rows(self, leavers: Sequence[int]) -> list[int]:
        """Rows leave, their memory too once half the buffer's rows are unused. Returns the order of those that remain."""
        length = self.ledger.length
        order = self.ledger.remove_rows(leavers)
        slack = self.ledger.trim_slots() if order else 0
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.remove_rows(order, length)
                if slack and layer.buffers is not None:  # a long row has left: those that remain need fewer slots
                    layer.buffers.shift(len(order), -slack, self.ledger.length)
            take_others(layer, order)
        return order

    def append_rows(self, other: CompressedCache) -> None:
        """Append the rows of another cache of the same model and policy, whose logical length may differ."""
        for ours in (*self.compressed_layers, *other.compressed_layers):
            ours.put_in_order()
        before = len(self.ledger.rows)
        mine, theirs = self.ledger.logical_length, other.ledger.logical_length
        shift = self.ledger.append_rows(other.ledger)
        for layer, its in zip(self.layers, other.layers, strict=True):
            if isinstance(layer, CompressedLayer) and isinstance(its, CompressedLayer):
                layer.append_rows(its, before, shift)
            append_others(layer, its, mine, theirs)
        self.ledger.ring_next = 0  # every layer's ring begins with its oldest query now

    def fork(self, rows: Sequence[int]) -> CompressedCache:
        """A copy of some rows that can be fed on its own and never compresses; this cache is not touched."""
        twin = self._copy(rows)
        twin.ledger.freeze()
        return twin

    def under(self, policy: Policy) -> CompressedCache:
        """A copy that goes on under another policy, as if that had made it; this cache is not touched. Nothing may have been
        generated yet: prompts are the same under every policy."""
        if any(row.generated for row in self.ledger.rows):
            raise RuntimeError("a cache can change its policy only as long as it holds nothing but prompts")
        twin = self._copy(range(self.batch_size))
        twin.ledger.set_schedule(policy.schedule, policy.scorer.queries if policy.scorer is not None else 0)
        for layer in twin.compressed_layers:
            layer.scoring = LayerScoring(policy.scorer, layer.index) if policy.scorer is not None else None
        return twin

    def _copy(self, rows: Sequence[int]) -> CompressedCache:
        twin = copy.copy(self)
        twin.ledger = self.ledger.fork()
        twin.layers = [copy.copy(layer) for layer in self.layers]
        twin.compressed_layers = [layer for layer in twin.layers if isinstance(layer, CompressedLayer)]
        for layer in twin.compressed_layers:
            layer.ledger = twin.ledger
        twin.batch_select_indices(rows)
        return twin

    @property
    def live_bytes(self) -> int:
        """Bytes of keys and values that can be attended now, compressible layers."""
        return self.ledger.tokens * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        return sum(layer.bytes_per_token for layer in self.compressed_layers)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the buffers take, compressible layers."""
        return sum(layer.reserved_bytes for layer in self.compressed_layers)


def _list(kinds: dict[str, list[int]]) -> str:
    return ", ".join(f"{len(v)} {k}" for k, v in kinds.items()) or "none"
