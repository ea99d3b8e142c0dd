"""The progress bar of long commands."""

from __future__ import annotations

from typing import Any


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

    def __enter__(self) -> ProgressBar:
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


def _time() -> Any:
    """The column of the time: what is left, and once the bar is full, what it took."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class Time(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return Text.assemble("took " if task.finished else "left ", super().render(task))

    return Time(elapsed_when_finished=True)
