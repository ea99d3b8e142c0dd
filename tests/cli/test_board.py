from __future__ import annotations

import random

import pytest
from rich.cells import cell_len

from laconic.cli.board import BoardHeading, SavingsEstimator, board, plain_vote_line, votes
from laconic.cli.live import plain
from laconic.prune.strategies.base import Snapshot, TraceRow
from laconic.prune.verdict import PlainVote

HEADING = BoardHeading("deepprune · 64 traces", "what is 6 * 7?")
STATES = ("running", "finished", "waiting", "pruned", "abandoned", "interrupted")


def rows(count: int, seed: int = 0) -> tuple[TraceRow, ...]:
    rng = random.Random(seed)
    return tuple(
        TraceRow(
            f"p0-{i}",
            i,
            rng.randrange(9999),
            state,
            rng.choice((None, 0, 1)),
            "42" if state == "finished" else None,
            "why",
        )
        for i in range(count)
        for state in [rng.choice(STATES)]
    )


def draw(
    snapshot: Snapshot, width: int = 80, height: int = 24, estimator: SavingsEstimator | None = None, note: str = ""
) -> list[str]:
    return board(HEADING, snapshot, estimator or SavingsEstimator(), width, height, note).plain.split("\n")


@pytest.mark.parametrize("height", [1, 2, 5, 10, 11, 24, 40])
@pytest.mark.parametrize("width", [8, 40, 80, 120])
@pytest.mark.parametrize("count", [0, 1, 12, 512])
def test_the_board_fits_the_terminal(width: int, height: int, count: int) -> None:
    lines = draw(
        Snapshot("explore", rows(count), (300, 12), (("1", 2.0),), 10**9, 10**9, 999.0, 1 << 40), width, height
    )
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)


def test_every_trace_has_its_line_or_is_counted() -> None:
    for count, height in ((15, 24), (16, 24), (64, 24), (64, 40)):
        found = rows(count)
        lines = draw(Snapshot("explore", found, (count,)), width=100, height=height)[9:]
        seen = {int(line.split()[0]) for line in lines if line.split()[0].isdigit()}
        if count == 15:
            assert seen == set(range(15))
            assert len(lines) == 15
        else:
            assert len(lines) == height - 9
            assert lines[-1].startswith(f"and {count - len(seen)} more: ")
            left = [row.state for row in found if row.index not in seen]
            for state in set(left):
                assert f"{left.count(state)} {state}" in lines[-1]
            # What still runs is never hidden behind what doesn't.
            assert {row.state for row in found if row.index in seen} <= {"running", "finished", "waiting"} or not (
                set(left) & {"running", "finished", "waiting"}
            )


def test_lines_are_in_order_and_say_what_the_row_says() -> None:
    found = (
        TraceRow("a", 0, 1234, "finished", 3, "\\frac{1}{2}", "its end"),
        TraceRow("b", 1, 56, "pruned", 3, None, "agrees with cluster 3 (.93)"),
        TraceRow("c", 2, 0, "waiting", None, None, "waits to be judged"),
        TraceRow("d", 3, 7, "running", None, None, "running"),
    )
    lines = draw(Snapshot("judge", found))
    assert [line.split() for line in lines[8:]] == [
        ["0", "1,234", "finished", "3", "\\frac{1}{2}"],
        ["1", "56", "pruned", "3", "agrees", "with", "cluster", "3", "(.93)"],
        ["2", "0", "waiting", "-", "waits", "to", "be", "judged"],
        ["3", "7", "running", "-"],
    ]


def test_the_heading_gives_way_on_a_low_terminal_before_the_traces() -> None:
    lines = draw(Snapshot("explore", rows(9)), height=7)
    assert len(lines) == 7
    assert not any("deepprune" in line or "6 * 7" in line for line in lines)
    assert any(line.split()[:2] == ["#", "tokens"] for line in lines)
    assert lines[-1].startswith("and 7 more")


def test_the_top_says_phase_cost_clusters_and_votes() -> None:
    snapshot = Snapshot("judge", (), (2, 7, 1), (("42", 3.0), ("7", 0.25)), 12000, 345, 4.0, 3 << 20)
    text = "\n".join(draw(snapshot, width=120))
    for said in (
        "deepprune · 64 traces",
        "what is 6 * 7?",
        "judge    4.0 s, 3,000 tok/s, 3.0 MiB of KV alive",
        "12,000 generated + 345 judged",
        "not known before a trace has finished",
        "3: 7, 2, 1",
        "42 (3), 7 (0.25)",
        "Ctrl-C",
    ):
        assert said in text
    assert "stopping" in "\n".join(draw(snapshot, note="stopping"))
    assert "Ctrl-C: the verdict" not in "\n".join(draw(snapshot, note="stopping"))


def test_no_line_for_clusters_that_the_strategy_does_not_make() -> None:
    def lines(sizes: tuple[int, ...]) -> list[str]:
        return [line for line in draw(Snapshot("finish", rows(9), sizes, (("1", 2.0),))) if "clusters" in line]

    assert len(lines((2, 7))) == 1
    assert lines(()) == []


def test_a_model_cannot_steer_the_board() -> None:
    evil = "4\x1b[2J\n2\x9b1m\x07"
    row = TraceRow("a", 0, 5, "finished", 0, evil)
    text = board(
        BoardHeading(evil, evil), Snapshot("finish", (row,), (), ((evil, 1.0),)), SavingsEstimator(), 80, 24
    ).plain
    assert not {"\x1b", "\x9b", "\x07"} & set(text)
    assert text.count("\n") == 8  # eight lines of top and one of a trace
    assert plain(evil) == "4[2J 21m"


def test_votes_of_nobody() -> None:
    assert votes([]) == "none yet"


def test_what_is_saved_is_what_the_verdict_will_say() -> None:
    """With everything at an end: n times the mean of the finished traces, less all tokens, generated and judged."""
    ends, cut, judged = [100, 140], [30, 50, 40], 25
    done = [TraceRow(f"f{i}", i, tokens, "finished") for i, tokens in enumerate(ends)]
    stopped = [TraceRow(f"s{i}", 2 + i, tokens, "pruned") for i, tokens in enumerate(cut)]
    estimator = SavingsEstimator()
    estimator.add(Snapshot("finish", (*done, *stopped), generated=sum(ends) + sum(cut), judged=judged, seconds=2.0))
    estimate = estimator.estimate()
    assert estimate is not None
    assert estimate.finished == 2
    assert estimate.tokens == 5 * 120 - (360 + judged)


def test_seconds_are_priced_at_the_rate_of_exploring() -> None:
    run = TraceRow("a", 0, 100, "running"), TraceRow("b", 1, 100, "running")
    estimator = SavingsEstimator()
    assert estimator.estimate() is None
    estimator.add(Snapshot("explore", run, generated=0, seconds=0.0))
    assert estimator.rate is None
    estimator.add(Snapshot("explore", run, generated=150, seconds=1.7, phases={"explore": 1.5, "judge": 0.2}))
    # 200 tokens in 2 s of exploring, and a second of judging
    estimator.add(Snapshot("finish", run, generated=200, judged=10, seconds=3.0, phases={"explore": 2.0, "judge": 1.0}))
    assert estimator.rate == 100
    assert estimator.estimate() is None  # nobody has finished
    end = TraceRow("a", 0, 400, "finished"), TraceRow("b", 1, 100, "abandoned")
    phases = {"explore": 2.0, "judge": 1.0, "finish": 3.0}
    estimator.add(Snapshot("vote", end, generated=500, judged=10, seconds=6.0, phases=phases))
    assert estimator.rate == 100
    estimate = estimator.estimate()
    assert estimate is not None
    assert estimate.tokens == 290  # 400 - 100, less 10
    assert estimate.seconds == pytest.approx(800 / 100 - 6.0)


def test_a_run_that_never_explores_is_priced_at_its_own_rate() -> None:
    estimator = SavingsEstimator()
    estimator.add(
        Snapshot(
            "finish",
            (TraceRow("a", 0, 300, "finished"), TraceRow("b", 1, 100, "abandoned")),
            generated=400,
            seconds=4.0,
        )
    )
    estimate = estimator.estimate()
    assert estimate is not None
    assert (estimate.tokens, estimate.seconds) == (200, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("vote", "want"),
    [
        (None, "not known before a trace has finished"),
        (PlainVote("12", 3, 4, 4.2), "12 (3 of 4 traces that finished)"),
        (PlainVote("12", 1, 1, 1.0), "12 (1 of 1 trace that finished)"),
        (
            PlainVote("1\n2", 3, 4, 6.6),
            "1 2 (3 of 4 traces that finished; a plain vote of these tokens would have about 7)",
        ),
        (PlainVote(None, 0, 2, 2.0), "no answer (2 traces that finished)"),
    ],
)
def test_what_a_plain_vote_would_have_said_is_one_line(vote: PlainVote | None, want: str) -> None:
    assert plain_vote_line(vote) == want
    line = next(line for line in draw(Snapshot("finish", (), plain=vote), width=200) if line.startswith("plain"))
    assert line.split(maxsplit=1)[1] == want
