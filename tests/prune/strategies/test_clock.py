"""The clock, on a clock of our own."""

from __future__ import annotations

import pytest

from laconic.prune.strategies import clock


def test_time_goes_to_the_phase_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    made = clock.Clock()
    assert (made.total, made.seconds) == (0.0, {})
    made.go("explore")
    now[0] = 2.0
    assert made.total == 2.0
    with made.during("judge"):
        now[0] = 5.0
    now[0] = 6.0
    made.stop()
    now[0] = 100.0  # whoever iterates is at work
    assert made.total == 6.0
    with made.during("vote"):
        now[0] = 101.0
    now[0] = 200.0  # it stood still before, and does so again
    assert made.seconds == {"explore": 3.0, "judge": 3.0, "vote": 1.0}
    made.go()
    now[0] = 204.0
    made.go("finish")
    now[0] = 205.0
    made.stop()
    assert made.seconds == {"explore": 7.0, "judge": 3.0, "vote": 1.0, "finish": 1.0}
    assert made.total == 12.0
