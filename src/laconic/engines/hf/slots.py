"""What one row of a batch has, and what one compression does to the batch: integers, and the plan that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from laconic.compress.schedule import Never, Schedule


@dataclass(slots=True)
class RowSlots:
    """What one row of the batch, a sequence, has in each compressible layer."""

    prompt: int = 0
    """Slots of its prompt, padding inside it included. Never evicted."""
    generated: int = 0
    """Generated tokens whose KV has been computed, evicted or not."""
    held: int = 0
    """Generated tokens that are still in the cache."""
    compressed_at: int = 0
    """`generated` at the last compression; 0 before the first."""
    number: int = 0
    """Of its trace, the same for as long as the trace lives: rows change their places, traces keep their numbers."""
    draw_key: int | None = None
    """What policies that draw go by, 32 bits; None: the number."""
    limit: int | None = None
    """Tokens it may generate, where that is known. Sizes buffers, nothing else."""
    pads: int = 0
    """Of the prompt's slots, those that are padding."""
    schedule: Schedule = field(default_factory=Never)
    """Its trace's (`Schedule.of`)."""

    @property
    def drawn_by(self) -> int:
        """What policies that draw go by."""
        return self.number if self.draw_key is None else self.draw_key

    @property
    def slots(self) -> int:
        return self.prompt + self.held

    @property
    def tokens(self) -> int:
        return self.prompt + self.held - self.pads


@dataclass(frozen=True, slots=True)
class Eviction:
    """What one compression does to every layer. The tuples have an entry for each row that is due."""

    due: tuple[int, ...]
    """The rows that compress now."""
    prompt: tuple[int, ...]
    """Slots of the row's prompt."""
    candidates: tuple[int, ...]
    """Tokens that are scored: all generated ones that are held, but the window."""
    keep: tuple[int, ...]
    """Of the candidates, how many stay."""
    since: tuple[int, ...]
    """Tokens generated after the row's previous compression."""
    generated: tuple[int, ...]
    """All tokens that the row has generated."""
    window: int
    """The latest tokens, which stay without being scored."""
    length: int
    """Slots in use before."""
    new_length: int
    """Slots in use afterwards."""
    uniform: bool
    """All rows of the batch are due and alike, so that their prompts can stay where they are."""
    one_each: bool
    """All rows of the batch are due and give up one token each, so that the newest can take its slot and nothing else moves."""

    @property
    def widest(self) -> int:
        """The most candidates of a row; those of rows with fewer are right-aligned."""
        return max(self.candidates)

    @property
    def lowest(self) -> int:
        """The first slot of the widest row's candidates."""
        return self.length - self.window - self.widest

    def all_but_newest(self) -> Eviction:
        """The same with all tokens but the newest as candidates, those of the window too: where each row gives up one, slots
        lie in no order and the window can't be told by its place."""
        more = self.window - 1
        candidates, keep = (tuple(count + more for count in counts) for counts in (self.candidates, self.keep))
        return replace(self, candidates=candidates, keep=keep, window=1)


def plan_eviction(rows: Sequence[RowSlots], window: int, length: int) -> Eviction | None:
    """The eviction of the rows that hold more than their schedules allow; None if there are none (a ratio of 1, say).

    window: of all schedules. length: slots in use, those of this pass included. A row is due by what it *holds*, not because
    its neighbours are: rows that joined at different counts compress at different steps.
    """
    due = [i for i, row in enumerate(rows) if row.held > row.schedule.physical(row.generated)]
    if not due:
        return None
    of_due = [rows[i] for i in due]
    keep = [row.schedule.kept(row.schedule.rounds(row.generated)) for row in of_due]
    candidates = [row.held - window for row in of_due]
    first = of_due[0]
    # Schedules that read tokens keep unlike numbers at one length.
    uniform = len(due) == len(rows) and all(
        (row.prompt, row.generated, row.held, stay) == (first.prompt, first.generated, first.held, keep[0])
        for row, stay in zip(of_due, keep, strict=True)
    )
    one_each = len(due) == len(rows) and all(have - stay == 1 for have, stay in zip(candidates, keep, strict=True))
    if uniform:  # prompts stay where they are, with the slack before them, if any
        new_length = length - (candidates[0] - keep[0])
    else:
        slots = [row.slots for row in rows]
        for i, have, stay in zip(due, candidates, keep, strict=True):
            slots[i] -= have - stay
        need = max(slots)
        # Rows that are not due would have to move to the left with the end, which is not worth the copy for a few slots.
        worth_it = len(due) == len(rows) or length - need >= max(16, length // 8)
        new_length = need if worth_it else length
        one_each = one_each and new_length == length - 1  # else there is slack, which goes first
    return Eviction(
        due=tuple(due),
        prompt=tuple(row.prompt for row in of_due),
        candidates=tuple(candidates),
        keep=tuple(keep),
        since=tuple(row.generated - row.compressed_at for row in of_due),
        generated=tuple(row.generated for row in of_due),
        window=window,
        length=length,
        new_length=new_length,
        uniform=uniform,
        one_each=one_each,
    )


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
