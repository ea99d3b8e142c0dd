"""The buffers of a layer by themselves, against lists of tokens for each row that are moved one by one."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laconic.compress import RPC
from laconic.compress.thoughts import ThoughtsOf, ThoughtTokens
from laconic.engines.hf.buffers import KVBuffers
from laconic.engines.hf.slots import RowSlots, order_without, plan_eviction

HEADS, QUERY_HEADS, SIZE, RING = 2, 4, 3, 4


class SlowRows:
    """Rows as lists: of each KV head, (key, value, attention received); no slots, no junk, no spare."""

    def __init__(self, rows: list[list[list[tuple[float, float, float]]]]) -> None:
        self.rows = rows  # [row][head][token]

    def evict(self, row: int, prompt: int, keep: list[list[int]], candidates: int) -> None:
        """keep: of each head, which of the `candidates` after the prompt stay; all later ones stay too."""
        for head, tokens in enumerate(self.rows[row]):
            middle = [tokens[prompt + i] for i in keep[head]]
            self.rows[row][head] = tokens[:prompt] + middle + tokens[prompt + candidates :]


class Pair:
    """The buffers and the slow rows, fed alike. Every written number is new, so none can stand in for another."""

    def __init__(self, lengths: list[int], spare_rows: int, slots: int) -> None:
        self.count = 0.0
        self.length = max(lengths)
        self.slow = SlowRows([[[] for _ in range(HEADS)] for _ in lengths])
        shape = torch.zeros(len(lengths), HEADS, 1, SIZE)
        self.fast = KVBuffers.allocate(shape, shape, len(lengths) + spare_rows, max(slots, self.length))
        self.fast.keys.fill_(float("nan"))  # what was never written must never be seen
        self.fast.values.fill_(float("nan"))
        for slot in range(self.length):
            self.step([slot >= self.length - length for length in lengths], slot)

    def step(self, taken: list[bool] | None = None, slot: int | None = None) -> None:
        """One token in each row; those of rows that are not `taken` are junk."""
        if slot is None:
            slot, self.length = self.length, self.length + 1
        if self.length > self.fast.slots:
            self.fast.reallocate(slot, slots=self.length + 2)
        batch = len(self.slow.rows)
        first = torch.arange(batch * HEADS, dtype=torch.float32).reshape(batch, HEADS) + self.count
        self.count += 1000.0
        keys = first[..., None, None].expand(-1, -1, 1, SIZE)
        self.fast.append(keys, keys + 0.25, slot)
        received = torch.zeros(batch, HEADS, slot + 1)
        received[..., slot] = first + 0.5
        self.fast.add_mass(received, slot)
        for row in range(batch):
            if taken is None or taken[row]:
                for head in range(HEADS):
                    x = float(first[row, head])
                    self.slow.rows[row][head].append((x, x + 0.25, x + 0.5))

    def check(self) -> None:
        assert self.fast.mass is not None
        for row, heads in enumerate(self.slow.rows):
            for head, tokens in enumerate(heads):
                at = slice(self.length - len(tokens), self.length)
                want = torch.tensor(tokens).reshape(-1, 3)
                for column, buffer in enumerate((self.fast.keys[..., 0], self.fast.values[..., -1], self.fast.mass)):
                    assert torch.equal(buffer[row, head, at], want[:, column]), (row, head, column)
        finite = torch.isfinite(self.fast.values[: len(self.slow.rows), :, : self.length])
        assert bool(finite.all()), "junk that is not finite makes NaN of what is attended"


@st.composite
def evictions(draw: st.DrawFn) -> tuple[list[RowSlots], RPC]:
    """Rows of which the first is due at least; others at once with it, at another count, or not."""
    interval, window = draw(st.sampled_from([4, 8, 32])), draw(st.integers(1, 4))
    policy = RPC(interval=interval, ratio=draw(st.sampled_from([2, 4])), window=window)
    first, rows = policy.schedule.next_boundary(0), []
    assert first is not None
    for number in range(draw(st.integers(1, 4))):
        generated = first + interval * draw(st.integers(0, 1))
        if number and draw(st.booleans()):
            generated = first - draw(st.integers(1, first - 1))  # not due yet
        prompt = draw(st.integers(1, 20))
        rows.append(RowSlots(prompt=prompt, generated=generated, held=generated, schedule=policy.schedule))
    return rows, policy


@settings(max_examples=150, deadline=None)
@given(evictions(), st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_an_eviction_keeps_what_was_chosen_the_window_and_the_prompt(case, rng, by_head, alike) -> None:
    rows, policy = case
    if alike:
        rows = [rows[0] for _ in rows]
    pair = Pair([row.slots for row in rows], spare_rows=1, slots=70)
    eviction = plan_eviction(rows, policy.schedule.window, pair.length)
    assert eviction is not None
    groups, widest, most = HEADS if by_head else 1, eviction.widest, max(eviction.keep)
    slots = torch.zeros(len(eviction.due), groups, most, dtype=torch.long)
    for i, (candidates, keep) in enumerate(zip(eviction.candidates, eviction.keep, strict=True)):
        chosen = [sorted(rng.sample(range(candidates), keep)) for _ in range(groups)]
        for g in range(groups):
            slots[i, g, most - keep :] = torch.tensor(chosen[g], dtype=torch.long) + widest - candidates
        pair.slow.evict(eviction.due[i], rows[eviction.due[i]].prompt, chosen * (HEADS // groups), candidates)
    positions = torch.zeros(len(eviction.due), groups, most + eviction.window, dtype=torch.long)
    pair.fast.evict(eviction, len(rows), slots, positions)
    pair.length = eviction.new_length
    pair.check()
    pair.step()
    pair.check()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 3),
    st.data(),
)
def test_rows_leave_join_and_are_copied(lengths, joining, spare, data) -> None:
    pair = Pair(lengths, spare, slots=data.draw(st.integers(1, 14)))
    leavers = data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=len(lengths) - 1))
    order = order_without(len(lengths), sorted(leavers))
    assert set(order) == set(range(len(lengths))) - leavers
    moves = [(source, hole) for hole, source in enumerate(order) if source != hole]
    assert len(moves) <= len(leavers)
    pair.fast.fill_holes(moves, len(order), pair.length)
    pair.slow.rows = [pair.slow.rows[i] for i in order]
    pair.check()

    slack = pair.length - max(len(heads[0]) for heads in pair.slow.rows)
    if slack:
        pair.length -= slack
        pair.fast.shift(len(order), -slack, pair.length)
        pair.check()

    other = Pair(joining, 0, slots=1)
    other.count = 1e6
    before, after = len(order), len(order) + len(joining)
    shift = max(0, other.length - pair.length)
    pair.fast.reallocate(pair.length, slots=pair.length + shift, rows=max(after, pair.fast.rows))
    pair.length += shift
    if shift:
        pair.fast.shift(before, shift, pair.length)
    pair.fast.append_rows(other.fast, before, after, pair.length, other.length, 0, 0)
    pair.slow.rows += other.slow.rows
    pair.check()
    pair.step()
    pair.check()

    picked = data.draw(st.lists(st.integers(0, after - 1), min_size=1, max_size=4))
    twin = pair.fast.take_rows(picked)
    held = pair.fast
    pair.fast, rows = twin, pair.slow.rows
    pair.slow.rows = [[list(head) for head in rows[i]] for i in picked]
    pair.check()
    pair.step()
    pair.check()
    pair.fast, pair.slow.rows, pair.length = held, rows, pair.length - 1
    pair.check()


def _feed(buffers: KVBuffers, latest: list[Tensor], at: int, q: int, rows: int) -> int:
    query = torch.randn(rows, QUERY_HEADS, q, SIZE)
    buffers.capture_queries(query, RING, at, rows=0)
    latest += [query[:, :, i] for i in range(q)]
    return (at + min(q, RING)) % RING


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_the_ring_gives_the_latest_queries_oldest_first(one, other) -> None:
    state = torch.zeros(2, HEADS, 1, SIZE)
    found = []
    for passes in (one, other):
        buffers, at = KVBuffers.allocate(state, state, 5, 4), 0
        latest: list[Tensor] = []
        assert buffers.latest_queries(2, 0) is None
        for q in passes:
            at = _feed(buffers, latest, at, q, rows=2)
        have = torch.stack(latest[-RING:], dim=2)
        ring = buffers.latest_queries(2, at)
        assert ring is not None
        assert torch.equal(ring[:, :, RING - have.shape[2] :], have)
        found.append((buffers, at, ring.clone()))
    (mine, at, ring), (its, its_at, its_ring) = found
    mine.append_rows(its, 2, 4, 1, 1, at, its_at)
    joined = mine.latest_queries(4, 0)
    assert joined is not None
    assert torch.equal(joined, torch.cat((ring, its_ring)))


def test_positions_of_rows_that_compress_at_different_times_stay_right_aligned() -> None:
    state = torch.zeros(2, 1, 8, SIZE)
    buffers = KVBuffers.allocate(state, state, 2, 8)
    schedule = RPC(interval=4, ratio=2, window=1).schedule
    due = schedule.next_boundary(0)
    assert due == 5
    rows = [RowSlots(prompt=1, generated=n, held=n, schedule=schedule) for n in (5, 2)]
    eviction = plan_eviction(rows, schedule.window, 6)
    assert eviction is not None
    assert eviction.due == (0,)
    slots = torch.tensor([[list(range(eviction.keep[0]))]])
    positions = torch.tensor([[[*range(eviction.keep[0]), 4]]])
    buffers.evict(eviction, 2, slots, positions)
    assert buffers.kept_positions is not None
    assert buffers.kept_positions.tolist() == [[[*range(eviction.keep[0]), 4]], [[-1] * (eviction.keep[0] + 1)]]
    held = eviction.keep[0] + 1
    assert buffers.held_positions(0, 7, 5, held + 2).tolist() == [[*range(eviction.keep[0]), 4, 5, 6]]
    assert buffers.held_positions(1, 2, 0, 2).tolist() == [[0, 1]]


def test_rows_of_one_length_that_keep_unlike_numbers_are_not_taken_for_alike() -> None:
    """Schedules that read tokens: how many thoughts a row has had says what it keeps."""
    tokens = ThoughtTokens(splitter=9, cache=(1, 2, 3), go_on=4)
    mark = [9, 1, 2, 3, 4]
    twice = [5] * 9 + mark + [5] * 11 + mark
    thrice = [5] * 4 + mark + [5] * 5 + mark + [5] * 6 + mark
    schedules = [ThoughtsOf(tokens, text) for text in (twice, thrice)]
    rows, at = [], len(twice) - 1
    for schedule in schedules:
        assert schedule.points()[-1] == at
        rows.append(RowSlots(prompt=5, generated=at, held=18, schedule=schedule))
    eviction = plan_eviction(rows, 3, 23)
    assert eviction is not None
    assert eviction.keep == (4, 8)
    assert not eviction.uniform
    assert eviction.new_length >= 5 + 8 + 3


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.booleans(), st.integers(1, 6), st.data())
def test_a_token_that_goes_leaves_its_slot_to_the_newest(batch, by_head, steps, data) -> None:
    prompts = [data.draw(st.integers(1, 4)) for _ in range(batch)]
    held = data.draw(st.integers(2, 6))
    pair = Pair([prompt + held for prompt in prompts], spare_rows=1, slots=data.draw(st.integers(1, 14)))
    groups, generated = HEADS if by_head else 1, held
    positions = torch.arange(held).expand(batch, groups, -1)
    for _ in range(steps):
        pair.step()
        generated += 1
        first, newest = pair.length - 1 - held, pair.length - 1
        chosen = torch.tensor([[data.draw(st.integers(0, held - 1)) for _ in range(groups)] for _ in range(batch)])
        for row, prompt in enumerate(prompts):
            for head in range(HEADS):
                tokens = pair.slow.rows[row][head]
                tokens[prompt + int(chosen[row, head % groups])] = tokens.pop()
        gone = chosen[..., None]
        positions = positions.scatter(-1, gone, torch.full_like(gone, generated - 1))
        pair.fast.replace(batch, pair.length, gone + first, positions)
        pair.length = newest
        pair.check()
        for row in range(batch):
            assert (
                pair.fast.held_positions(row, generated, generated, held).tolist()
                == positions[row].sort(-1).values.tolist()
            )
    pair.step()  # one more, which nothing was given up for
    assert pair.fast.put_in_order(batch, pair.length - 1) is not None
    for row, prompt in enumerate(prompts):
        for head in range(HEADS):
            tokens = pair.slow.rows[row][head]
            order = positions[row, head % groups].argsort().tolist()
            tokens[prompt:-1] = [tokens[prompt + i] for i in order]
    pair.check()
    assert pair.fast.kept_positions is not None
    assert torch.equal(pair.fast.kept_positions, positions.sort(-1).values)
    assert pair.fast.put_in_order(batch, pair.length - 1) is None
