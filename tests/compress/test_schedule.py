"""Schedules against a token-by-token simulation."""

from __future__ import annotations

import random
import subprocess
import sys
from fractions import Fraction

import pytest

from laconic.compress.schedule import Fixed, Never, Proportional, Schedule
from laconic.errors import LaconicError
from tests.reference import schedule as reference
from tests.reference.schedule import History


def agree(schedule: Schedule, history: History, prompt: int) -> None:
    """Every method at every count equals what the simulation saw."""
    most, total = 0, 0
    for t in range(len(history.held)):
        most = max(most, history.attended[t], history.held[t])
        total += prompt * (t > 0) + history.attended[t]
        assert schedule.rounds(t) == history.rounds[t]
        assert schedule.physical(t, prompt) == prompt + history.held[t]
        assert schedule.evicted(t) == t - history.held[t]
        assert schedule.peak(t, prompt) == prompt + most
        assert schedule.total(t, prompt) == total
        assert schedule.mean(t, prompt) == pytest.approx(total / t if t else prompt)
        due = next((b for b in history.boundaries if b > t), None)
        if due is not None:
            assert schedule.next_boundary(t) == due
        else:
            later = schedule.next_boundary(t)
            assert later is not None
            assert later >= len(history.held)
    for n, (candidates, kept) in enumerate(zip(history.candidates, history.kept, strict=True), start=1):
        assert schedule.candidates(n) == candidates
        assert schedule.kept(n) == kept


def test_proportional_equals_simulation() -> None:
    draw = random.Random(0)
    rounds = 0
    for _ in range(1500):
        ratio = draw.choice(
            [Fraction(1), Fraction(2), Fraction(3), Fraction(4), Fraction(8), Fraction(8, 5), Fraction(5, 2)]
        )
        share = draw.randint(1, 12)
        interval = ratio.numerator * share
        window = draw.randint(1, interval)
        given = int(ratio) if ratio.denominator == 1 and draw.random() < 0.5 else float(ratio)
        steps = draw.randint(0, 6 * interval)
        history = reference.proportional(interval, ratio, window, steps)
        agree(Proportional(interval, given, window), history, draw.choice([0, 1, 7, 100]))
        rounds += len(history.boundaries)
    assert rounds > 1000  # the simulation did compress


def test_fixed_equals_simulation() -> None:
    draw = random.Random(1)
    rounds = 0
    for _ in range(1500):
        budget = draw.randint(1, 30)
        window = draw.randint(1, budget)
        buffer = draw.randint(1, 20)
        history = reference.fixed(budget, buffer, window, draw.randint(0, 150))
        agree(Fixed(budget, buffer, window), history, draw.choice([0, 1, 7, 100]))
        rounds += len(history.boundaries)
    assert rounds > 1000


def test_closed_forms_equal_the_generic_ones_far_out() -> None:
    """Schedule's own walk over the compressions and Periodic's closed forms, at lengths no simulation reaches."""
    draw = random.Random(2)
    for _ in range(300):
        schedule: Schedule
        if draw.random() < 0.5:
            ratio = draw.choice([1, 2, 4, 8])
            interval = ratio * draw.randint(64, 1024)
            schedule = Proportional(interval, ratio, draw.randint(1, min(interval, 128)))
        else:
            budget = draw.randint(1, 4096)
            schedule = Fixed(budget, draw.randint(50, 4096), draw.randint(1, budget))
        t, prompt = draw.randint(0, 40_000), draw.randint(0, 1000)
        assert schedule.evicted(t) == Schedule.evicted(schedule, t)
        assert schedule.peak(t, prompt) == Schedule.peak(schedule, t, prompt)
        assert schedule.total(t, prompt) == Schedule.total(schedule, t, prompt)


def test_the_papers_numbers() -> None:
    rpc = Proportional(interval=4096, ratio=4, window=32)
    assert rpc.next_boundary(0) == 4128
    assert rpc.rounds(4127) == 0
    assert rpc.rounds(4128) == 1
    assert (rpc.candidates(1), rpc.kept(1)) == (4096, 1024)
    assert (rpc.candidates(8), rpc.kept(8)) == (7 * 1024 + 4096, 8192)
    assert rpc.physical(32768, prompt=128) == 128 + 7 * 1024 + 32 + (32768 - 32 - 7 * 4096)
    assert rpc.share == 1024


def test_ratio_of_one_compresses_on_time_and_evicts_nothing() -> None:
    schedule = Proportional(interval=16, ratio=1, window=4)
    assert schedule.next_boundary(0) == 20
    assert schedule.candidates(3) == schedule.kept(3) == 48
    assert schedule.physical(1000, 5) == 1005


def test_never() -> None:
    never = Never()
    assert never.window == 0
    assert never.rounds(10**9) == 0
    assert never.next_boundary(7) is None
    assert never.physical(100, 11) == never.peak(100, 11) == 111
    assert never.total(100, 11) == sum(11 + t for t in range(1, 101))
    assert never.mean(0, 11) == 11
    with pytest.raises(LaconicError, match="never compresses"):
        never.candidates(1)


def test_a_schedule_of_ones_own_needs_five_members() -> None:
    class Doubling(Schedule):
        """Halve the cache at 8, 16, 32, ... generated tokens."""

        window = 2

        def rounds(self, generated: int) -> int:
            return max(0, generated.bit_length() - 3)

        def next_boundary(self, generated: int) -> int:
            return max(8, 1 << generated.bit_length())

        def candidates(self, round: int) -> int:
            return (4 << round) - self.window - sum(self.candidates(n) - self.kept(n) for n in range(1, round))

        def kept(self, round: int) -> int:
            return self.candidates(round) // 2

    schedule = Doubling()
    cache = most = total = 0
    for t in range(1, 300):
        cache += 1
        most, total = max(most, cache), total + cache
        if t in (8, 16, 32, 64, 128, 256):
            cache = (cache - 2) // 2 + 2
        assert schedule.physical(t) == cache
        assert schedule.peak(t, 3) == 3 + most
        assert schedule.total(t) == total


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proportional(ratio=0.5), "ratio is 0.5; expected a number at least 1"),
        (lambda: Proportional(ratio=0), "ratio is 0;"),
        (lambda: Proportional(ratio=float("nan")), "ratio is nan;"),
        (lambda: Proportional(ratio=float("inf")), "ratio is inf;"),
        (lambda: Proportional(ratio=True), "ratio is True;"),
        (lambda: Proportional(ratio="4"), "ratio is '4';"),  # type: ignore[arg-type]
        (lambda: Proportional(interval=16, window=32), "interval is 16, smaller than window 32"),
        (lambda: Proportional(window=True), "window is True; expected a whole number"),
        (lambda: Proportional(interval=0, window=1), "interval is 0;"),
        (lambda: Proportional(window=0), "window is 0; expected a whole number of at least 1"),
        (lambda: Proportional(interval=64.0), "interval is 64.0; expected a whole number"),  # type: ignore[arg-type]
        (lambda: Proportional(interval=1001), "use interval 1000 or 1004"),
        (lambda: Proportional(interval=33, ratio=8), "expected a multiple of 8: use interval 32 or 40"),
        (lambda: Proportional(interval=33, ratio=8, window=33), "use interval 40$"),
        (lambda: Proportional(interval=100, ratio=1.6), "expected a multiple of 8: use interval 96 or 104"),
        (lambda: Fixed(budget=0), "budget is 0; expected a whole number of at least 1"),
        (lambda: Fixed(buffer=0), "buffer is 0;"),
        (lambda: Fixed(window=0), "window is 0;"),
        (lambda: Fixed(budget=8, window=9), "window is 9, larger than budget 8"),
        (lambda: Fixed().candidates(0), "round is 0; expected a whole number of at least 1"),
        (lambda: Fixed().total(-1), "generated is -1;"),
        (lambda: Never().peak(-1), "generated is -1;"),
    ],
)
def test_refusals_name_field_value_and_range(make, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        make()


def test_the_suggested_intervals_work() -> None:
    for interval in (32, 40):
        assert Proportional(interval, 8, 32).share == interval // 8


def test_schedules_need_no_torch() -> None:
    code = "import sys, laconic.compress.schedule; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("schedule", [Proportional(interval=8, ratio=4, window=4), Never()], ids=["rpc", "never"])
def test_spans_end_at_the_compression_points_and_make_up_the_whole(schedule: Schedule) -> None:
    for generated in range(60):
        points = [t for t in range(1, generated + 1) if schedule.rounds(t) > schedule.rounds(t - 1)]
        assert schedule.compression_points(generated) == points
        spans = schedule.spans(generated)
        assert [t for start, end in spans for t in range(start, end)] == list(range(generated))
        assert all(start < end for start, end in spans)
        assert [end for _, end in spans if end != generated or end in points] == points
