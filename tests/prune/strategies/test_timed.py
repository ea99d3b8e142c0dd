"""A run that the clock ends: against the same run that is interrupted at that step by hand."""

from __future__ import annotations

import itertools

import pytest

from laconic.errors import LaconicError
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.self_consistency import SelfConsistency
from laconic.prune.strategies.timed import TimedRun
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.prune.test_calibration import calibration

SCRIPTS = [Script(4 + 3 * i, str(i % 2), confidence=(1.0,)) for i in range(8)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes at each look."""
    ticks = itertools.count()
    monkeypatch.setattr("laconic.prune.strategies.timed.time.monotonic", lambda: float(next(ticks)))


@pytest.mark.parametrize("steps", [1, 7, 12])
def test_the_verdict_is_that_of_the_step_at_which_time_was_up(clock: None, steps: int) -> None:
    by_hand = SelfConsistency(8).begin(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    for _ in itertools.islice(by_hand, steps):
        pass
    want = by_hand.interrupt()
    run = TimedRun(SelfConsistency(8).begin(ScriptedEngine(SCRIPTS), "why?", SAMPLING), float(steps))
    assert len(list(run)) == steps
    got = run.verdict()
    assert not want.complete
    assert got.complete
    assert (got.answer, got.votes, got.tokens) == (want.answer, want.votes, want.tokens)
    assert [trace.fate for trace in got.traces] == [trace.fate for trace in want.traces]
    done = sum(trace.fate == "finished" for trace in want.traces)
    assert got.note.startswith(f"ended after {steps} s, when {done} of 8 traces had come to their ends")
    assert got.note.endswith(": allow more time") == (got.answer is None)
    assert run.interrupt() == got


def test_a_run_that_is_over_in_time_stays_as_it_is(clock: None) -> None:
    want = SelfConsistency(8).solve(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    run = TimedRun(SelfConsistency(8).begin(ScriptedEngine(SCRIPTS), "why?", SAMPLING), 1000.0)
    for _ in run:
        pass
    got = run.verdict()
    assert (got.answer, got.votes, got.note, got.complete) == (want.answer, want.votes, want.note, True)


def test_auto_with_a_budget_of_time(clock: None) -> None:
    made = Auto(8, calibration(), "9 s")
    assert made.seconds == 9
    assert made.chosen() == SelfConsistency(8, ties="confidence")
    verdict = made.solve(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    assert verdict.complete
    assert "ended after 9 s" in verdict.note
    whole = Auto(8, calibration(), "900s").solve(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    assert whole.note == "all 8 traces at once, for at most 900 s"
    assert Auto(8, calibration(), "4x").seconds is None


@pytest.mark.parametrize("spend", ["0s", "0.0 s", "-3s", "s", "3sec"])
def test_times_that_are_none(spend: str) -> None:
    with pytest.raises(LaconicError, match=r"spend is 0|is neither"):
        Auto(8, calibration(), spend)


def test_all_that_ended_in_the_step_in_which_time_was_up_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in turn is the one behind which the clock is looked at."""
    for looks in range(1, 12):
        ticks = itertools.count()
        monkeypatch.setattr(
            "laconic.prune.strategies.timed.time.monotonic",
            lambda ticks=ticks, looks=looks: float(next(ticks) >= looks),
        )
        scripts = [Script(5, "3"), Script(5, "4"), Script(5, "4")]
        run = TimedRun(SelfConsistency(3, early_end=False).begin(ScriptedEngine(scripts), "why?", SAMPLING), 1.0)
        for _ in run:
            pass
        verdict = run.verdict()
        done = [trace for trace in verdict.traces if trace.fate == "finished"]
        assert sum(len(vote.traces) for vote in verdict.votes) == len(done)
        assert verdict.answer == (verdict.plain.answer if verdict.plain else None)
        if len(done) == 3:
            assert verdict.answer == "4"
