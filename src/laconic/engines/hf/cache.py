"""The cache: a DynamicCache whose plain layers hold their KV in buffers written in place, and evict when the ledger says so.

Shapes: B rows, G KV heads, H query heads, C slots of the buffer, L slots in use, D head size, S captured queries, g index
sets a layer (1, or G when a policy chooses per KV head).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from laconic.compress import Evidence, Policy, Scorer
from laconic.compress.select import select
from laconic.engines.hf.ledger import Eviction, Ledger
from laconic.errors import LaconicError

# Set by a layer's `update`, taken by the attention call that follows it in the same layer: no registry of models is needed.
UPDATED: ContextVar[CompressedLayer | None] = ContextVar("laconic_updated", default=None)
# Set by `get_mask_sizes`, taken by the mask function that transformers calls next.
MASKED: ContextVar[Ledger | None] = ContextVar("laconic_masked", default=None)

TokenLookup = Callable[[list[int]], Tensor]


class CompressedLayer(DynamicLayer):
    """One layer's KV. `keys` and `values` are views [B, G, L, D] of what is held now."""

    is_croppable = False

    def __init__(self, ledger: Ledger, scorer: Scorer | None, index: int, first: bool, last: bool) -> None:
        self.ledger, self.scorer, self.index, self.first, self.last = ledger, scorer, index, first, last
        self.is_initialized = False
        self.spare_rows = 0
        self.lookup: TokenLookup | None = None
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._ring: Tensor | None = None  # [B, H, S, D]
        self._mass: Tensor | None = None  # fp32 [B, g, C]
        self._stored: Tensor | None = None  # long [B, g, n]: positions kept by the last compression, right-aligned
        self._watches = scorer is not None and (scorer.queries > 0 or scorer.accumulates)

    # ---- what transformers asks -----------------------------------------------------------------------------------

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        return None if self._keys is None else self._keys[: len(self.ledger.rows), :, : self.ledger.length]

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        return None if self._values is None else self._values[: len(self.ledger.rows), :, : self.ledger.length]

    def get_seq_length(self) -> int:
        """The logical length: positions count on as if nothing had been evicted."""
        return self.ledger.logical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        ledger = self.ledger
        MASKED.set(ledger)
        return ledger.length + query_length, ledger.logical - ledger.length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows = max(key_states.shape[0], self.spare_rows)
        slots = max(self.ledger.slots_to_reserve(), self.ledger.write_at + key_states.shape[2])
        self._keys = key_states.new_empty((rows, key_states.shape[1], slots, key_states.shape[3]))
        self._values = value_states.new_empty((rows, value_states.shape[1], slots, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, G, q, D] in place; returns views over all that is held, this step's tokens included."""
        ledger = self.ledger
        batch, _, q, _ = key_states.shape
        if self.first:
            ledger.begin(batch, q)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = ledger.write_at, ledger.length
        keys, values = self._keys, self._values
        assert keys is not None and values is not None
        if end > keys.shape[2]:
            self._grow(slots=max(end, ledger.slots_to_reserve()))
            keys, values = self._keys, self._values
            assert keys is not None and values is not None
        keys[:batch, :, start:end] = key_states
        values[:batch, :, start:end] = value_states
        if self._watches or ledger.plan is not None:
            UPDATED.set(self)
        elif self.last:
            ledger.end()
        return keys[:batch, :, :end], values[:batch, :, :end]

    def batch_repeat_interleave(self, repeats: int) -> None:
        raise RuntimeError("repeat rows through the cache, not a layer of it")

    def batch_select_indices(self, indices: Tensor) -> None:
        raise RuntimeError("select rows through the cache, not a layer of it")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise LaconicError(
            "beam search reorders the cache between steps, which compression does not support: use sampling or greedy decoding"
        )

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise LaconicError(
                "the cache can't be rolled back once tokens may have been evicted: assisted decoding and compression exclude "
                "each other"
            )

    def reset(self) -> None:
        raise LaconicError("a compressed cache serves one generation: make a new one instead of resetting it")

    # ---- after attention ------------------------------------------------------------------------------------------

    def attended(self, query: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Called once this layer has attended. query: [B, H, q, D] after RoPE; mask: bool [B, 1, q, L] or None."""
        ledger, scorer = self.ledger, self.scorer
        if scorer is not None:
            if ledger.capture:
                self._capture(query)
            if scorer.accumulates and ledger.rows[0].generated:
                self._accumulate(query, scaling, mask)
            if ledger.plan is not None:
                self._evict(ledger.plan, scaling)
        if self.last:
            ledger.end()

    def _capture(self, query: Tensor) -> None:
        size = self.ledger.queries
        batch, heads, q, dim = query.shape
        if self._ring is None or self._ring.shape[0] < batch:
            rows = max(batch, self.spare_rows)
            ring = query.new_zeros((rows, heads, size, dim))
            if self._ring is not None:
                ring[: self._ring.shape[0]] = self._ring
            self._ring = ring
        at = self.ledger.ring_at
        if q == 1:
            self._ring[:batch, :, at] = query[:, :, 0]
            return
        take = min(q, size)
        slots = (torch.arange(take, device=query.device) + at) % size
        self._ring[:batch, :, slots] = query[:, :, -take:]

    def _queries(self) -> Tensor | None:
        """[B, H, S, D], oldest first."""
        if self._ring is None:
            return None
        ring = self._ring[: len(self.ledger.rows)]
        at = self.ledger.ring_next
        return ring if at == 0 else torch.cat((ring[:, :, at:], ring[:, :, :at]), dim=2)

    def _accumulate(self, query: Tensor, scaling: float, mask: Tensor | None) -> None:
        assert self.scorer is not None and self._keys is not None
        batch, end = query.shape[0], self.ledger.length
        if mask is not None and mask.dtype != torch.bool:
            mask = mask >= 0  # eager attention's masks are added to the logits: 0 or the most negative number
        paid = self.scorer.observe(query, self._keys[:batch, :, :end], mask, scaling)
        if self._mass is None:
            self._mass = paid.new_zeros((self._keys.shape[0], paid.shape[1], self._keys.shape[2]))
        # A slot's sum starts with the step that writes it: what stood there before an eviction moved the end is not its own.
        self._mass[:batch, :, self.ledger.write_at : end] = 0
        self._mass[:batch, :, :end] += paid

    # ---- eviction -------------------------------------------------------------------------------------------------

    def _evict(self, plan: Eviction, scaling: float) -> None:
        assert self.scorer is not None and self._keys is not None and self._values is not None
        window, length = plan.window, plan.length
        widest = max(plan.candidates)
        lowest = length - window - widest
        due = None if len(plan.due) == len(self.ledger.rows) else torch.tensor(plan.due, device=self.device)
        take = (lambda t: t[: len(self.ledger.rows)]) if due is None else (lambda t: t[due])
        alike = min(plan.candidates) == widest
        valid = None
        if not alike:
            counts = torch.tensor(plan.candidates, device=self.device)
            valid = torch.arange(widest, device=self.device) >= widest - counts[:, None]
        positions = self._positions(plan, take, widest + window)
        candidates_at = positions[..., :widest]
        evidence = Evidence(
            queries=self._evidence_queries(take),
            keys=take(self._keys[:, :, lowest:length]),
            scaling=scaling,
            valid=valid,
            positions=candidates_at,
            token_ids=self._token_ids(plan, candidates_at),
            mass=None if self._mass is None else take(self._mass[..., lowest : length - window]),
            context_keys=None,
            context_valid=None,
            layer=self.index,
            rows=torch.tensor([self.ledger.rows[i].number for i in plan.due], device=self.device),
        )
        if self.scorer.reads_prompt:
            evidence = self._with_context(evidence, plan, take, lowest)
        keep: int | Tensor = plan.keep[0]
        if min(plan.keep) != max(plan.keep):
            keep = torch.tensor(plan.keep, device=self.device)
        chosen = select(self.scorer.score(evidence), keep, valid)  # [D, g, K]
        self._store(plan, due, positions, chosen, widest)
        if plan.uniform:
            self._compact(plan, chosen, lowest)
        else:
            self._rewrite(plan, due, chosen, lowest)

    def _evidence_queries(self, take: Callable[[Tensor], Tensor]) -> Tensor | None:
        assert self.scorer is not None
        if self.scorer.queries == 0:
            return None
        queries = self._queries()
        if queries is None:
            raise RuntimeError("a compression is due, but no queries were captured")
        return take(queries)

    def _positions(self, plan: Eviction, take: Callable[[Tensor], Tensor], width: int) -> Tensor:
        """long [D, g, width]: index among the row's generated tokens of its last `width` slots (junk before its first)."""
        back = torch.arange(width - 1, -1, -1, device=self.device)  # distance from the newest
        newest = torch.tensor(plan.generated, device=self.device)[:, None, None] - 1
        if self._stored is None:
            return (newest - back).clamp(min=0)
        since = torch.tensor(plan.since, device=self.device)[:, None, None]
        stored = take(self._stored)
        older = (stored.shape[-1] - 1 - (back - since)).clamp(0, stored.shape[-1] - 1)  # [D, 1, width]
        older = stored.gather(-1, older.expand(-1, stored.shape[1], -1))
        return torch.where(back < since, (newest - back).clamp(min=0), older)

    def _token_ids(self, plan: Eviction, positions: Tensor) -> Tensor | None:
        if self.scorer is None or not self.scorer.needs_token_ids:
            return None
        if self.lookup is None:
            raise LaconicError(
                "this policy looks at token ids, which only laconic's own engine knows: run it through HFEngine instead of generate"
            )
        table = self.lookup([self.ledger.rows[i].number for i in plan.due]).to(self.device)
        return table[:, None].expand(-1, positions.shape[1], -1).gather(-1, positions)

    def _with_context(
        self, evidence: Evidence, plan: Eviction, take: Callable[[Tensor], Tensor], lowest: int
    ) -> Evidence:
        """Add the prompt's keys, right-aligned. Rows whose candidates start later have part of their prompt in the slice."""
        from dataclasses import replace

        assert self._keys is not None
        widest_prompt = max(plan.prompt)
        starts = [plan.length - plan.window - c for c in plan.candidates]  # first generated slot of each row
        mask = self.ledger.validity(0, self.device)
        if min(starts) == max(starts):
            context = take(self._keys[:, :, lowest - widest_prompt : lowest])
            valid = None if mask is None else take(mask[:, lowest - widest_prompt : lowest])
            return replace(evidence, context_keys=context, context_valid=valid)
        offsets = torch.arange(widest_prompt, device=self.device) - widest_prompt
        slots = (torch.tensor(starts, device=self.device)[:, None] + offsets).clamp(min=0)  # [D, Pr]
        keys = take(self._keys)
        index = slots[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        prompts = torch.tensor(plan.prompt, device=self.device)
        valid = offsets + prompts[:, None] >= 0
        return replace(evidence, context_keys=keys.gather(2, index), context_valid=valid)

    def _store(self, plan: Eviction, due: Tensor | None, positions: Tensor, chosen: Tensor, widest: int) -> None:
        """Remember which generated tokens stay: those chosen, then the window; right-aligned, -1 before a row's first."""
        kept = positions.expand(-1, chosen.shape[1], -1)[..., :widest].gather(-1, chosen)
        if min(plan.keep) != max(plan.keep):
            counts = torch.tensor(plan.keep, device=self.device)[:, None, None]
            kept = kept.masked_fill(torch.arange(kept.shape[-1], device=self.device) < kept.shape[-1] - counts, -1)
        new = torch.cat((kept, positions.expand(-1, chosen.shape[1], -1)[..., widest:]), dim=-1)
        if due is None:
            self._stored = new
            return
        old = self._stored
        if old is None:
            old = new.new_full((len(self.ledger.rows), new.shape[1], 0), -1)
        width = max(old.shape[-1], new.shape[-1])
        old, new = _right_align(old, width, -1), _right_align(new, width, -1)
        self._stored = old.index_copy(0, due, new)

    def _compact(self, plan: Eviction, chosen: Tensor, lowest: int) -> None:
        """All rows alike: gather into the same buffers, prompts untouched."""
        rows, keep, window, length = len(plan.due), chosen.shape[-1], plan.window, plan.length
        for buffer in self._buffers():
            shape = (-1, buffer.shape[1], -1) + ((buffer.shape[3],) if buffer.dim() == 4 else ())
            index = chosen[..., None] if buffer.dim() == 4 else chosen
            live = buffer[:rows]
            kept = live[:, :, lowest : length - window].gather(2, index.expand(shape))
            recent = live[:, :, length - window : length].clone()
            live[:, :, lowest : lowest + keep] = kept
            live[:, :, lowest + keep : lowest + keep + window] = recent

    def _rewrite(self, plan: Eviction, due: Tensor | None, chosen: Tensor, lowest: int) -> None:
        """Rows differ: build for every slot of the new frame the slot it comes from, and gather the due rows."""
        rows, window, length, new = len(self.ledger.rows), plan.window, plan.length, plan.new_length
        keep = torch.tensor(plan.keep, device=self.device)[:, None]
        dropped = torch.tensor(plan.candidates, device=self.device)[:, None] - keep
        back = torch.arange(new - 1, -1, -1, device=self.device)  # [new]: distance from the end
        source = (length - 1 - back - dropped * (back >= window + keep)).clamp(min=0)  # [D, new]
        source = source[:, None].expand(-1, chosen.shape[1], -1).clone()
        widest = chosen.shape[-1]
        middle = source[..., new - window - widest : new - window]
        is_kept = torch.arange(widest, device=self.device) >= widest - keep  # [D, K]
        middle.copy_(torch.where(is_kept[:, None], chosen + lowest, middle))
        rest = None
        if due is not None and new < length:
            rest = torch.tensor(sorted(set(range(rows)) - set(plan.due)), device=self.device)
        for buffer in self._buffers():
            live = buffer[:rows]
            shape = (-1, buffer.shape[1], -1) + ((buffer.shape[3],) if buffer.dim() == 4 else ())
            index = (source[..., None] if buffer.dim() == 4 else source).expand(shape)
            moved = (live if due is None else live[due])[:, :, :length].gather(2, index)
            if rest is not None:
                live[rest, :, :new] = live[rest, :, length - new : length]
            if due is None:
                live[:, :, :new] = moved
            else:
                live[due, :, :new] = moved

    def _buffers(self) -> list[Tensor]:
        return [b for b in (self._keys, self._values, self._mass) if b is not None]

    # ---- memory and rows ------------------------------------------------------------------------------------------

    def _grow(self, slots: int | None = None, rows: int | None = None) -> None:
        """Reallocate with at least that many slots and rows, one buffer at a time."""
        length, live = min(self.ledger.length, self._keys.shape[2]), self._keys.shape[0]  # type: ignore[union-attr]
        for name in ("_keys", "_values", "_mass"):
            old = getattr(self, name)
            if old is None:
                continue
            shape = list(old.shape)
            shape[0], shape[2] = rows or shape[0], max(slots or 0, shape[2])
            new = old.new_zeros(shape) if name == "_mass" else old.new_empty(shape)
            kept = min(live, shape[0])
            new[:kept, :, :length] = old[:kept, :, :length]
            setattr(self, name, new)
        if self._ring is not None and rows is not None and rows != self._ring.shape[0]:
            ring = self._ring.new_zeros((rows, *self._ring.shape[1:]))
            kept = min(rows, self._ring.shape[0])
            ring[:kept] = self._ring[:kept]
            self._ring = ring

    def take_rows(self, indices: Sequence[int]) -> None:
        """Keep rows `indices` in that order, in new buffers of just that many rows."""
        index = torch.tensor(list(indices), device=self.device)
        for name in ("_keys", "_values", "_mass", "_ring", "_stored"):
            old = getattr(self, name)
            if old is not None:
                setattr(self, name, old[index])

    def move_rows(self, moves: Sequence[tuple[int, int]], left: int) -> None:
        """Fill the holes of rows that leave with rows from the end (from, to); `left` rows remain."""
        for name in ("_keys", "_values", "_mass", "_ring", "_stored"):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            for source, target in moves:
                if name in ("_ring", "_stored"):
                    tensor[target] = tensor[source]
                else:
                    length = self.ledger.length
                    tensor[target, :, :length] = tensor[source, :, :length]
        if self._stored is not None:
            self._stored = self._stored[:left]
        if self._keys is not None and left <= self._keys.shape[0] // 2:
            self._grow(rows=left)

    def shift(self, by: int, length: int) -> None:
        """Move the content of all rows by `by` slots (negative: left); `length` slots are in use afterwards."""
        rows = len(self.ledger.rows)
        for buffer in self._buffers():
            live = buffer[:rows]
            if by > 0:
                live[:, :, by:length] = live[:, :, : length - by].clone()
                live[:, :, :by] = 0
            else:
                live[:, :, :length] = live[:, :, -by : length - by].clone()

    def absorb(self, other: CompressedLayer, before: int, shift: int) -> None:
        """Append the rows of `other`. The ledger has absorbed its ledger already; `before` rows were here."""
        if not other.is_initialized:
            return
        ledger, theirs = self.ledger, other.ledger
        after = len(ledger.rows)
        assert self._keys is not None and other._keys is not None
        rows = self._keys.shape[0] if after <= self._keys.shape[0] else max(after, self.spare_rows)
        slots = max(ledger.length + 1, ledger.slots_to_reserve()) if ledger.length >= self._keys.shape[2] else None
        if rows != self._keys.shape[0] or slots is not None:
            length, ledger.length = ledger.length, ledger.length - shift
            self._grow(slots=slots, rows=rows)
            ledger.length = length
        if shift:
            held, ledger.rows = ledger.rows, ledger.rows[:before]
            self.shift(shift, ledger.length)
            ledger.rows = held
        if self._mass is None and other._mass is not None:
            self._mass = other._mass.new_zeros((self._keys.shape[0], other._mass.shape[1], self._keys.shape[2]))
        lead = ledger.length - theirs.length
        for mine, its in ((self._keys, other._keys), (self._values, other._values), (self._mass, other._mass)):
            if mine is None:
                continue
            mine[before:after, :, :lead] = 0
            if its is None:
                mine[before:after, :, lead : ledger.length] = 0
            else:
                mine[before:after, :, lead : ledger.length] = its[: after - before, :, : theirs.length]
        self._absorb_ring(other, before, after)
        self._absorb_stored(other, before, after)

    def _absorb_ring(self, other: CompressedLayer, before: int, after: int) -> None:
        """Both rings oldest first, so that the next write is at 0 in both; the cache sets the ledger's `ring_next`."""
        mine, its = self._queries_of(before), other._queries()
        some = mine if mine is not None else its
        if some is None:
            return
        assert self._keys is not None
        ring = some.new_zeros((self._keys.shape[0], *some.shape[1:]))
        if mine is not None:
            ring[:before] = mine
        if its is not None:
            ring[before:after] = its
        self._ring = ring

    def _queries_of(self, rows: int) -> Tensor | None:
        if self._ring is None:
            return None
        return torch.roll(self._ring[:rows], -self.ledger.ring_next, dims=2)

    def _absorb_stored(self, other: CompressedLayer, before: int, after: int) -> None:
        if self._stored is None and other._stored is None:
            return
        some = self._stored if self._stored is not None else other._stored
        assert some is not None
        none = some.new_full((0, some.shape[1], 1), -1)
        mine = self._stored if self._stored is not None else none.new_full((before, some.shape[1], 1), -1)
        its = other._stored if other._stored is not None else none.new_full((after - before, some.shape[1], 1), -1)
        width = max(mine.shape[-1], its.shape[-1])
        self._stored = torch.cat((_right_align(mine, width, -1), _right_align(its, width, -1)))

    def held_positions(self, row: int) -> Tensor:
        """long [g, held]: which generated tokens of a row this layer holds, in order."""
        record = self.ledger.rows[row]
        since = record.generated - record.compressed_at
        recent = torch.arange(record.compressed_at, record.generated)
        if self._stored is None or record.held == since:
            return recent[None]
        stored = self._stored[row, :, self._stored.shape[-1] - (record.held - since) :].cpu()
        return torch.cat((stored, recent.expand(stored.shape[0], -1)), dim=-1)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of one row takes in this layer."""
        if self._keys is None or self._values is None:
            return 0
        item = self._keys.element_size()
        return item * (self._keys.shape[1] * self._keys.shape[3] + self._values.shape[1] * self._values.shape[3])

    @property
    def reserved_bytes(self) -> int:
        tensors = (self._keys, self._values, self._mass, self._ring, self._stored)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


class CompressedCache(DynamicCache):
    """A DynamicCache for one batch under one policy. Layers that slide or are linear stay as transformers makes them.

    prompt: slots of the prompt when it is fed in several passes (None: the first pass is the prompt). limit: tokens a row
    may generate, for sizing buffers. Raises LaconicError if the model has no layer that can be compressed.
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
        plain = [i for i, layer in enumerate(self.layers) if type(layer) is DynamicLayer]
        self.left_alone: dict[str, list[int]] = {}
        for i, layer in enumerate(self.layers):
            if i not in plain:
                self.left_alone.setdefault(_kind(layer), []).append(i)
        if not plain:
            raise LaconicError(
                f"{type(config).__name__} has no plain full-attention layer to compress (it has {_list(self.left_alone)}); "
                "laconic compresses models with at least one full-attention layer"
            )
        self.compressed: list[CompressedLayer] = []
        for i in plain:
            layer = CompressedLayer(self.ledger, scorer, i, first=i == plain[0], last=i == plain[-1])
            layer.spare_rows = spare_rows
            self.layers[i] = layer
            self.compressed.append(layer)

    def set_token_lookup(self, lookup: TokenLookup) -> None:
        """lookup: row numbers -> long [rows, generated], for policies that look at token ids."""
        for layer in self.compressed:
            layer.lookup = lookup

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        return len(self.ledger.rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor | Sequence[int]) -> None:
        """Rows `indices` in that order, copied into new buffers of just that many rows."""
        wanted = [int(i) for i in indices]
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.take_rows(wanted)
            else:
                layer.batch_select_indices(torch.tensor(wanted))
        self.ledger.select(wanted)

    def drop(self, rows: Sequence[int]) -> list[int]:
        """Rows leave, their memory too once half the buffer's rows are unused. Returns the order of those that remain."""
        leaving, total = set(rows), len(self.ledger.rows)
        left = total - len(leaving)
        holes = [i for i in sorted(leaving) if i < left]
        tail = [i for i in range(left, total) if i not in leaving]
        order = list(range(left))
        for source, target in zip(tail, holes, strict=True):
            order[target] = source
        for layer in self.layers:
            if isinstance(layer, CompressedLayer):
                layer.move_rows(list(zip(tail, holes, strict=True)), left)
            else:
                layer.batch_select_indices(torch.tensor(order, dtype=torch.long))
        self.ledger.select(order)
        if left:
            slack = self.ledger.trim()
            if slack:
                for layer in self.compressed:
                    layer.shift(-slack, self.ledger.length)
        return order

    def absorb(self, other: CompressedCache) -> None:
        """Append the rows of another cache of the same model and policy, whose logical length may differ."""
        before = len(self.ledger.rows)
        mine, theirs = self.ledger.logical, other.ledger.logical
        ring_next = self.ledger.ring_next
        shift = self.ledger.absorb(other.ledger)
        for layer, its in zip(self.layers, other.layers, strict=True):
            if isinstance(layer, CompressedLayer):
                self.ledger.ring_next = ring_next
                layer.absorb(its, before, shift)
            else:
                _absorb_sliding(layer, its, mine, theirs)
        self.ledger.ring_next = 0

    @property
    def live_bytes(self) -> int:
        """Bytes of keys and values that can be attended now, compressible layers."""
        return self.ledger.tokens * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        return sum(layer.bytes_per_token for layer in self.compressed)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the buffers take, compressible layers."""
        return sum(layer.reserved_bytes for layer in self.compressed)


def _right_align(tensor: Tensor, width: int, fill: int) -> Tensor:
    lack = width - tensor.shape[-1]
    return tensor if lack <= 0 else torch.nn.functional.pad(tensor, (lack, 0), value=fill)


def _absorb_sliding(layer: Any, other: Any, mine: int, theirs: int) -> None:
    """Join two sliding layers, right-aligned; what a shorter one lacks is masked by the 2D attention mask."""
    if not isinstance(layer, DynamicSlidingWindowLayer):
        raise LaconicError(
            f"laconic's engine can't batch rows of different lengths in a {_kind(layer)} layer: "
            "use laconic.compress(model, policy) with model.generate for this model"
        )
    logical = max(mine, theirs)
    width = min(logical, layer.sliding_window - 1)
    for name in ("keys", "values"):
        pair = [_pad_slots(getattr(one, name), width) for one in (layer, other)]
        setattr(layer, name, torch.cat(pair))
    layer.cumulative_length = logical


def _pad_slots(tensor: Tensor, width: int) -> Tensor:
    lack = width - tensor.shape[2]
    return tensor if lack <= 0 else torch.nn.functional.pad(tensor, (0, 0, lack, 0))


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    if "Sliding" in name:
        return "sliding"
    if "Linear" in name:
        return "linear"
    return name


def _list(kinds: dict[str, list[int]]) -> str:
    return ", ".join(f"{len(v)} {k}" for k, v in kinds.items()) or "none"
