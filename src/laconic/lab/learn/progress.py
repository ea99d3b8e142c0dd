"""Where `laconic learn` stands: a bar, or lines, for each of its phases."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from laconic.cli.progress import ProgressOrLines
from laconic.lab.shared.progress import Progress, Watcher


class PhaseProgress:
    """A context manager; each phase has a bar of its own, with its own rate and time left. shown: False says nothing."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self.phase: str | None = None
        self.bar: ProgressOrLines | None = None
        self._open = ExitStack()

    def __enter__(self) -> PhaseProgress:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._open.__exit__(*exc)

    def watcher(self, phase: str, what: str) -> Watcher:
        """For a run whose events name no phase. what: is counted, in the plural."""

        def watch(event: Progress) -> None:
            bar = self.begin(phase, what)
            if event.message:
                bar.say(event.message)
            else:
                bar.tell(phase, event.done, event.total, f"{event.tokens:,} tokens" if event.tokens else "")

        return watch

    def phases(self, counted: Mapping[str, str]) -> Watcher:
        """For a run whose events name their phase. counted: what each phase counts, in the plural."""

        def watch(event: Progress) -> None:
            self.watcher(event.phase, counted[event.phase])(event)

        return watch

    def begin(self, phase: str, what: str) -> ProgressOrLines:
        """The bar of a phase, which takes the place of the one before."""
        bar = self.bar
        if bar is None or phase != self.phase:
            self._open.close()
            bar = self._open.enter_context(ProgressOrLines(self.shown, what))
            self.phase, self.bar = phase, bar
        return bar
