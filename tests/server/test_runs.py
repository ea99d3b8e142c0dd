"""Which votes a server remembers."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.prune.strategies.base import Snapshot, TraceRow
from laconic.server.asks import AskError, read_ask
from laconic.server.events import Mailbox
from laconic.server.runs import Runs, state_of
from laconic.server.votes import VoteJob

ASK = read_ask("chat", {"messages": [{"role": "user", "content": "x" * 400}]})


def job(generated: int, over: bool = True) -> Any:
    made = VoteJob(ASK, Mailbox(None), 10)
    made.generated, made.over = generated, over
    return made


def test_the_oldest_that_are_over_make_room() -> None:
    runs = Runs(most=3)
    jobs = [job(1, over=place != 0) for place in range(5)]
    for each in jobs:
        runs.add(each)
    assert [each["id"] for each in runs.listed()] == [jobs[4].id, jobs[3].id, jobs[0].id]  # the first one still runs
    with pytest.raises(AskError, match="there is no run"):
        runs.get(jobs[1].id)


def test_long_ones_make_room_sooner() -> None:
    runs = Runs(most_tokens=100)
    jobs = [job(60), job(30), job(20)]
    for each in jobs:
        runs.add(each)
    assert [each["id"] for each in runs.listed()] == [jobs[2].id, jobs[1].id]


def test_a_list_shows_the_beginning_of_a_question() -> None:
    runs = Runs()
    runs.add(job(1))
    (listed,) = runs.listed()
    assert listed["question"] == "x" * 300 + "..."
    assert (listed["state"], listed["answer"]) == ("stopped", None)


def test_a_state_is_read_without_touching_the_engine() -> None:
    """The page asks from another thread than the one that drives it."""

    class View:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    made = job(1, over=False)
    made.view, made.kv_held, made.kv_full = View(), 5, 9
    state = state_of(made)
    assert (state["state"], state["kv_held"], state["kv_full"]) == ("running", 5, 9)


def test_a_refused_one_is_no_run() -> None:
    runs = Runs()
    made = job(1)
    runs.add(made)
    runs.drop(made)
    assert runs.listed() == []


@pytest.mark.parametrize(("over", "saved"), [(False, 2 * 500 - 100 - 50 - 7), (True, None)])
def test_what_is_saved_is_of_traces_that_were_stopped(over: bool, saved: int | None) -> None:
    """Not of those that run or wait, and of no run whose client went away."""
    made = job(1, over=over)
    rows = [(0, 500, "finished"), (1, 100, "pruned"), (2, 50, "abandoned"), (3, 40, "running"), (4, 0, "waiting")]
    made.snapshot = Snapshot(
        "finish",
        tuple(TraceRow(f"t{index}", index, tokens, state) for index, tokens, state in rows),
        judged=7,
    )
    assert state_of(made)["saved"] == saved
