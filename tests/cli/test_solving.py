from __future__ import annotations

import io
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from laconic.cli import solving as module
from laconic.cli.board import BoardHeading
from laconic.cli.solving import BoardView, PlainBoardView, SilentBoardView, choose_board_view, watch
from laconic.prune.strategies.base import Snapshot, StrategyProgress, StrategyRun, TraceRow
from laconic.prune.verdict import Tokens, Verdict

HEADING = BoardHeading("deepprune · 2 traces", "what is 6 * 7?")


class Scripted(StrategyRun):
    """Goes through the given steps; `between` happens in the middle of each, its number given."""

    def __init__(self, steps: list[StrategyProgress], between: Callable[[int], None] = lambda step: None) -> None:
        self.steps, self.between = steps, between
        self.begun = self.done = self.snapshots = 0
        self.ended = False

    def __iter__(self) -> Iterator[StrategyProgress]:
        for number, step in enumerate(self.steps):
            self.begun += 1
            self.between(number)
            self.done += 1
            yield step

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        phase = self.steps[max(self.done - 1, 0)].phase
        return Snapshot(phase, (TraceRow("a", 0, self.done, "running"),), generated=self.done, seconds=self.done / 2)

    def verdict(self) -> Verdict:
        complete = self.done == len(self.steps) and not self.ended
        return Verdict("scripted", 2, None, (), (), Tokens(self.done), complete=complete)

    def interrupt(self) -> Verdict:
        self.ended = True
        return self.verdict()


STEPS = [
    StrategyProgress("explore"),
    StrategyProgress("judge", ("a",), "trace 0 opens cluster 0"),
    StrategyProgress("explore"),
    StrategyProgress("judge", ("b",), "trace 1 pruned: agrees with cluster 0 (.93)"),
    StrategyProgress("finish"),
    StrategyProgress("vote"),
]


def interrupt(*steps: int) -> Callable[[int], None]:
    """Ctrl-C in the middle of the given steps."""
    return lambda step: signal.raise_signal(signal.SIGINT) if step in steps else None


def terminal(width: int = 80, height: int = 24) -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, force_terminal=True, width=width, height=height, color_system=None, highlight=False)


def test_a_line_a_decision_and_one_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(Scripted(STEPS), PlainBoardView()).complete
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "explore phase (0.5 s, 1 tokens so far)",
        "judge phase (1.0 s, 2 tokens so far)",
        "trace 0 opens cluster 0",
        "trace 1 pruned: agrees with cluster 0 (.93)",
        "finish phase (2.5 s, 5 tokens so far)",
        "vote phase (3.0 s, 6 tokens so far)",
    ]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    run = Scripted(STEPS)
    assert watch(run, SilentBoardView()).complete
    assert capsys.readouterr() == ("", "")
    assert run.snapshots == 0


def test_the_board_is_drawn_on_the_second_screen_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out, console = terminal()
    assert watch(Scripted(STEPS), BoardView(console, HEADING)).complete
    text = out.getvalue()
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    assert "deepprune · 2 traces" in text
    assert text.rpartition("\x1b[?1049l")[2].strip() == ""


def test_a_board_is_drawn_at_most_eight_times_a_second_whatever_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of our own: a thousand steps in ten seconds."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    _, console = terminal()
    view = BoardView(console, HEADING)
    drawn: list[float] = []
    monkeypatch.setattr(view, "draw", lambda snapshot, interrupt: drawn.append(clock[0]))
    run = Scripted([StrategyProgress("explore")] * 1000, lambda step: clock.__setitem__(0, clock[0] + 0.01))
    watch(run, view)
    assert 75 <= len(drawn) <= 80
    assert run.snapshots == len(drawn)
    assert min(b - a for a, b in itertools.pairwise(drawn)) >= 1 / 8


def test_a_slow_terminal_is_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    view = BoardView(terminal()[1], HEADING)
    drawn: list[float] = []

    def draw(snapshot: Snapshot, interrupt: object) -> None:
        drawn.append(clock[0])
        clock[0] += 0.1

    monkeypatch.setattr(view, "draw", draw)
    watch(Scripted([StrategyProgress("explore")] * 1000, lambda step: clock.__setitem__(0, clock[0] + 0.01)), view)
    assert 4 <= len(drawn) <= 6  # 0.1 s each, of a little over 10: a twentieth
    assert len(drawn) * 0.1 <= 0.06 * clock[0]


def test_phases_are_metered_even_between_two_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    view = PlainBoardView()
    watch(
        Scripted(
            [
                StrategyProgress("explore"),
                StrategyProgress("explore"),
                StrategyProgress("finish"),
                StrategyProgress("finish"),
            ]
        ),
        view,
    )
    assert (
        view.estimator.explored == 3
    )  # a token a step, and the first step of another phase tells that the last one ended


def test_ctrl_c_in_the_middle_of_a_step_ends_after_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    run = Scripted(STEPS, interrupt(2))
    verdict = watch(run, SilentBoardView())
    assert (run.begun, run.done, run.ended) == (3, 3, True)
    assert not verdict.complete
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_in_the_middle_of_the_step() -> None:
    def twice(step: int) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    run = Scripted(STEPS, twice)
    verdict = watch(run, SilentBoardView())
    assert (run.begun, run.done, run.ended) == (2, 1, True)
    assert (verdict.complete, verdict.tokens.generated) == (False, 1)


def test_ctrl_c_that_comes_with_the_last_step_changes_nothing_in_the_figures() -> None:
    run = Scripted(STEPS, interrupt(len(STEPS) - 1))
    assert watch(run, SilentBoardView()).tokens.generated == len(STEPS)


def test_the_board_says_that_it_is_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out, console = terminal(width=120)
    assert not watch(Scripted(STEPS, interrupt(1)), BoardView(console, HEADING)).complete
    assert "stopping after this step" in out.getvalue()


def test_an_error_leaves_the_terminal_and_the_signal_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def fail(step: int) -> None:
        if step == 1:
            raise ValueError("broken")

    before = signal.getsignal(signal.SIGINT)
    out, console = terminal()
    with pytest.raises(ValueError, match="broken"):
        watch(Scripted(STEPS, fail), BoardView(console, HEADING))
    assert out.getvalue().count("\x1b[?1049l") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_beside_the_main_thread_there_is_no_signal_to_set() -> None:
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(watch(Scripted(STEPS), SilentBoardView())))
    thread.start()
    thread.join()
    assert found[0].complete


def test_choose_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert type(choose_board_view(False, terminal()[1], HEADING)) is BoardView
    assert type(choose_board_view(True, terminal()[1], HEADING)) is SilentBoardView
    assert type(choose_board_view(False, Console(file=io.StringIO()), HEADING)) is PlainBoardView
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose_board_view(False, terminal()[1], HEADING)) is PlainBoardView
