"""The progress bar of long commands."""

from __future__ import annotations

import time
from typing import Any, Self

PLAIN_SECONDS = 10.0


class ProgressBar:
    """A progress bar on stderr with rate and time left; silent where stderr is no terminal."""

    def __init__(self, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            _time(),
            console=self.console,
            disable=not shown or not self.console.is_terminal,
        )
        self.task: Any = None
        self.first = 0

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.progress.__exit__(*exc)

    def print_resumed(self, journal: Any, kind: str = "trace", what: str = "finished traces") -> None:
        """Say what was found of an earlier run: records of a kind, in words."""
        if journal.torn:
            self.console.print(
                f"The last line of {journal.path} was cut short ({journal.torn} bytes) and is dropped; it runs again."
            )
        done = sum(record.get("kind") == kind for record in journal.records)
        if done:
            self.console.print(f"{done} {what} found in {journal.path}; going on from there.")

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        if self.task is None:
            self.task = self.progress.add_task(label, total=total, completed=done - 1, rate="")
        speed = self.progress.tasks[0].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self.progress.update(self.task, completed=done, description=label, rate=f"{rate} {note}".strip())


class ProgressOrLines(ProgressBar):
    """The bar where stderr is a terminal, else a line every few seconds. what: is counted, in the plural."""

    def __init__(self, shown: bool = True, what: str = "traces") -> None:
        super().__init__(shown)
        self.what = what
        self.lines = shown and not self.console.is_terminal
        self.start = self.told = time.monotonic()
        self.before: int | None = None

    def begin(self, done: int = 0) -> None:
        """The work begins now, with so much of it done: for work whose first event comes late."""
        self.before, self.start = done, time.monotonic()
        self.told = self.start

    def tell(self, label: str, done: int, total: int, note: str = "") -> None:
        """Where the work stands."""
        self.update(label, done, total, note)
        if not self.lines:
            return
        now = time.monotonic()
        if self.before is None and done == total:
            self.before = done - 1
        elif self.before is None:  # what was there before this run took none of its time, however many units it is
            self.before, self.start, self.told = done, now, now
        if now - self.told >= PLAIN_SECONDS or done == total:
            self.told = now
            speed = ""
            if done > self.before:  # before that there is nothing to tell it by
                rate = (done - self.before) / max(now - self.start, 1e-9)
                speed = f"{rate:.1f}/s, {(total - done) / rate:,.0f} s left, "
            self.say(f"{done:,} of {total:,} {self.what}, {speed}{note or label}")

    def say(self, line: str) -> None:
        """A line above the bar, or one among the lines."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _time() -> Any:
    """The column of the time: what is left, and once the bar is full, what it took."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class Time(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return Text.assemble("took " if task.finished else "left ", super().render(task))

    return Time(elapsed_when_finished=True)
