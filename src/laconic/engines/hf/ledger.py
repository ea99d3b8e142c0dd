"""Which slots of the batch belong to which row, and when each row compresses: integers shared by all compressible layers.

All rows end at the same slot, so that one step appends at one place for every row:

    row 0:  [ ---- | prompt | generated, what is left of it ]
    row 1:  [ prompt        | generated, what is left of it ]
                                                            ^ length

Leading slots of a shorter row are junk that a validity mask hides. All compressible layers hold the same number of tokens;
only *which* tokens stay differs from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.compress.schedule import Schedule
from laconic.errors import InputError

GROWTH_STEP = 4096


@dataclass(slots=True)
class RowSlots:
    """One row of the batch. prompt: slots that hold its prompt (padding inside it included), never evicted.

    generated: tokens whose KV has been computed; held: of those, tokens still in the cache; compressed_at: `generated`
    at the last compression; number: a stable number of the trace; limit: tokens it may generate, if known.
    """

    prompt: int = 0
    generated: int = 0
    held: int = 0
    compressed_at: int = 0
    number: int = 0
    limit: int | None = None
    pads: int = 0

    @property
    def slots(self) -> int:
        return self.prompt + self.held

    @property
    def tokens(self) -> int:
        return self.prompt + self.held - self.pads


@dataclass(frozen=True, slots=True)
class Eviction:
    """What one compression does to every layer. Lists run over the due rows.

    length, new_length: slots in use before and after. candidates, keep: tokens scored and kept; since: tokens generated
    after the row's previous compression. uniform: all rows of the batch are due and alike, so their prompts stay in place.
    """

    due: tuple[int, ...]
    prompt: tuple[int, ...]
    candidates: tuple[int, ...]
    keep: tuple[int, ...]
    since: tuple[int, ...]
    generated: tuple[int, ...]
    window: int
    length: int
    new_length: int
    uniform: bool


class Ledger:
    """The bookkeeping of one batch.

    A forward pass calls `begin_pass` before its first layer writes, `end_pass` once all have read.
    """

    def __init__(self, schedule: Schedule, queries: int, prompt: int | None = None, limit: int | None = None) -> None:
        self.schedule = schedule
        self.queries = queries
        self.rows: list[RowSlots] = []
        self.length = 0
        self.logical_length = 0
        self.write_at = 0
        self.capture = False
        self.ring_at = 0
        self.ring_next = 0
        self.eviction: Eviction | None = None
        self.in_step = self.broken = False
        self.prompt_left = prompt
        self.limit = limit
        self.tokens = 0
        self._to_compression: int | None = None
        self._valid: dict[torch.device, Tensor] = {}  # layers may lie on several devices
        self._prompt_mask: Tensor | None = None
        # counted for the run's statistics
        self.steps = 0
        self.compressions = 0
        self.evicted = 0
        self.kept = 0
        self.peak_tokens = 0
        self.token_steps = 0

    # ---- one step -------------------------------------------------------------------------------------------------

    def begin_pass(self, batch: int, q: int) -> None:
        """Account for `q` new tokens in each of `batch` rows and plan what the step has to do once it has attended."""
        if self.broken:
            raise InputError(
                "an earlier forward pass on this compressed KV cache ended half-way, so some layers hold its tokens and some "
                "don't: make a new one (call generate anew)"
            )
        if not self.rows:
            self.rows = [RowSlots(number=i, limit=self.limit) for i in range(batch)]
        if batch != len(self.rows):
            raise InputError(f"the batch has {batch} rows, but the compressed KV cache holds {len(self.rows)}")
        self.write_at = self.length
        self.in_step = True
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
            self.eviction = self._plan_eviction()
            if self.eviction is None:
                self._to_compression = self._count_to_compression()

    def _take_prompt(self, q: int) -> None:
        if self.prompt_left is not None and q > self.prompt_left:
            raise InputError(
                f"a forward pass of {q} tokens goes beyond the prompt, of which {self.prompt_left} are left"
            )
        self.prompt_left = 0 if self.prompt_left is None else self.prompt_left - q
        for row in self.rows:
            row.prompt += q
        self.capture = False
        self.refresh()

    def _take_generated(self, q: int) -> None:
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
        self.capture = left is not None and self.queries > 0 and left < self.queries
        if self.capture:
            self.ring_at = self.ring_next
            self.ring_next = (self.ring_at + min(q, self.queries)) % self.queries

    def fail_pass(self) -> None:
        """The pass ended half-way: what the layers hold is not whole any more."""
        self.broken = self.in_step

    def end_pass(self) -> None:
        """All layers have attended, and evicted if that was planned."""
        self.in_step = False
        plan, self.eviction = self.eviction, None
        if plan is None:
            return
        for index, candidates, keep in zip(plan.due, plan.candidates, plan.keep, strict=True):
            row = self.rows[index]
            row.held = keep + plan.window
            row.compressed_at = row.generated
            self.evicted += candidates - keep
            self.kept += keep + plan.window
        self.compressions += len(plan.due)
        self.length = plan.new_length
        self.refresh()

    def _plan_eviction(self) -> Eviction | None:
        """None if nothing has to go (a ratio of 1)."""
        schedule, window = self.schedule, self.schedule.window
        due = [i for i, row in enumerate(self.rows) if row.held > schedule.physical(row.generated)]
        if not due:
            return None
        rounds = [schedule.rounds(self.rows[i].generated) for i in due]
        keep = [schedule.kept(r) for r in rounds]
        rows = [self.rows[i] for i in due]
        candidates = [row.held - window for row in rows]
        new_slots = [row.slots for row in self.rows]
        for i, have, stay in zip(due, candidates, keep, strict=True):
            new_slots[i] -= have - stay
        first = rows[0]
        uniform = len(due) == len(self.rows) and all(
            (row.prompt, row.generated, row.held) == (first.prompt, first.generated, first.held) for row in rows
        )
        need = max(new_slots)
        if uniform:  # prompts stay where they are, with the slack before them, if any
            new_length = self.length - (candidates[0] - keep[0])
        elif len(due) == len(self.rows) or self.length - need >= max(16, self.length // 8):
            new_length = need
        else:  # rows that are not due would have to move, which is not worth the copy
            new_length = self.length
        return Eviction(
            due=tuple(due),
            prompt=tuple(row.prompt for row in rows),
            candidates=tuple(candidates),
            keep=tuple(keep),
            since=tuple(row.generated - row.compressed_at for row in rows),
            generated=tuple(row.generated for row in rows),
            window=window,
            length=self.length,
            new_length=new_length,
            uniform=uniform,
        )

    # ---- lengths and masks ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Recompute what depends on the set of rows: tokens held, steps to the next compression, the validity mask."""
        self.tokens = sum(row.tokens for row in self.rows)
        self._to_compression = self._count_to_compression()
        self._valid = {}

    def _count_to_compression(self) -> int | None:
        ahead = [self.schedule.next_boundary(row.generated) for row in self.rows]
        steps = [b - row.generated for b, row in zip(ahead, self.rows, strict=True) if b is not None]
        return min(steps) if steps else None

    def tokens_to_compression(self) -> int | None:
        """Generated tokens that one forward pass may hold without crossing a compression point; None is no limit."""
        return self._to_compression

    def set_prompt_mask(self, mask: Tensor | None, width: int) -> None:
        """mask: bool [B, >= width], False at padding, as transformers shows it at each forward pass of the prompt.

        width: slots of the prompt, this pass included.
        """
        if mask is None or bool(mask[:, :width].all()):
            return
        self._prompt_mask = mask[:, :width]
        self._valid = {}
        if not self.rows:
            self.rows = [RowSlots(number=i, limit=self.limit) for i in range(mask.shape[0])]
        for row, pads in zip(self.rows, (~self._prompt_mask).sum(-1).tolist(), strict=True):
            row.pads = pads

    @property
    def ragged(self) -> bool:
        return self._prompt_mask is not None or any(row.slots != self.length for row in self.rows)

    def validity(self, q: int, device: torch.device | str) -> Tensor | None:
        """bool [B, length + q] on `device`, True where a slot may be attended; None when all may."""
        device = torch.device(device)
        valid = self._valid.get(device)
        if valid is None:
            valid = self._valid[device] = self._build_valid(device)
        if valid.numel() == 0:
            return None
        need = self.length + q
        if valid.shape[1] < need:
            more = torch.ones((len(self.rows), need), dtype=torch.bool, device=device)
            valid = self._valid[device] = torch.cat((valid, more), dim=1)
        return valid[:, :need]

    def _build_valid(self, device: torch.device) -> Tensor:
        if not self.ragged:
            return torch.empty(0, dtype=torch.bool, device=device)
        starts = torch.tensor([self.length - row.slots for row in self.rows], device=device)
        width = 0 if self._prompt_mask is None else self._prompt_mask.shape[1]
        slots = torch.arange(max(self.length, width) + 64, device=device)
        valid = slots >= starts[:, None]
        if self._prompt_mask is not None:
            valid.scatter_(1, starts[:, None] + torch.arange(width, device=device), self._prompt_mask.to(device))
        return valid

    def slots_to_reserve(self) -> int:
        """Slots a buffer should have from here on: the schedule's peak, reached in doubling steps of generated tokens."""
        most = self.length
        for row in self.rows:
            ahead = max(GROWTH_STEP, 2 * row.generated)
            if row.limit is not None:
                ahead = min(ahead, max(row.limit, row.generated))
            most = max(most, row.prompt + self.schedule.peak(ahead))
        return most

    # ---- rows come and go -----------------------------------------------------------------------------------------

    def take_rows(self, indices: list[int]) -> None:
        """Rows `indices`, in that order, stay (a row may be named several times)."""
        picked = [self.rows[i] for i in indices]
        self.rows = [
            RowSlots(r.prompt, r.generated, r.held, r.compressed_at, r.number, r.limit, r.pads) for r in picked
        ]
        if self._prompt_mask is not None:
            self._prompt_mask = self._prompt_mask[indices]
        self.refresh()

    def remove_rows(self, leavers: Sequence[int]) -> list[int]:
        """Rows leave, and rows from the end fill the holes. Returns the order of those that remain."""
        order = order_without(len(self.rows), leavers)
        self.take_rows(order)
        return order

    def trim_slots(self) -> int:
        """Leading slots that no row needs any more, if they are worth the copy; the caller moves the content."""
        need = max((row.slots for row in self.rows), default=0)
        slack = self.length - need
        if slack < max(32, self.length // 4):
            return 0
        self.length = need
        self._valid = {}
        return slack

    def append_rows(self, other: Ledger) -> int:
        """Append the rows of another ledger. Returns how far the frame grows to the left, in slots."""
        if self._prompt_mask is not None or other._prompt_mask is not None:
            raise RuntimeError("batches with padding inside the prompt can't be joined")
        shift = max(0, other.length - self.length)
        self.length += shift
        self.logical_length = max(self.logical_length, other.logical_length)
        self.rows = self.rows + other.rows
        self.compressions += other.compressions
        self.evicted += other.evicted
        self.kept += other.kept
        self.steps += other.steps
        self.token_steps += other.token_steps
        self.refresh()
        self.peak_tokens = max(self.peak_tokens, self.tokens)
        return shift


def order_without(rows: int, leavers: Sequence[int]) -> list[int]:
    """Which of `rows` rows stand where once the leavers have left: each hole is filled by a row from the end, so that as few
    rows as possible move."""
    left = rows - len(set(leavers))
    order = list(range(left))
    holes = [i for i in sorted(set(leavers)) if i < left]
    from_the_end = [i for i in range(left, rows) if i not in set(leavers)]
    for source, hole in zip(from_the_end, holes, strict=True):
        order[hole] = source
    return order
