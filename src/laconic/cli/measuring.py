"""What the measuring commands share: lists in options, the progress bar, and where results go."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from laconic.report.tables import Table


class Bar:
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

    def __enter__(self) -> Bar:
        self.progress.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.progress.__exit__(*exc)

    def tell_journal(self, journal: Any, kind: str = "trace", what: str = "finished traces") -> None:
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


def split_policies(text: str) -> list[str]:
    """`rpc,h2o` by commas; with a whole spec in it (`rpc;rkv:budget=96,buffer=32`) by semicolons."""
    separator = ";" if ";" in text or ":" in text else ","
    return [name.strip() for name in text.split(separator) if name.strip()]


def split_names(text: str | None) -> list[str]:
    """Names separated by commas; none for no text."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def split_numbers(option: str, text: str) -> list[float]:
    """Numbers separated by commas. Raises InputError naming the option and the part that is none."""
    from laconic.errors import InputError

    numbers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            numbers.append(float(part))
        except ValueError:
            raise InputError(f"{option} has {part!r}; expected numbers separated by commas, such as 2,4,8.") from None
    return numbers


def split_whole(option: str, text: str) -> list[int]:
    """Whole numbers separated by commas. Raises InputError as `split_numbers`."""
    from laconic.errors import InputError

    numbers = split_numbers(option, text)
    for number in numbers:
        if not number.is_integer():
            raise InputError(f"{option} has {number}; expected whole numbers separated by commas, such as 8,16.")
    return [int(number) for number in numbers]


def check_plot(plot: bool | None) -> None:
    from laconic.errors import InputError
    from laconic.report.plots import available

    if plot and not available():  # before hours of work, not after
        raise InputError("Plots need matplotlib: install laconic[plots], or leave --plot out.")


def print_tables(tables: Sequence[Table], elsewhere: str = "A wider terminal shows them.") -> None:
    """Tables on stdout, each as wide as the terminal allows. elsewhere: says where columns are that find no room."""
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe or a file has no width to keep to, unless one is asked for.
    bound = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(table.rich(console.width if bound else None, elsewhere), soft_wrap=not bound)


def write_report(
    report: dict[str, Any], tables: Sequence[Table], draw: Any, out: Path | None, plot: bool | None, as_json: bool
) -> None:
    """results.json, table.md and plot.png into `out`, where one is given; then the tables (or the JSON) on stdout, so that
    nothing that goes wrong on a terminal costs the files."""
    from laconic.cli.common import complain
    from laconic.files import write_text
    from laconic.report.plots import available

    files = []
    if out is not None:
        write_text(out / "results.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        write_text(out / "table.md", "\n".join(table.markdown() for table in tables))
        files = ["results.json", "table.md"]
        if plot or (plot is None and available()):
            draw(report, out / "plot.png")
            files.append("plot.png")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif out is None:
        print_tables(tables)
    else:
        print_tables(tables, f"They are in {out / 'table.md'}.")
    if files:
        complain(f"Written to {out}: {', '.join(files)}.")
