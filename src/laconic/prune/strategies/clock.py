"""Where the time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall time by phase. It stands still while whoever iterates over a run is at work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase: str | None = None
        self._since: float | None = None

    def go(self, phase: str | None = None) -> None:
        """Count on, for `phase` (None: for the same as before)."""
        self.stop()
        self.phase = phase or self.phase
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None and self.phase is not None:
            passed = time.perf_counter() - self._since
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + passed
        self._since = None

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count for `phase`, then for the one before, or stand still again."""
        before, running = self.phase, self._since is not None
        self.go(phase)
        try:
            yield
        finally:
            self.go(before)
            if not running:
                self.stop()

    @property
    def total(self) -> float:
        now = 0.0 if self._since is None else time.perf_counter() - self._since
        return sum(self.seconds.values()) + now
