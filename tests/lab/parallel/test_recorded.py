"""`laconic bench parallel --traces FILE`: strategies played back on recorded traces, without a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.judges.models import word_tokenizer

from laconic.lab.parallel.equal_cost import difference, plain_votes
from laconic.traces import TraceRecord, tokenizer_fingerprint, write_traces

SETTINGS = {
    "model": "org/model", "weights": "ab", "policy": "full", "temperature": 0.8, "top_p": 0.9, "top_k": 0,
    "max_new_tokens": 40, "logprobs": 20, "tokenizer": "cd",
}  # fmt: skip
ANSWERS = {"easy": "5555", "split": "5656", "hopeless": "1234", "mute": "...."}


def trace(problem: str, index: int, **changes: Any) -> TraceRecord:
    answer = ANSWERS[problem][index]
    tokens = tuple(range(10 + 3 * index))
    record = TraceRecord(
        problem=problem,
        question=f"{problem}?",
        gold="5",
        level=0,
        index=index,
        seed=7,
        settings=SETTINGS,
        prompt_ids=tuple(map(ord, problem)),
        token_ids=tokens,
        text="" if answer == "." else f"\\boxed{{{answer}}}",
        answer=None if answer == "." else answer,
        correct=answer == "5",
        finish_reason="stop",
        confidences=tuple(1.0 + index / 10 for _ in tokens),
    )
    return dataclasses.replace(record, **changes)


def written(path: Path, change: Callable[[TraceRecord], TraceRecord] = lambda record: record) -> Path:
    write_traces(path, [change(trace(problem, index)) for problem in ANSWERS for index in range(4)])
    return path


def late(record: TraceRecord) -> TraceRecord:
    """Of the first two traces 5 and 6 are modes, of all four it is 6."""
    if (record.problem, record.index) != ("split", 2):
        return record
    return dataclasses.replace(record, answer="6", correct=False, text="\\boxed{6}")


def test_figures_of_the_file_and_no_model(invoke: Any, tmp_path: Path) -> None:
    file, out = written(tmp_path / "traces.jsonl"), tmp_path / "out"
    arguments = [
        "bench",
        "parallel",
        "--traces",
        file,
        "--n",
        4,
        "--few",
        2,
        "--orders",
        12,
        "--strategies",
        "priced-vote",
    ]
    result = invoke(*arguments, "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["plot.png", "results.json", "results.jsonl", "table.md"]
    report = json.loads((out / "results.json").read_text())
    rows = {row["family"]: row for row in report["rows"] if row["n"] == 4}
    assert list(rows) == ["pass@1", "cons", "cons, early end", "priced-vote"]
    assert rows["pass@1"]["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert 0.25 <= rows["cons"]["accuracy"]["mean"] <= 0.5  # the split one goes by order
    assert rows["cons"]["total_tokens"] == pytest.approx(sum(10 + 3 * i for i in range(4)))
    priced = rows["priced-vote"]
    assert priced["token_share"] < 1
    assert priced["equal_cost"]["low"] <= priced["equal_cost"]["mean"] <= priced["equal_cost"]["high"]
    assert priced["live"] is None
    assert report["settings"]["model"] == {"name": "org/model", "fingerprint": "ab"}
    assert report["settings"]["problems"]["set"] == "traces.jsonl"
    assert report["settings"]["orders"] == 12
    assert "means over 12 orders" in (out / "table.md").read_text()

    lines = (out / "results.jsonl").read_text()
    again = invoke(*arguments, "-o", out)
    assert again.exit_code == 0, again.output
    assert (out / "results.jsonl").read_text() == lines


def test_a_budget_that_all_problems_share(invoke: Any, tmp_path: Path) -> None:
    file, out = written(tmp_path / "traces.jsonl", late), tmp_path / "out"
    arguments = [
        "bench",
        "parallel",
        "--traces",
        file,
        "--n",
        4,
        "--few",
        2,
        "--orders",
        6,
        "--strategies",
        "priced-vote",
    ]
    result = invoke(*arguments, "--pools", "2x,4x", "-o", out)
    assert result.exit_code == 0, result.output
    rows = {row["family"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    two, four, plain = rows["pool 2x"], rows["pool 4x"], rows["pass@1"]
    assert two["total_tokens"] == pytest.approx(2 * plain["total_tokens"], rel=0.2)
    assert two["fates"]["finished"] + two["fates"]["abandoned"] == 4
    # With four traces a problem there is nothing to share: what all four give, ties broken as the pool breaks them.
    assert four["total_tokens"] == pytest.approx(rows["cons"]["total_tokens"])
    assert four["kv_token_steps"] == pytest.approx(rows["cons"]["kv_token_steps"])
    assert four["equal_cost_by_confidence"]["mean"] == pytest.approx(0)
    curve = json.loads((out / "results.json").read_text())["plain"]
    assert [vote["tokens"] for vote in curve] == pytest.approx([plain["total_tokens"] * k for k in (1, 2, 3, 4)])
    assert curve[0]["accuracy"] == curve[0]["by_confidence"] == pytest.approx(plain["accuracy"]["mean"], abs=0.02)
    assert curve[3]["by_confidence"] == pytest.approx(four["accuracy"]["mean"])
    assert "ties by confidence" in result.stdout
    # Agreement is compared with the same two votes as accuracy.
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    singles = [each for each in results if each.get("entry") == "pass@1 n=4 none"]
    mine = [each["agrees"] for each in results if each.get("entry") == "pool 2x n=4 none" and each["kind"] == "result"]
    for ends, by_confidence in (("", False), ("_by_confidence", True)):
        votes = plain_votes([each for each in singles if each["kind"] == "result"], by_confidence, "agrees")
        assert votes is not None
        assert two[f"agrees_equal_cost{ends}"]["mean"] == pytest.approx(
            difference(mine, votes, two["total_tokens"]).mean
        )
    assert two["agrees_equal_cost"] != two["agrees_equal_cost_by_confidence"]
    # It is found again, and a row that is added runs alone.
    lines = (out / "results.jsonl").read_text()
    again = invoke(*arguments, "--pools", "2x,4x,3x", "-o", out)
    assert again.exit_code == 0, again.output
    added = [json.loads(line) for line in (out / "results.jsonl").read_text().removeprefix(lines).splitlines()]
    assert {record["entry"] for record in added} == {"pool 3x n=4 none"}


def test_a_pool_draws_from_the_traces_that_votes_draw_from(invoke: Any, tmp_path: Path) -> None:
    """Whether a problem has more traces than are asked for, or a pool fewer than the largest vote."""
    whole, some = written(tmp_path / "whole.jsonl"), tmp_path / "some.jsonl"
    write_traces(some, [trace(problem, index) for problem in ANSWERS for index in range(3)])
    rows = []
    for file in (whole, some):
        result = invoke(
            "bench", "parallel", "--traces", file, "--n", "2,3", "--few", "", "--orders", 8, "--strategies", "priced-vote",
            "--pools", "2x", "--json", "-o", tmp_path / f"out-{file.stem}",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        rows.append(json.loads(result.stdout)["rows"])
    assert rows[0] == rows[1]
    found = {row["label"]: row for row in rows[0]}
    # Two traces of each problem is all that this pool may take, so it takes those of the vote of two.
    assert found["pool 2x n=2 none"]["total_tokens"] == pytest.approx(found["cons n=2 none"]["total_tokens"])
    assert found["pass@1 n=2 none"]["accuracy"] == found["pass@1 n=3 none"]["accuracy"]


@pytest.mark.parametrize("orders", [1, 6])
def test_a_directory_that_grows_has_the_figures_of_one_that_was_whole(invoke: Any, tmp_path: Path, orders: int) -> None:
    file = written(tmp_path / "t.jsonl", late)

    def rows(n: str, out: str) -> Any:
        result = invoke(
            "bench", "parallel", "--traces", file, "--n", n, "--few", "", "--orders", orders,
            "--strategies", "priced-vote", "--pools", "1.5x", "--json", "-o", tmp_path / out,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["rows"]

    first = rows("2", "grown")
    grown = rows("2,4", "grown")
    assert grown == rows("2,4", "whole")
    assert [row["agrees"] for row in grown[: len(first)]] != [row["agrees"] for row in first]
    assert rows("2", "grown") == first


def test_first_problems_a_judge_and_an_excerpt(invoke: Any, tmp_path: Path) -> None:
    result = invoke(
        "bench", "parallel", "--traces", written(tmp_path / "t.jsonl"), "--problems", 2, "--n", 4, "--few", "",
        "--strategies", "deepprune:K2=1", "--judges", "random;perfect", "--excerpt", "tokens:4", "--json", "-o", tmp_path / "o",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {row["problems"] for row in rows} == {2}
    assert [row["judge"] for row in rows[3:]] == ["random", "perfect"]
    assert result.stderr.startswith("Written to ")


def test_a_tokenizer_tells_the_texts_of_excerpts(invoke: Any, tmp_path: Path) -> None:
    words = word_tokenizer()
    words.save_pretrained(tmp_path / "words")
    named = {**SETTINGS, "tokenizer": tokenizer_fingerprint(words)}

    def spelled(record: TraceRecord) -> TraceRecord:
        ids = tuple(range(12, 12 + 2 * record.index + 4))
        sure = (1.0,) * len(ids)
        return dataclasses.replace(record, settings=named, prompt_ids=(4, 5), token_ids=ids, confidences=sure)

    result = invoke(
        "bench", "parallel", "--traces", written(tmp_path / "t.jsonl", spelled), "--tokenizer", tmp_path / "words", "--n", 4,
        "--few", "", "--strategies", "deepprune:K2=1", "--judges", "facts", "--excerpt", "tokens:3", "-o", tmp_path / "o",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    judged = ("--n", 4, "--strategies", "deepprune", "--judges", "facts", "--excerpt", "tokens:3", "-o", tmp_path / "p")
    without = invoke("bench", "parallel", "--traces", tmp_path / "t.jsonl", *judged)
    assert without.exit_code == 2
    assert "has no text, and the judge facts reads text: give the engine a tokenizer" in without.stderr
    other = invoke("bench", "parallel", "--traces", written(tmp_path / "u.jsonl"), "--tokenizer", tmp_path / "words")
    assert other.exit_code == 2
    assert "give the model that wrote" in other.stderr


def cut(record: TraceRecord) -> TraceRecord:
    return dataclasses.replace(record, settings={**SETTINGS, "temperature": 0.1 * record.index})


@pytest.mark.parametrize(
    ("change", "extra", "says"),
    [
        (lambda r: dataclasses.replace(r, gold=""), [], "have no reference answer, so nothing tells which are right"),
        (cut, [], "holds traces with temperature 0.0 and 0.1; expected one: take them apart"),
        (
            lambda r: dataclasses.replace(r, settings={**SETTINGS, "policy": "rpc:interval=8,ratio=4,window=4"}),
            [],
            "were written under rpc:interval=8,ratio=4,window=4; expected full KV",
        ),
        (
            lambda r: dataclasses.replace(r, confidences=None),
            [],
            "reads confidences over 20 candidates, and the traces in",
        ),
        (lambda r: r, ["--n", 16], "The problem easy has 4 traces under none; expected 16"),
        (
            lambda r: r,
            ["--strategies", "deepprune", "--judges", "probe"],
            "deepprune, probe reads the model that wrote",
        ),
        (lambda r: r, ["--tokenizer", "nowhere"], "nowhere"),
        (lambda r: r, ["--pools", "four"], "the budget 'four' is neither; expected tokens, as 500000, or a multiple"),
        (lambda r: r, ["--pools", "0.5x"], "traces is 0.5; expected a number at least 1"),
        (lambda r: r, ["--pools", "2x,2x"], "Two rows would both be called pool 2x n="),
        (lambda r: r, ["--timed", 2], "--timed has no effect with --traces; leave it out"),
        (lambda r: r, ["-m", "org/model"], "--model has no effect with --traces; leave it out"),
        (lambda r: r, ["--policies", "rpc"], "--policies has no effect with --traces; leave it out"),
        (lambda r: r, ["--judges", "random"], "--judges has no effect without a strategy that asks a judge"),
        (lambda r: r, ["--orders", 0], "orders is 0; expected"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    invoke: Any, tmp_path: Path, change: Callable[[TraceRecord], TraceRecord], extra: list[object], says: str
) -> None:
    file = written(tmp_path / "t.jsonl", change)
    given = [] if "--n" in extra else ["--n", 4]
    result = invoke("bench", "parallel", "--traces", file, *given, *extra, "-o", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_file(invoke: Any, tmp_path: Path) -> None:
    result = invoke("bench", "parallel", "--traces", tmp_path / "gone.jsonl", "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert "gone.jsonl" in result.stderr


def test_results_of_other_traces_under_one_name_are_refused(invoke: Any, tmp_path: Path) -> None:
    file, out = written(tmp_path / "traces.jsonl"), tmp_path / "out"
    arguments = ("bench", "parallel", "--traces", file, "--n", 4, "--few", "", "--strategies", "priced-vote", "-o", out)
    assert invoke(*arguments).exit_code == 0
    kept = (out / "results.jsonl").read_text()
    written(file, lambda record: dataclasses.replace(record, token_ids=record.token_ids[1:], confidences=None))
    written(file, lambda record: dataclasses.replace(record, token_ids=(9, *record.token_ids[1:])))
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "was recorded with other settings (traces was " in result.stderr.splitlines()[-1]
    assert (out / "results.jsonl").read_text() == kept
    # A directory from before the traces were noted goes on.
    written(file)
    lines = kept.splitlines(keepends=True)
    header = json.loads(lines[0])
    del header["settings"]["traces"]
    (out / "results.jsonl").write_text(json.dumps(header) + "\n" + "".join(lines[1:]))
    assert invoke(*arguments).exit_code == 0


def test_auto_is_played_back_by_the_calibration_that_ships(invoke: Any, tmp_path: Path) -> None:
    file, out = written(tmp_path / "traces.jsonl"), tmp_path / "out"
    result = invoke(
        "bench", "parallel", "--traces", file, "--n", 4, "--few", "", "--strategies", "auto:spend=2x", "-o", out
    )
    assert result.exit_code == 0, result.output
    report = json.loads((out / "results.json").read_text())
    row = next(row for row in report["rows"] if row["strategy"] == "auto:spend=2x")
    assert row["fates"]["finished"] == 2  # of the calibration's rows that 2x pays for, the vote of two
    assert report["entries"][row["label"]]["calibration"].startswith("100 problems of ")
