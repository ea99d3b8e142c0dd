"""Which traces are learned from, which are for the check."""

from __future__ import annotations

import dataclasses

import pytest
from tests.lab.learn.made import made_traces

from laconic.errors import LaconicError
from laconic.lab.learn.prompts import PROMPTS, general_problems
from laconic.lab.learn.traces import split_traces, usable


def test_the_last_problems_are_for_the_check() -> None:
    records = made_traces([5] * 12, problems=5)
    learned, checked = split_traces(records, 3)
    assert {record.problem for record in checked} == {"p3", "p4"}
    assert len(checked) == 4  # both traces of a problem, so that none is on both sides
    assert {record.problem for record in learned} == {"p0", "p1", "p2"}
    assert len(learned) + len(checked) == 12
    assert split_traces(records, 0) == (records_by_problem(records), [])


def records_by_problem(records: list) -> list:
    return sorted(records, key=lambda record: record.problem)


def test_too_few_problems() -> None:
    with pytest.raises(LaconicError, match=r"6 traces of 2 problems, and the last 16 are for the check; expected more"):
        split_traces(made_traces([5] * 6, problems=2))


def test_traces_without_tokens_are_left_out_and_without_prompts_refused() -> None:
    records = made_traces([5, 5])
    empty = dataclasses.replace(records[0], token_ids=())
    assert usable([records[1], empty], "x") == [records[1]]
    with pytest.raises(LaconicError, match=r"trace 0 of problem p0 in traces\.jsonl has no prompt_ids"):
        usable([dataclasses.replace(records[0], prompt_ids=())], "traces.jsonl")


def test_the_prompts_are_many_and_different() -> None:
    assert len(PROMPTS) == len(set(PROMPTS)) == 60
    assert all(20 < len(prompt) < 300 and prompt == " ".join(prompt.split()) for prompt in PROMPTS)
    problems = general_problems(70)
    assert len({problem.id for problem in problems}) == len(problems) == 60
    assert [problem.question for problem in general_problems(3)] == list(PROMPTS[:3])
