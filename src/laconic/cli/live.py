"""How a trace is shown while it is written: on a terminal with a gauge of its cache, elsewhere as plain text."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.cells import cell_len, chop_cells
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

# A model may write anything, escape sequences too; a terminal would obey them.
PRINTABLE = {code: None for code in (*range(32), *range(127, 160)) if code != ord("\n")} | {ord("\t"): "    "}
BAR = 24  # cells, where the terminal is wide enough
LEAST_BAR = 6  # shorter than that it shows nothing; the words get fewer instead


def plain(text: str) -> str:
    """What a model or a user wrote, on one line and without the sequences that a terminal obeys."""
    return " ".join(text.translate(PRINTABLE).split())


@dataclass(frozen=True, slots=True)
class TraceProgress:
    """Where a trace stands. logical: tokens whose KV has been computed, the prompt's included; held: those of them that
    a layer still has; generated: tokens written so far."""

    logical: int
    held: int
    generated: int
    compressions: int


class TextView(Protocol):
    """A context in which pieces of text arrive."""

    def __enter__(self) -> TextView: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def feed(self, text: str, progress: TraceProgress) -> None: ...


class SilentTextView:
    """Shows nothing: the answer comes as one JSON object."""

    def __enter__(self) -> SilentTextView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def feed(self, text: str, progress: TraceProgress) -> None:
        pass


class PlainTextView(SilentTextView):
    """The text as it comes, for pipes and files."""

    def __enter__(self) -> PlainTextView:
        self.ends_line = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ends_line and not isinstance(error, BrokenPipeError):
            print(flush=True)

    def feed(self, text: str, progress: TraceProgress) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self.ends_line = text.endswith("\n")


class TerminalTextView(SilentTextView):
    """The text as it comes, and under it a line that says how much of it is still in the cache.

    A terminal can only redraw what has not scrolled away, so finished lines are printed for good, and only the
    unfinished one and the gauge are redrawn.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tail = ""
        self.start = time.monotonic()
        self.live = Live(console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> TerminalTextView:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if self.tail:
            self.console.print(Text(self.tail))

    def feed(self, text: str, progress: TraceProgress) -> None:
        lines, self.tail = settle(self.tail + text.translate(PRINTABLE), self.console.width)
        # In this order: printing redraws what is live below, which must not be the old unfinished line any more.
        self.live.update(Group(Text(self.tail), gauge(progress, time.monotonic() - self.start, self.console.width)))
        for line in lines:
            self.console.print(Text(line))


def settle(text: str, width: int) -> tuple[list[str], str]:
    """Split off the lines that nothing later can change: those ended by a newline or fuller than `width` cells."""
    lines = []
    *ended, tail = text.split("\n")
    for line in ended:
        whole, rest = _wrap(line, width)
        lines += [*whole, rest]
    whole, tail = _wrap(tail, width)
    return lines + whole, tail


def _wrap(line: str, width: int) -> tuple[list[str], str]:
    whole = []
    while cell_len(line) > width:
        first = chop_cells(line, width)[0]
        cut = first.rfind(" ") + 1 or len(first)
        if line[len(first)] == " ":  # the line's last word just fits
            cut = len(first) + 1
        whole.append(line[:cut].rstrip(" "))
        line = line[cut:]
    return whole, line


def gauge(progress: TraceProgress, seconds: float, width: int) -> Text:
    """One line of at most `width` cells: the share of the written tokens that is still held, and how fast it goes.

    Where there is too little room the bar gets shorter, then the words do; figures go last, whole ones only.
    """
    share = progress.held / progress.logical if progress.logical else 1.0
    speed = progress.generated / seconds if seconds > 0 else 0.0
    times = "compression" if progress.compressions == 1 else "compressions"
    of = f"{progress.held:,} of {progress.logical:,}"
    forms = (
        (f"{of} tokens held ({share:.0%})", f" · {progress.compressions} {times} · {speed:,.0f} tok/s"),
        (f"{of} held ({share:.0%})", f" · {progress.compressions}x · {speed:,.0f} tok/s"),
        (f"{of} ({share:.0%})", f" · {speed:,.0f} tok/s"),
        (f"{of} ({share:.0%})", ""),
        (f"{share:.0%}", ""),
    )
    held, rest = next(
        ((held, rest) for held, rest in forms if len(f"KV {held}{rest}") + LEAST_BAR + 1 <= width), forms[-1]
    )
    bar = max(0, min(BAR, width - len(f"KV  {held}{rest}")))
    filled = round(share * bar)
    line = Text.assemble(
        ("KV ", "bold"),
        ("━" * filled, "cyan"),
        ("━" * (bar - filled), "bright_black"),
        f" {held}" if bar else held,
        (rest, "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    line.truncate(width, overflow="ellipsis")
    return line


def choose_text_view(as_json: bool, console: Console) -> TextView:
    """The view for where the output goes."""
    if as_json:
        return SilentTextView()
    return TerminalTextView(console) if console.is_terminal else PlainTextView()
