"""The buffers of one layer: keys and values of all rows, written in place, and what a policy's scorer needs of their past.

Shapes: R rows of the buffers, B <= R rows in use, G KV heads, H query heads, C slots, D head size, S latest queries, g index
sets a layer (1, or G where a policy chooses per KV head).

All rows end at the same slot, so that one step appends at one place:

    row 0:  [ oldest ................ newest | spare ]
    row 1:  [ junk   | oldest ....... newest | spare ]
                                             ^ length

Nothing here knows lengths or counts: the ledger does, and the layer passes them on. Nobody attends to junk, since a mask hides
it, but masked values are still multiplied (by 0), and 0 x NaN is NaN: so junk has to be finite. That is why slots that were
never written are zeroed where they come to lie before a row's first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from laconic.engines.hf.slots import Eviction


class KVBuffers:
    """Keys, values and what goes with them, of one layer. Made at the layer's first write."""

    keys: Tensor
    """[R, G, C, D]"""
    values: Tensor
    """[R, G, C, D of values]"""
    mass: Tensor | None
    """fp32 [R, g, C]: attention that each slot has received, where the policy adds it up, or what its scorer noted of each
    token. Moves as keys do."""
    query_ring: Tensor | None
    """[R or more, H, S, D]: the latest queries; the ledger says which is the oldest."""
    kept_positions: Tensor | None
    """long [B, g, n]: which generated tokens the last compression kept, by slot, right-aligned, -1 before a row's first."""
    in_order: bool
    """Whether those lie in the order in which they were generated; not where the newest took the slot of one that went."""

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        mass: Tensor | None = None,
        query_ring: Tensor | None = None,
        kept_positions: Tensor | None = None,
    ) -> None:
        self.keys, self.values, self.mass = keys, values, mass
        self.query_ring, self.kept_positions = query_ring, kept_positions
        self.in_order = True

    @classmethod
    def allocate(cls, key_states: Tensor, value_states: Tensor, rows: int, slots: int) -> KVBuffers:
        """Room for `rows` rows of `slots` slots like those of key_states and value_states, [B, G, q, D]."""
        keys, values = (t.new_empty((rows, t.shape[1], slots, t.shape[3])) for t in (key_states, value_states))
        return cls(keys, values)

    @property
    def rows(self) -> int:
        """R"""
        return self.keys.shape[0]

    @property
    def slots(self) -> int:
        """C"""
        return self.keys.shape[2]

    def _by_slot(self) -> Iterator[Tensor]:
        """All that has an entry for each slot."""
        yield self.keys
        yield self.values
        if self.mass is not None:
            yield self.mass

    # ---- one forward pass -----------------------------------------------------------------------------------------

    def append(self, key_states: Tensor, value_states: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write [B, G, q, D] from slot `start` on. Returns views of all that is held then, [B, G, start + q, D]."""
        batch, end = key_states.shape[0], start + key_states.shape[2]
        self.keys[:batch, :, start:end] = key_states
        self.values[:batch, :, start:end] = value_states
        return self.keys[:batch, :, :end], self.values[:batch, :, :end]

    def capture_queries(self, query: Tensor, size: int, at: int, rows: int) -> None:
        """Write [B, H, q, D] into the ring of `size` queries from `at` on; of more than `size`, the latest.

        rows: that a new ring has at least.
        """
        batch, heads, q, dim = query.shape
        if self.query_ring is None or self.query_ring.shape[0] < batch:
            ring = query.new_zeros((max(batch, rows), heads, size, dim))
            if self.query_ring is not None:
                ring[: self.query_ring.shape[0]] = self.query_ring
            self.query_ring = ring
        if q == 1:
            self.query_ring[:batch, :, at] = query[:, :, 0]
            return
        take = min(q, size)
        places = (torch.arange(take, device=query.device) + at) % size
        self.query_ring[:batch, :, places] = query[:, :, -take:]

    def latest_queries(self, rows: int, oldest: int) -> Tensor | None:
        """[rows, H, S, D], oldest first; None before any was captured. oldest: its place in the ring."""
        if self.query_ring is None:
            return None
        ring = self.query_ring[:rows]
        return ring if oldest == 0 else torch.cat((ring[:, :, oldest:], ring[:, :, :oldest]), dim=2)

    def add_mass(self, received: Tensor, start: int) -> None:
        """Add what every slot has received in this pass, fp32 [B, g, length]; the pass wrote from slot `start` on."""
        batch, heads, end = received.shape
        mass = self._mass(heads, received)
        # A slot's sum starts with the step that writes it: what stood there before an eviction moved the end is not its own.
        mass[:batch, :, start:end] = 0
        mass[:batch, :, :end] += received

    def set_mass(self, notes: Tensor, start: int) -> None:
        """Write what was noted of this pass's tokens, fp32 [B, g, q]; the pass wrote from slot `start` on."""
        batch, heads, q = notes.shape
        self._mass(heads, notes)[:batch, :, start : start + q] = notes

    def _mass(self, heads: int, like: Tensor) -> Tensor:
        if self.mass is None:
            self.mass = like.new_zeros((self.rows, heads, self.slots))
        return self.mass

    def held_positions(self, row: int, generated: int, compressed_at: int, held: int) -> Tensor:
        """long [g, held]: which of a row's `generated` tokens are held, in order. compressed_at: `generated` at its last
        compression, after which it has lost none."""
        recent = torch.arange(compressed_at, generated)
        if self.kept_positions is None or held == len(recent):
            return recent[None]
        kept = self.kept_positions[row, :, self.kept_positions.shape[-1] - (held - len(recent)) :].cpu().sort(-1).values
        return torch.cat((kept, recent.expand(kept.shape[0], -1)), dim=-1)

    # ---- one compression ------------------------------------------------------------------------------------------

    def evict(self, eviction: Eviction, rows: int, slots: Tensor, positions: Tensor) -> None:
        """Keep the chosen candidates and the window, in place, and note which tokens they are.

        rows: B. slots: long [due rows, g, K], ascending, among the candidates of the widest row; of a row that keeps fewer, the
        last ones. positions: long [due rows, g, K + window], which generated tokens stay.
        """
        due = None if len(eviction.due) == rows else torch.tensor(eviction.due, device=self.keys.device)
        self._note_positions(due, rows, positions)
        if eviction.uniform:
            self._close_up(eviction, slots)
        else:
            self._rearrange(eviction, due, rows, slots)

    def replace(self, rows: int, length: int, slots: Tensor, positions: Tensor) -> None:
        """Put the newest token of each row, in the last of `length` slots, into the slot of one that goes.

        rows: B. slots: long [B, g, 1]. positions: long [B, g, n], what is kept then, as in `kept_positions`.
        """
        for buffer in self._by_slot():
            live = buffer[:rows]
            live.scatter_(2, _index_of(slots, buffer), live[:, :, length - 1 : length].clone())
        self.kept_positions, self.in_order = positions, False

    def put_in_order(self, rows: int, end: int) -> Tensor | None:
        """Move what the last compression kept, in slots up to `end`, into the order in which it was generated.

        Returns which of those slots each came from, long [B, g, n]; None where all was in order.
        """
        if self.in_order:
            return None
        assert self.kept_positions is not None
        # Before a row's first there is -1, which stays in front.
        order = self.kept_positions.argsort(dim=-1, stable=True)
        self.kept_positions, self.in_order = self.kept_positions.gather(-1, order), True
        for buffer in self._by_slot():
            live = buffer[:rows, :, end - order.shape[-1] : end]
            live.copy_(live.gather(2, _index_of(order, buffer)))
        return order

    def _note_positions(self, due: Tensor | None, rows: int, new: Tensor) -> None:
        if due is None:
            self.kept_positions = new
            return
        old = self.kept_positions
        if old is None:
            old = new.new_full((rows, new.shape[1], 0), -1)
        width = max(old.shape[-1], new.shape[-1])
        self.kept_positions = _right_align(old, width).index_copy(0, due, _right_align(new, width))

    def _close_up(self, eviction: Eviction, chosen: Tensor) -> None:
        """All rows alike: the kept close up behind the prompts, which nobody touches.

        Kept tokens move to the left only, but gathering reads what an earlier one may have overwritten: so `gather` copies
        first, what is kept and not all that is held. The window is cloned, since its old and new places may overlap.
        """
        rows, keep = len(eviction.due), chosen.shape[-1]
        lowest, window, length = eviction.lowest, eviction.window, eviction.length
        for buffer in self._by_slot():
            live = buffer[:rows]
            kept = live[:, :, lowest : length - window].gather(2, _index_of(chosen, buffer))
            recent = live[:, :, length - window : length].clone()
            live[:, :, lowest : lowest + keep] = kept
            live[:, :, lowest + keep : lowest + keep + window] = recent

    def _rearrange(self, eviction: Eviction, due: Tensor | None, rows: int, chosen: Tensor) -> None:
        """Rows differ: since all must end at one slot again, prompts move too. For every slot of the new frame, the slot that
        it comes from; then one gather moves a due row's prompt, kept tokens and window at once.

        Slots before a row's first come from wherever the arithmetic points (clamped): real content, hence finite junk.
        """
        device, window, length, new = self.keys.device, eviction.window, eviction.length, eviction.new_length
        keep = torch.tensor(eviction.keep, device=device)[:, None]
        dropped = torch.tensor(eviction.candidates, device=device)[:, None] - keep
        back = torch.arange(new - 1, -1, -1, device=device)  # [new]: distance from the end
        # The window keeps its distance from the end; what lies before the candidates comes nearer by what was dropped.
        source = (length - 1 - back - dropped * (back >= window + keep)).clamp(min=0)  # [due rows, new]
        source = source[:, None].expand(-1, chosen.shape[1], -1).clone()
        widest = chosen.shape[-1]
        middle = source[..., new - window - widest : new - window]
        is_kept = torch.arange(widest, device=device) >= widest - keep  # [due rows, K]
        middle.copy_(torch.where(is_kept[:, None], chosen + eviction.lowest, middle))
        rest = None
        if due is not None and new < length:
            rest = torch.tensor(sorted(set(range(rows)) - set(eviction.due)), device=device)
        for buffer in self._by_slot():
            live = buffer[:rows]
            moved = (live if due is None else live[due])[:, :, :length].gather(2, _index_of(source, buffer))
            if rest is not None:  # rows that are not due follow the end to the left
                live[rest, :, :new] = live[rest, :, length - new : length]
            if due is None:
                live[:, :, :new] = moved
            else:
                live[due, :, :new] = moved

    # ---- rows come and go -----------------------------------------------------------------------------------------

    def reallocate(self, length: int, slots: int = 0, rows: int | None = None) -> None:
        """New buffers of `rows` rows (None: as many) and at least `slots` slots; the first `length` slots have content.

        One buffer after the other, so that no more than one is there twice. Sums of attention start from zero in new slots and
        rows; keys and values are written before anybody attends to them.
        """
        self.keys = _resized(self.keys, length, slots, rows, zeros=False)
        self.values = _resized(self.values, length, slots, rows, zeros=False)
        if self.mass is not None:
            self.mass = _resized(self.mass, length, slots, rows, zeros=True)
        if self.query_ring is not None and rows is not None and rows != self.query_ring.shape[0]:
            ring = self.query_ring.new_zeros((rows, *self.query_ring.shape[1:]))
            kept = min(rows, self.query_ring.shape[0])
            ring[:kept] = self.query_ring[:kept]
            self.query_ring = ring

    def take_rows(self, indices: Sequence[int]) -> KVBuffers:
        """Rows `indices`, in that order, in buffers of their own of just that many rows. These stay as they are."""
        index = torch.tensor(list(indices), device=self.keys.device)
        parts = (self.keys, self.values, self.mass, self.query_ring, self.kept_positions)
        taken = KVBuffers(*(None if part is None else part[index] for part in parts))  # type: ignore[arg-type]
        taken.in_order = self.in_order
        return taken

    def fill_holes(self, moves: Sequence[tuple[int, int]], left: int, length: int) -> None:
        """Rows have left: rows from the end move into their places (from, to), and `left` remain.

        Moving as many rows as left costs less than closing up all behind them; the order of rows means nothing. Memory is given
        back only once half of the rows are unused: each time costs a copy of what remains.
        """
        for source, hole in moves:
            for tensor in self._by_slot():
                tensor[hole, :, :length] = tensor[source, :, :length]
            for whole in (self.query_ring, self.kept_positions):
                if whole is not None:
                    whole[hole] = whole[source]
        if self.kept_positions is not None:
            self.kept_positions = self.kept_positions[:left]
        if left <= self.rows // 2:
            self.reallocate(length, rows=left)

    def shift(self, rows: int, by: int, length: int) -> None:
        """Move the first `rows` rows by `by` slots (negative: to the left); `length` slots are in use afterwards."""
        for buffer in self._by_slot():
            live = buffer[:rows]
            if by > 0:
                live[:, :, by:length] = live[:, :, : length - by].clone()
                live[:, :, :by] = 0
            else:
                live[:, :, :length] = live[:, :, -by : length - by].clone()

    def append_rows(
        self, other: KVBuffers, before: int, after: int, length: int, its_length: int, oldest: int, its_oldest: int
    ) -> None:
        """Rows of other buffers become rows before..after, with their last token at slot `length` - 1 as all have.

        There must be room. length, its_length: slots in use here (already, see `shift`) and there. oldest, its_oldest: where
        the oldest query lies in either ring; afterwards it lies at 0.
        """
        if self.mass is None and other.mass is not None:
            self.mass = other.mass.new_zeros((self.rows, other.mass.shape[1], self.slots))
        lead = length - its_length
        pairs = ((self.keys, other.keys), (self.values, other.values), (self.mass, other.mass))
        for mine, its in pairs:
            if mine is None:
                continue
            mine[before:after, :, :lead] = 0
            mine[before:after, :, lead:length] = 0 if its is None else its[: after - before, :, :its_length]
        # Two rings are written at one place from here on, so both are turned to begin with the oldest.
        ring, its_ring = self.latest_queries(before, oldest), other.latest_queries(after - before, its_oldest)
        some = ring if ring is not None else its_ring
        if some is not None:
            self.query_ring = some.new_zeros((self.rows, *some.shape[1:]))
            if ring is not None:
                self.query_ring[:before] = ring
            if its_ring is not None:
                self.query_ring[before:after] = its_ring
        self._append_positions(other, before, after)

    def _append_positions(self, other: KVBuffers, before: int, after: int) -> None:
        mine, its = self.kept_positions, other.kept_positions
        some = mine if mine is not None else its
        if some is None:
            return
        mine = mine if mine is not None else some.new_full((before, some.shape[1], 1), -1)
        its = its if its is not None else some.new_full((after - before, some.shape[1], 1), -1)
        width = max(mine.shape[-1], its.shape[-1])
        self.kept_positions = torch.cat((_right_align(mine, width), _right_align(its, width)))

    # ---- sizes ----------------------------------------------------------------------------------------------------

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token of one row takes."""
        return sum(t.element_size() * t.shape[1] * t.shape[3] for t in (self.keys, self.values))

    @property
    def reserved_bytes(self) -> int:
        tensors = (*self._by_slot(), self.query_ring, self.kept_positions)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _index_of(slots: Tensor, buffer: Tensor) -> Tensor:
    """slots, long [B, g, n], as gather's index for a buffer [B, G, C, D], or [B, g, C]: the same for all of D, and for all
    heads where g is 1. Expanded, not copied."""
    if buffer.dim() == 4:
        return slots[..., None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
    return slots.expand(-1, buffer.shape[1], -1)


def _resized(old: Tensor, length: int, slots: int, rows: int | None, zeros: bool) -> Tensor:
    shape = [rows or old.shape[0], old.shape[1], max(slots, old.shape[2]), *old.shape[3:]]
    new = old.new_zeros(shape) if zeros else old.new_empty(shape)
    kept = min(old.shape[0], shape[0])
    new[:kept, :, :length] = old[:kept, :, :length]
    return new


def _right_align(positions: Tensor, width: int) -> Tensor:
    """[..., n] -> [..., width], -1 before."""
    lack = width - positions.shape[-1]
    return positions if lack <= 0 else torch.nn.functional.pad(positions, (lack, 0), value=-1)
