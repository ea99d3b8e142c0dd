from __future__ import annotations

import json
from typing import Any

from laconic.problems import generate


def test_one_question_a_line(invoke: Any) -> None:
    result = invoke("problems", "--problems", 5, "--seed", 3, "--level", 4)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [p.question for p in generate(5, seed=3, level=4)]


def test_json_lines_with_answers(invoke: Any) -> None:
    result = invoke("problems", "--problems", 4, "--json", "--split", "train")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = generate(4, seed=0, split="train")
    assert rows == [{"id": p.id, "question": p.question, "answer": p.answer, "level": p.level} for p in expected]


def test_bad_values(invoke: Any) -> None:
    for args, said in (
        (["--level", 99], "level is 99; expected a whole number from 1 to 8"),
        (["--problems", -1], "count is -1; expected a whole number from 0 to 1000000"),
        (["--split", "test"], "split is 'test'; expected one of train, heldout"),
    ):
        result = invoke("problems", *args)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
