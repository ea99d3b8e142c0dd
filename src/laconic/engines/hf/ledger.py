"""Which slots of the batch belong to which row, and when each row compresses: integers shared by all compressible layers.

All rows end at the same slot, so that one step appends at one place for every row:

    row 0:  [ ---- | prompt | generated, what is left of it ]
    row 1:  [ prompt        | generated, what is left of it ]
                                                            ^ length

Leading slots of a shorter row are junk that a validity mask hides. All compressible layers hold the same number of tokens;
only *which* tokens stay differs from layer to layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laconic.compress.schedule import Never, Schedule
from laconic.engines.hf.slots import Eviction, RowSlots, order_without, plan_eviction
from laconic.engines.hf.validity import ValidityMask
from laconic.errors import InputError

GROWTH_STEP = 4096
"""Generated tokens for which buffers are made at first, and which they at least double from then on."""


class Ledger:
    """The bookkeeping of one batch.

    A forward pass calls `begin_pass` before its first layer writes, `end_pass` once all have read.
    """

    def __init__(self, schedule: Schedule, queries: int, prompt: int | None = None, limit: int | None = None) -> None:
        self.schedule = schedule
        self.queries = queries  # the latest ones that the scorer reads
        self.prompt_left = prompt  # slots of the prompt that are still to be fed; None: the first pass is the prompt
        self.limit = limit  # of rows that the first pass makes
        self.rows: list[RowSlots] = []
        self.length = 0  # slots in use, the same for every row
        self.logical_length = 0  # as if nothing had been evicted, of the longest row
        self.tokens = 0  # held by all rows, in one layer
        # of the pass that runs
        self.in_pass = False
        self.broken = False  # a pass ended half-way
        self.write_at = 0  # the first slot that it writes
        self.captures_queries = False  # whether its queries may be read by a compression
        self.ring_at = 0  # where its first query goes in the ring of the latest queries
        self.ring_next = 0  # where the next pass's first goes: the oldest
        self.eviction: Eviction | None = None  # what has to be done once it has attended
        self._to_compression: int | None = None  # tokens a row, until one of them is due
        self._validity = ValidityMask()
        # counted for the run's statistics
        self.steps = 0
        self.compressions = 0
        self.evicted = 0
        self.kept = 0
        self.peak_tokens = 0
        self.token_steps = 0

    # ---- one forward pass -----------------------------------------------------------------------------------------

    def begin_pass(self, batch: int, q: int) -> None:
        """Account for `q` new tokens in each of `batch` rows and plan what the pass has to do once it has attended."""
        if self.broken:
            raise InputError(
                "an earlier forward pass on this compressed KV cache ended half-way, so some layers hold its tokens and some "
                "don't: make a new one (call generate anew)"
            )
        self._make_rows(batch)
        if batch != len(self.rows):
            raise InputError(f"the batch has {batch} rows, but the compressed KV cache holds {len(self.rows)}")
        self.write_at = self.length
        self.in_pass = True
        self.tokens += q * batch
        if self.prompt_left is None or self.prompt_left > 0:
            self._take_prompt(q)
        else:
            self._take_generated(q)
        self.length += q
        self.logical_length += q
        if self.prompt_left == 0 and self.rows[0].generated > 0:
            self.steps += 1
            self.token_steps += self.tokens
        self.peak_tokens = max(self.peak_tokens, self.tokens)
        if self._to_compression == 0:
            self.eviction = plan_eviction(self.rows, self.schedule.window, self.length)
            if self.eviction is None:  # nothing has to go: on to the next point
                self._to_compression = self._count_to_compression()

    def _make_rows(self, batch: int) -> None:
        if not self.rows:
            schedule = self.schedule.of(())
            self.rows = [RowSlots(number=i, limit=self.limit, schedule=schedule) for i in range(batch)]

    def _take_prompt(self, q: int) -> None:
        if self.prompt_left is not None and q > self.prompt_left:
            raise InputError(
                f"a forward pass of {q} tokens goes beyond the prompt, of which {self.prompt_left} are left"
            )
        self.prompt_left = 0 if self.prompt_left is None else self.prompt_left - q
        for row in self.rows:
            row.prompt += q
        self.captures_queries = False
        self.refresh()

    def _take_generated(self, q: int) -> None:
        if self.schedule.reads_tokens:  # a token that was drawn since the last pass may have made one due
            self._to_compression = self._count_to_compression()
        left = self._to_compression
        if left is not None:
            if q > left:
                raise InputError(
                    f"a forward pass of {q} generated tokens crosses a compression point; feed at most {left}"
                )
            left -= q
            self._to_compression = left
        for row in self.rows:
            row.generated += q
            row.held += q
        # Only queries that the next compression will read are kept: of the rest nobody pays for a copy.
        self.captures_queries = left is not None and self.queries > 0 and left < self.queries
        if self.captures_queries:
            self.ring_at = self.ring_next
            self.ring_next = (self.ring_at + min(q, self.queries)) % self.queries

    def fail_pass(self) -> None:
        """The pass ended half-way: what the layers hold is not whole any more."""
        self.broken = self.in_pass

    def end_pass(self) -> None:
        """All layers have attended, and evicted if that was planned."""
        self.in_pass = False
        eviction, self.eviction = self.eviction, None
        if eviction is None:
            return
        for index, candidates, keep in zip(eviction.due, eviction.candidates, eviction.keep, strict=True):
            row = self.rows[index]
            row.held = keep + eviction.window
            row.compressed_at = row.generated
            self.evicted += candidates - keep
            self.kept += keep + eviction.window
        self.compressions += len(eviction.due)
        self.length = eviction.new_length
        self.refresh()

    # ---- lengths and masks ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Recompute what depends on the set of rows: tokens held, and their peak, tokens to the next compression, the validity
        mask."""
        self.tokens = sum(row.tokens for row in self.rows)
        self.peak_tokens = max(self.peak_tokens, self.tokens)
        self._to_compression = self._count_to_compression()
        self._validity.clear()

    def _count_to_compression(self) -> int | None:
        ahead = [row.schedule.next_boundary(row.generated) for row in self.rows]
        tokens = [at - row.generated for at, row in zip(ahead, self.rows, strict=True) if at is not None]
        return min(tokens) if tokens else None

    def tokens_to_compression(self) -> int | None:
        """Generated tokens that one forward pass may hold without crossing a compression point; None is no limit."""
        return self._to_compression

    def set_prompt_mask(self, mask: Tensor | None, width: int) -> None:
        """mask: bool [B, >= width], False at padding, as transformers shows it at each forward pass of the prompt.

        width: slots of the prompt, this pass included.
        """
        if mask is None or bool(mask[:, :width].all()):
            return
        self._make_rows(mask.shape[0])
        for row, pads in zip(self.rows, self._validity.set_prompt(mask[:, :width]), strict=True):
            row.pads = pads

    def validity(self, q: int, device: torch.device | str) -> Tensor | None:
        """bool [B, length + q] on `device`, True where a slot may be attended; None when all may."""
        return self._validity.of(self.rows, self.length, q, torch.device(device))

    def slots_to_reserve(self) -> int:
        """Slots a buffer should have from here on: the schedule's peak, reached in doubling steps of generated tokens.

        A row that may generate 32K tokens mostly ends long before: reserving for its limit would pay for what never comes.
        Doubling keeps the copies that growing costs below one copy of what is held in the end.
        """
        most = self.length
        for row in self.rows:
            ahead = max(GROWTH_STEP, 2 * row.generated)
            if row.limit is not None:
                ahead = min(ahead, max(row.limit, row.generated))
            most = max(most, row.prompt + row.schedule.peak(ahead))
        return most

    # ---- rows come and go -----------------------------------------------------------------------------------------

    def take_rows(self, indices: Sequence[int]) -> None:
        """Rows `indices`, in that order, stay (a row may be named several times)."""
        self.rows = [replace(self.rows[i]) for i in indices]
        self._validity.take_rows(indices)
        self.refresh()

    def remove_rows(self, leavers: Sequence[int]) -> list[int]:
        """Rows leave, and rows from the end fill the holes. Returns the order of those that remain."""
        order = order_without(len(self.rows), leavers)
        self.take_rows(order)
        return order

    def trim_slots(self) -> int:
        """Leading slots that no row needs any more, if they are worth the copy; the caller moves the content."""
        slack = self.length - max((row.slots for row in self.rows), default=0)
        if slack < max(32, self.length // 4):
            return 0
        self.length -= slack
        self._validity.clear()
        return slack

    def append_rows(self, other: Ledger) -> int:
        """Append the rows of another ledger. Returns by how many slots the rows that were here move to the right."""
        if self._validity.prompt is not None or other._validity.prompt is not None:
            raise RuntimeError("batches with padding inside the prompt can't be joined")
        shift, before = max(0, other.length - self.length), self.tokens
        self.length += shift
        self.logical_length = max(self.logical_length, other.logical_length)
        self.rows = self.rows + other.rows
        self.compressions += other.compressions
        self.evicted += other.evicted
        self.kept += other.kept
        self.steps += other.steps
        self.token_steps += other.token_steps
        self.refresh()
        # While the other's rows were computed, these were held beside them.
        self.peak_tokens = max(self.peak_tokens, before + other.peak_tokens, self.tokens)
        return shift

    def fork(self) -> Ledger:
        """A copy that can be changed without this one."""
        twin = copy.copy(self)
        twin._validity = copy.copy(self._validity)
        twin.rows = [replace(row) for row in self.rows]
        return twin

    def freeze(self) -> None:
        """No row compresses from here on, however far it is fed."""
        self.set_schedule(Never(), self.queries)

    def set_schedule(self, schedule: Schedule, queries: int) -> None:
        """From here on rows compress by `schedule`, whose scorer reads the latest `queries` queries."""
        self.schedule, self.queries = schedule, queries
        for row in self.rows:
            row.schedule = schedule.of(())
        self.refresh()
