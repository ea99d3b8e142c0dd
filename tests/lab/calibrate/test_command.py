"""`laconic calibrate`: a file that `solve --strategy auto` reads, from recorded traces alone."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.prune.test_calibration import check_gains

from laconic.answers import equivalent
from laconic.calibrations import place_of, read_calibration
from laconic.engines.replay import ReplayEngine, recorded_sampling
from laconic.lab.parallel.equal_cost import plain_votes
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.strategies.registry import parse
from laconic.traces import TraceRecord, write_traces

SETTINGS = {
    "model": "org/model", "weights": "ab" * 8, "policy": "full", "temperature": 0.8, "top_p": 0.9, "top_k": 0,
    "max_new_tokens": 40, "logprobs": 20, "tokenizer": "cd",
}  # fmt: skip
PROBLEMS, SAMPLES = 52, 6
STRATEGY = "priced-vote:price=0.02"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def records(problems: int = PROBLEMS, samples: int = SAMPLES) -> list[TraceRecord]:
    """Some problems are easy, some hopeless; right answers are 5, and more confident."""
    rng = random.Random(3)
    found = []
    for problem in range(problems):
        for index in range(samples):
            answer = "5" if rng.random() < problem % 4 / 3 else rng.choice("1234")
            tokens = tuple(range(rng.randrange(5, 20)))
            found.append(
                TraceRecord(
                    problem=f"p{problem}",
                    question=f"question {problem}?",
                    gold="5",
                    level=0,
                    index=index,
                    seed=7,
                    settings=SETTINGS,
                    prompt_ids=(1, 2, problem),
                    token_ids=tokens,
                    text=f"\\boxed{{{answer}}}",
                    answer=answer,
                    correct=answer == "5",
                    finish_reason="stop",
                    confidences=tuple(rng.uniform(1, 2) + (answer == "5") for _ in tokens),
                )
            )
    return found


def written(
    path: Path, change: Callable[[TraceRecord], TraceRecord | None] = lambda record: record, **count: int
) -> Path:
    changed = map(change, records(**count))
    write_traces(path, [record for record in changed if record is not None])
    return path


def test_rows_are_what_each_strategy_does_on_the_traces(invoke: Any, tmp_path: Path, cache: Path) -> None:
    file = written(tmp_path / "traces.jsonl")
    result = invoke("calibrate", file, "--orders", 1, "-s", STRATEGY)
    assert result.exit_code == 0, result.output
    assert f"wrote {place_of('ab' * 8)}" in result.stderr
    made = read_calibration(place_of("ab" * 8))
    assert (made.model, made.problems, made.samples) == ("org/model", PROBLEMS, SAMPLES)
    mean = sum(len(record.token_ids) for record in records()) / (PROBLEMS * SAMPLES)
    assert made.mean_tokens == pytest.approx(mean)
    plain = [row for row in made.rows if row.gain is None]
    assert [(row.strategy, row.n, row.traces) for row in plain] == [
        ("self-consistency:ties=confidence", k, k) for k in range(1, SAMPLES + 1)
    ]
    assert plain[0].accuracy == pytest.approx(
        sum(record.correct for record in records()) / (PROBLEMS * SAMPLES), abs=0.02
    )
    (priced,) = [row for row in made.rows if row.gain is not None]
    right = tokens = 0
    for problem in range(PROBLEMS):
        mine = [record for record in records() if record.problem == f"p{problem}"]
        engine = ReplayEngine(mine)
        verdict = parse(STRATEGY, SAMPLES).solve(engine, mine[0].question, recorded_sampling(mine[0]))
        right += equivalent(verdict.answer, "5")
        tokens += verdict.tokens.total
    assert (priced.strategy, priced.n) == (STRATEGY, SAMPLES)
    assert priced.accuracy == pytest.approx(right / PROBLEMS)
    assert priced.traces == pytest.approx(tokens / PROBLEMS / mean)
    assert priced.low is not None and priced.gain is not None and priced.high is not None  # noqa: PT018
    assert priced.low <= priced.gain <= priced.high
    again = invoke("calibrate", file, "--orders", 1, "-s", STRATEGY, "--json")  # nothing is played twice
    assert json.loads(again.stdout) | {"format": ""} == json.loads(
        json.dumps({"file": str(place_of("ab" * 8)), "format": "", **dataclasses.asdict(made)})
    )


@pytest.mark.parametrize("lacking", ["none", "first", "last"])
def test_gains_are_to_the_plain_votes_that_the_file_shows(invoke: Any, tmp_path: Path, lacking: str) -> None:
    """Whose ties go by confidence where every trace has one: no strategy gains what its plain vote would by the same ties."""
    bare = {"none": "", "first": "p0", "last": f"p{PROBLEMS - 1}"}[lacking]

    def change(record: TraceRecord) -> TraceRecord:
        return dataclasses.replace(record, confidences=None) if record.problem == bare else record

    file, out = written(tmp_path / "traces.jsonl", change), tmp_path / "made.json"
    specs = "priced-vote:price=0.02,ties=index;adaptive-consistency:ties=index"
    result = invoke("calibrate", file, "--orders", 2, "-s", specs, "-o", out)
    assert result.exit_code == 0, result.output
    made = read_calibration(out)
    plain = [row for row in made.rows if row.gain is None]
    ties = "ties=confidence" if lacking == "none" else "ties=index"
    assert [row.strategy for row in plain] == [f"self-consistency:{ties}"] * SAMPLES
    assert len(made.rows) == SAMPLES + 2
    check_gains(made)
    # The votes by index and by confidence are not alike on these traces, or nothing was put to the test.
    (journal,) = tmp_path.glob("made.*.results.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    singles = [line for line in lines if line["kind"] == "result" and line["entry"].startswith("pass@1")]
    votes = plain_votes(singles)
    assert votes is not None
    by_index = [sum(shares) / PROBLEMS for shares in zip(*votes.right, strict=True)]
    assert ([row.accuracy for row in plain] == pytest.approx(by_index)) == (lacking != "none")


def test_problems_with_more_traces_than_the_others_are_played_back_on_as_many(invoke: Any, tmp_path: Path) -> None:
    def fewer(record: TraceRecord) -> TraceRecord | None:
        return record if record.problem.endswith("1") or record.index < 4 else None

    made = []
    for name, change in (("uneven", fewer), ("even", lambda record: record if record.index < 4 else None)):
        file, out = written(tmp_path / f"{name}.jsonl", change), tmp_path / f"{name}.json"
        result = invoke("calibrate", file, "--orders", 3, "-s", STRATEGY, "-o", out)
        assert result.exit_code == 0, result.output
        made.append(read_calibration(out))
    assert made[0] == made[1]


def test_without_strategies_it_tries_several_and_ties_go_as_the_traces_allow(invoke: Any, tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.jsonl")
    bare = written(tmp_path / "bare.jsonl", lambda r: dataclasses.replace(r, confidences=None))
    few = written(tmp_path / "few.jsonl", lambda r: dataclasses.replace(r, settings={**r.settings, "logprobs": 5}))
    for file, ties in ((whole, "ties=confidence"), (bare, "ties=index"), (few, "ties=confidence,top_k=5")):
        out = tmp_path / f"{file.stem}.json"
        result = invoke("calibrate", file, "--orders", 1, "--n", 4, "-o", out)
        assert result.exit_code == 0, result.output
        assert f"--calibration {out}" in result.stderr
        rows = read_calibration(out).rows
        assert all(row.strategy.endswith(ties) for row in rows)
        names = {row.strategy.partition(":")[0] for row in rows}
        assert names == {"self-consistency", "priced-vote", "adaptive-consistency"}
        assert max(row.n for row in rows) == 4
        assert "Calibration: 52 problems, org/model, 4 recorded traces of each" in result.stdout


def test_other_traces_under_one_name_are_played_anew(invoke: Any, tmp_path: Path, cache: Path) -> None:
    """What was played back of other traces is not taken for these: not silently, and without being asked to clean up."""
    file = written(tmp_path / "traces.jsonl")
    common = ("calibrate", file, "--orders", 1, "-s", STRATEGY, "--json")
    first = json.loads(invoke(*common).stdout)
    written(file, lambda r: dataclasses.replace(r, answer="5", correct=True, text="\\boxed{5}"))
    second = invoke(*common)
    assert second.exit_code == 0, second.stderr
    assert {row["accuracy"] for row in json.loads(second.stdout)["rows"]} == {1.0}
    written(file)
    assert json.loads(invoke(*common).stdout) == first
    assert len(list((cache / "calibrations").glob("*.results.jsonl"))) == 2
    assert json.loads(invoke(*common, "--n", 4).stdout)["samples"] == 4
    assert invoke("calibrate", file, "--orders", 2, "-s", STRATEGY).exit_code == 0


def test_an_interrupted_run_goes_on_and_plays_nothing_twice(
    invoke: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "traces.jsonl")
    common = ("calibrate", file, "--orders", 1, "-s", STRATEGY)
    whole = invoke(*common, "-o", tmp_path / "whole.json")
    assert whole.exit_code == 0
    played: list[str] = []
    solve = PricedVote.solve

    def counted(self: PricedVote, engine: Any, question: str, sampling: Any) -> Any:
        if len(played) == 20:
            raise KeyboardInterrupt
        played.append(question)
        return solve(self, engine, question, sampling)

    monkeypatch.setattr(PricedVote, "solve", counted)
    cut = invoke(*common)
    assert cut.exit_code == 130
    assert "what is finished is in" in cut.stderr
    assert cut.stderr.rstrip().endswith("and the same command goes on from there")
    assert not place_of("ab" * 8).exists()
    again: list[str] = []

    def other(self: PricedVote, engine: Any, question: str, sampling: Any) -> Any:
        again.append(question)
        return solve(self, engine, question, sampling)

    monkeypatch.setattr(PricedVote, "solve", other)
    assert invoke(*common).exit_code == 0
    assert len(played) + len(again) == PROBLEMS
    assert not set(played) & set(again)
    assert read_calibration(place_of("ab" * 8)) == read_calibration(tmp_path / "whole.json")


def test_bad_input_is_one_sentence(invoke: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "traces.jsonl")
    single = written(tmp_path / "single.jsonl", samples=1)
    little = written(tmp_path / "little.jsonl", problems=20)
    other = written(
        tmp_path / "other.jsonl", lambda r: dataclasses.replace(r, settings={**r.settings, "policy": "rpc"})
    )
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 64)
    for args, says in (
        ([tmp_path / "nowhere.jsonl"], "There is no trace file"),
        ([tmp_path / "empty.jsonl"], "empty.jsonl"),
        ([tmp_path / "binary.jsonl"], "binary.jsonl"),
        ([tmp_path], "There is no trace file"),
        ([file, "--n", 10**9], "n is 1000000000; expected a whole number from 1 to 4096"),
        ([file, "--orders", 10**9], "orders is 1000000000"),
        ([single], "a calibration of 1 trace a problem has nothing to vote on; expected at least 4"),
        ([little], "the calibration has 20 problems, and at least 50 are needed"),
        ([other], "were written under rpc; expected full KV"),
        ([file, "--n", 3], "a calibration of 3 traces a problem has nothing to vote on"),
        ([file, "--n", 9], "has 6 traces"),
        ([file, "-s", "deepprune"], "the strategy deepprune can't be calibrated"),
        ([file, "-s", "auto"], "the strategy auto can't be calibrated"),
        ([file, "-s", "magic"], "strategy 'magic' is unknown"),
        ([file, "-s", "priced-vote:price=0"], "price is 0"),
        ([file, "-s", "priced-vote:top_k=5"], "were recorded with 20"),
        ([file, "--orders", 0], "orders is 0"),
        ([file, "-o", tmp_path], "is a directory"),
    ):
        result = invoke("calibrate", *args)
        assert result.exit_code == 2, (args, result.output, result.exception)
        assert says in result.stderr, (args, result.stderr)
        assert result.stderr.startswith("error: "), args
        assert result.stderr.count("\n") == 1, (args, result.stderr)
        assert result.stdout == ""
