"""Watching a run of a strategy: a board on a terminal, a line a decision elsewhere, and a clean end on Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live

from laconic.cli.board import BoardHeading, SavingsEstimator, board
from laconic.cli.live import plain
from laconic.cli.messages import print_to_stderr
from laconic.prune.strategies.base import Snapshot, StrategyProgress, StrategyRun
from laconic.prune.verdict import Verdict

INTERVAL = 1 / 8  # seconds between two drawings, at least
SHARE = 0.05  # of the time may go into drawing: a large board on a slow terminal is drawn less often


class SilentBoardView:
    """Shows nothing: the verdict comes as one JSON object."""

    def __enter__(self) -> SilentBoardView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def feed(self, progress: StrategyProgress, solving: StrategyRun, interrupt: InterruptHandler) -> None:
        """Another step. interrupt: whether the user has asked for the end."""


class SnapshotView(SilentBoardView):
    """Takes a snapshot now and then, and whenever the phase changes, so that `estimator` can tell what is saved."""

    def __init__(self) -> None:
        self.estimator = SavingsEstimator()
        self.phase = ""
        self.due = 0.0
        self.snapshot = Snapshot("", ())

    def feed(self, progress: StrategyProgress, solving: StrategyRun, interrupt: InterruptHandler) -> None:
        start = time.monotonic()
        due = start >= self.due or interrupt.requested
        if due or progress.phase != self.phase:
            self.phase = progress.phase
            self.snapshot = solving.snapshot()
            self.estimator.add(self.snapshot)
        if due:
            self.draw(self.snapshot, interrupt)
            end = time.monotonic()
            self.due = end + max(INTERVAL, (end - start) / SHARE)

    def draw(self, snapshot: Snapshot, interrupt: InterruptHandler) -> None:
        """Nothing to see but the decisions."""


class PlainBoardView(SnapshotView):
    """A line on stderr for each decision, and one where a phase is entered for the first time: for pipes and files."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: set[str] = set()

    def feed(self, progress: StrategyProgress, solving: StrategyRun, interrupt: InterruptHandler) -> None:
        super().feed(progress, solving, interrupt)
        if progress.phase not in self.entered:
            self.entered.add(progress.phase)
            at = self.snapshot
            print_to_stderr(f"{progress.phase} phase ({at.seconds:.1f} s, {at.generated:,} tokens so far)")
        if progress.message:
            print_to_stderr(plain(progress.message))


class BoardView(SnapshotView):
    """The board on the terminal's second screen: it may be as high as the terminal, and leaves nothing behind."""

    def __init__(self, console: Console, heading: BoardHeading) -> None:
        super().__init__()
        self.console, self.heading = console, heading
        # Drawn by this thread only, when there is something new: another thread would read records as they change.
        self.live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> BoardView:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def draw(self, snapshot: Snapshot, interrupt: InterruptHandler) -> None:
        note = "stopping after this step; Ctrl-C again: at once" if interrupt.requested else ""
        width, height = self.console.size
        self.live.update(board(self.heading, snapshot, self.estimator, width, height, note), refresh=True)


class InterruptHandler:
    """Ctrl-C while a run goes on: the first asks it to end after the present step, when all its records agree with one
    another; a second one ends it in the middle of the step, with a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self.before: Any = None
        self.mine = (
            threading.current_thread() is threading.main_thread()
        )  # others can't set handlers, and get no signal

    def __enter__(self) -> InterruptHandler:
        if self.mine:
            self.before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.mine:
            signal.signal(signal.SIGINT, self.before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def choose_board_view(as_json: bool, console: Console, heading: BoardHeading) -> SilentBoardView:
    """The view for where the output goes."""
    if as_json:
        return SilentBoardView()
    return BoardView(console, heading) if can_show(console) else PlainBoardView()


def can_show(console: Console) -> bool:
    """Whether there is a terminal that a board can be drawn on."""
    return console.is_terminal and not console.is_dumb_terminal


def watch(solving: StrategyRun, view: SilentBoardView) -> Verdict:
    """Run to the end, or to Ctrl-C: the verdict then is that of so far, with complete=False."""
    with InterruptHandler() as interrupt, view:
        try:
            for progress in solving:
                view.feed(progress, solving, interrupt)
                if interrupt.requested:
                    return solving.interrupt()
        except KeyboardInterrupt:
            return solving.interrupt()
    return solving.verdict()
