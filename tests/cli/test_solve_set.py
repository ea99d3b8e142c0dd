"""`laconic solve --source`: a line a problem, the summary, files that go on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.cli.solve_set import facts, line
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.problems import Problem
from laconic.problems.base import problem_seed
from laconic.prune import SelfConsistency
from laconic.solved import SolvedProblem, SolvedTrace, sum_up


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "q.jsonl"
    records = [{"id": "one", "question": "c d e", "answer": "7"}, {"id": "two", "question": "f g"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def solve(invoke: Any, tiny: Path, source: Path, *more: Any) -> Any:
    return invoke("solve", "--source", source, "-m", tiny, "--n", 3, "--max-new-tokens", 12, *more)


def test_a_strategy_over_a_file(invoke: Any, tiny: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.jsonl"
    more = ("-s", "self-consistency", "--temperature", 0.9, "--seed", 3, "--out", out)
    result = solve(invoke, tiny, questions, "--problems", 1, *more)
    assert result.exit_code in (0, 1), result.stderr
    assert [told.split(":")[0] for told in result.stdout.splitlines()] == ["one"]
    again = solve(invoke, tiny, questions, *more)
    assert [told.split(":")[0] for told in again.stdout.splitlines()] == ["two"], again.stderr
    assert "1 solved problems found in" in again.stderr
    assert f"file: {out}" in again.stderr
    told = [json.loads(record) for record in out.read_text().splitlines()]
    assert told[0]["settings"]["model"]["name"] == "tiny"
    assert str(tmp_path) not in out.read_text()
    model, tokenizer = load(tiny)
    sampling = Sampling(max_new_tokens=12, temperature=0.9, seed=problem_seed(3, Problem("one", "c d e", "7")))
    alone = SelfConsistency(3).solve(HFEngine(model, tokenizer), "c d e", sampling)
    assert [trace["text"] for trace in told[1]["traces"]] == [trace.text for trace in alone.traces]
    assert (told[1]["gold"], told[2]["gold"], told[2]["right"]) == ("7", None, None)
    other = solve(invoke, tiny, questions, *more, "--policy", "rpc:interval=16,window=8")
    assert other.exit_code == 2
    assert "recorded with other settings (policy was 'full'" in other.stderr


def test_a_set_shares_a_budget(invoke: Any, tiny: Path, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.jsonl"
    result = solve(invoke, tiny, questions, "--spend", "2x", "--out", out, "--json")
    assert result.exit_code in (0, 1), result.stderr
    record = json.loads(result.stdout)
    assert (record["problems"], record["scored"], record["traces"]) == (2, 1, 4)
    assert [each["problem"] for each in record["solved"]] == ["one", "two"]
    assert sum(json.loads(each)["kind"] == "trace" for each in out.read_text().splitlines()) == 4
    more = solve(invoke, tiny, questions, "--spend", "30s", "--out", out)
    assert len(more.stdout.splitlines()) == 2
    assert "4 finished traces found in" in more.stderr
    assert "traces: 6\n" in more.stderr, "in that time all come to their ends"
    few = solve(invoke, tiny, questions, "--spend", "2", "--batch", 1)
    assert few.exit_code == 1
    assert (
        "warning: the budget was spent before 1 of 2 problems got a trace (the first is two); give more" in few.stderr
    )


def test_bad_input_is_one_sentence(invoke: Any, tiny: Path, questions: Path, tmp_path: Path) -> None:
    empty, twice, none = (tmp_path / name for name in ("empty.jsonl", "twice.jsonl", "none.jsonl"))
    empty.touch()
    twice.write_text('{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}\n')
    none.write_text('{"text": "a"}\n')
    cases: list[tuple[Path, list[Any], str]] = [
        (questions, ["--spend", "0.5x"], "traces is 0.5"),
        (questions, ["--spend", "1"], "a budget of 1 tokens is below one trace of each of 2 problems"),
        (questions, ["--spend", "0s"], "seconds is 0"),
        (questions, ["--spend", "half"], "or a time, as 30s"),
        (
            questions,
            ["--spend", "2x", "-s", "cons"],
            "plain votes that take no strategy (here cons); leave one of them out",
        ),
        (questions, ["--spend", "2x", "--tau", 0.5], "take no tau"),
        (questions, ["-s", "priced-vote:price=0"], "price is 0"),
        (questions, ["--file", "x"], "--file is for one problem, and --source"),
        (questions, ["--show", "all"], "--show is for one problem"),
        (questions, ["--level", 2], "A level was given"),
        (questions, ["--out", tmp_path], "is a directory"),
        (tmp_path / "no.jsonl", [], "There is no problem file"),
        (empty, [], "holds no problems"),
        (twice, [], "Two problems have the id '1'"),
        (none, [], "has no question"),
    ]
    for source, more, says in cases:
        result = solve(invoke, tiny, source, *more)
        assert (result.exit_code, result.stdout) == (2, ""), (more, result.output)
        assert says in result.stderr, (more, result.stderr)
        assert result.stderr.count("\n") == 1, (more, result.stderr)
    result = invoke("solve", "c", "-m", tiny, "--problems", 3)
    assert (result.exit_code, "--problems has no effect without --source; leave it out" in result.stderr) == (2, True)


def solved(name: str, answer: str | None, gold: str | None, *answers: str | None) -> SolvedProblem:
    right = None if gold is None else answer == gold
    votes = tuple((each, float(answers.count(each))) for each in dict.fromkeys(answers) if each is not None)
    finished = tuple(SolvedTrace(i, each, 100) for i, each in enumerate(answers))
    return SolvedProblem(name, gold, answer, right, votes, len(answers), 100 * len(answers), 0, finished, "why")


def test_lines_and_summary_for_people() -> None:
    found = [
        solved("a", "1", "1", "1", "2", "1"),
        solved("b\x1b[2J", None, "3", None),
        solved("c", "4", None, "5", "4"),
    ]
    assert line(found[0]) == "a: answer 1, which is right (2 of 3 votes, 3 traces, 300 tokens)"
    assert line(found[1]).endswith(": no answer (it is 3) (1 trace, 100 tokens; why)")
    assert "\x1b" not in line(found[1])
    assert line(found[2]) == "c: answer 4 (1 of 2 votes, 2 traces, 200 tokens)"
    told = dict(facts(sum_up(found, [("d", "too long")]), None))
    assert told["problems"] == "3, 2 with an answer, 1 skipped"
    assert told["accuracy"].startswith("50.0% (95 % interval ")
    assert told["accuracy"].endswith(", of 2 with a reference answer")
    assert told["plain vote of these tokens"].startswith("50.0%, the verdicts are +0.0 points [")
    assert "2.0 traces of each, another answer on 1 of the problems; 1 have fewer" in told["plain vote of these tokens"]
