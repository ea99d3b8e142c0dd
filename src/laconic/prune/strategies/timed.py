"""A run of a strategy that the clock ends: what has voted by then decides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from laconic.prune.strategies.base import Snapshot, StrategyProgress, StrategyRun
from laconic.prune.verdict import Verdict


class TimedRun(StrategyRun):
    """Ends a run `seconds` of wall time after its first step, at the end of the engine's step that it is in.

    The verdict then counts as complete, and its note says that the clock ended it. A run that is over before stays as it is.
    """

    def __init__(self, run: StrategyRun, seconds: float) -> None:
        self.run, self.seconds = run, seconds
        self._ended: Verdict | None = None

    def __iter__(self) -> Iterator[StrategyProgress]:
        end = time.monotonic() + self.seconds
        for progress in self.run:
            yield progress
            if time.monotonic() >= end and self._ended is None:
                verdict = self.run.interrupt()
                if verdict.complete:  # it was over
                    return
                done = sum(trace.fate == "finished" for trace in verdict.traces)
                note = f"ended after {self.seconds:g} s, when {done} of {verdict.n} traces had come to their ends"
                if verdict.answer is None:
                    note += ": allow more time"
                self._ended = replace(verdict, complete=True, note=note)
                return

    def snapshot(self) -> Snapshot:
        return self.run.snapshot()

    def verdict(self) -> Verdict:
        return self._ended if self._ended is not None else self.run.verdict()

    def interrupt(self) -> Verdict:
        return self._ended if self._ended is not None else self.run.interrupt()
