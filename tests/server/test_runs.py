"""Which votes a server remembers."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.server.asks import AskError, read_ask
from laconic.server.events import Mailbox
from laconic.server.runs import Runs
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
