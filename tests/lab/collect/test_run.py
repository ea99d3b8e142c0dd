"""Collecting traces: what is in the file after whatever happened, and what it comes to."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.conftest import FakeEngine

from laconic.compress import FullKV
from laconic.engines.base import Chunk, Sampling, Trace
from laconic.errors import LaconicError
from laconic.lab.collect.run import TraceProvenance, collect, open_file, trace_record
from laconic.lab.collect.summary import CollectionSummary, sum_up
from laconic.lab.shared.progress import Progress
from laconic.problems import Problem, is_correct
from laconic.problems.base import problem_seed
from laconic.prune.budget import PoolBudget
from laconic.traces import TraceRecord, read_traces

ORIGIN = TraceProvenance("fake", "w" * 16, "float32", "t" * 16, "full", "questions")
SAMPLING = Sampling(max_new_tokens=400, temperature=1.0, seed=5)


def run(
    path: Path,
    problems: list[Problem],
    n: int,
    engine: FakeEngine | None = None,
    sampling: Sampling = SAMPLING,
    origin: TraceProvenance = ORIGIN,
    **settings,
) -> tuple[CollectionSummary, FakeEngine]:
    engine = engine or FakeEngine(FullKV(), problems)
    with open_file(path, origin, sampling) as journal:
        found = collect(
            problems, engine, journal, n=n, sampling=sampling, settings=origin.line(sampling), batch=8, **settings
        )
    return found, engine


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_place(path: Path) -> dict[tuple[str, int], TraceRecord]:
    found = read_traces(path)
    assert found.broken == ()
    return {(record.problem, record.index): record for record in found.records}


@pytest.fixture
def some(problems: list[Problem]) -> list[Problem]:
    return problems[:12]


@pytest.fixture
def whole(tmp_path: Path, some: list[Problem]) -> dict[tuple[str, int], TraceRecord]:
    """What an uninterrupted run with n = 5 writes."""
    run(tmp_path / "whole.jsonl", some, 5)
    return by_place(tmp_path / "whole.jsonl")


def test_every_trace_is_written_with_all_that_is_known_of_it(tmp_path: Path, some: list[Problem]) -> None:
    path = tmp_path / "new" / "t.jsonl"
    events: list[Progress] = []
    found, engine = run(path, some, 5, watch=events.append)
    records = by_place(path)
    assert sorted(records) == sorted((problem.id, i) for problem in some for i in range(5))
    assert lines(path)[0]["kind"] == "header"
    reference = FakeEngine(FullKV(), some)
    for problem in some:
        seed = problem_seed(5, problem)
        ids = reference.submit(problem.question, replace(SAMPLING, seed=seed), 5)
        for _ in reference.stream():
            pass
        for index, trace in enumerate(reference.trace(i) for i in ids):
            record = records[problem.id, index]
            assert (record.question, record.gold, record.seed) == (problem.question, problem.answer, seed)
            assert (record.prompt_ids, record.token_ids) == (tuple(range(11)), tuple(trace.token_ids))
            assert (record.text, record.finish_reason) == (trace.text, trace.finish_reason)
            assert record.correct == is_correct(problem, trace.text)
            assert record.kv["peak"] == trace.peak_kv_tokens
            assert record.settings == {
                "model": "fake", "weights": "w" * 16, "policy": "full", "temperature": 1.0, "top_p": 0.95, "top_k": 0,
                "max_new_tokens": 400, "logprobs": 0, "tokenizer": "t" * 16,
            }  # fmt: skip
    assert {record.finish_reason for record in records.values()} == {"stop", "length"}
    assert [event.done for event in events] == list(range(1, 61))
    assert events[-1] == Progress("traces", 60, 60, found.tokens)
    assert engine.traces == {}, "records of finished traces leave the engine"


def test_the_summary_is_what_counting_says(tmp_path: Path, some: list[Problem]) -> None:
    found, _ = run(tmp_path / "t.jsonl", some, 5)
    records = by_place(tmp_path / "t.jsonl")
    votes, equal = [], 0
    for problem in some:
        mine = [records[problem.id, i] for i in range(5)]
        counted = Counter(record.answer for record in mine if record.answer is not None)
        votes.append(counted.most_common(1)[0][0] == problem.answer if counted else False)
        equal += sum(a.answer == b.answer is not None for i, a in enumerate(mine) for b in mine[:i])
    assert found.pass_at_1 is not None
    assert found.cons_at_n is not None
    assert found.pass_at_1.mean == pytest.approx(sum(r.correct for r in records.values()) / 60)
    assert found.cons_at_n.mean == pytest.approx(sum(votes) / 12)
    assert found.equal_pairs == equal / (12 * 10)
    assert found.tokens == found.new_tokens == sum(len(r.token_ids) for r in records.values())
    assert (found.problems, found.traces, found.new, found.missing, found.refused) == (12, 60, 60, 0, ())
    told = found.to_json()
    assert json.loads(json.dumps(told))["pass_at_1"]["mean"] == told["pass_at_1"]["mean"] == found.pass_at_1.mean


def test_a_file_grows_by_what_it_lacks(
    tmp_path: Path, some: list[Problem], whole: dict[tuple[str, int], TraceRecord]
) -> None:
    path = tmp_path / "t.jsonl"
    first, _ = run(path, some[:6], 3)
    before = path.read_bytes()
    second, engine = run(path, some, 5)
    assert path.read_bytes().startswith(before)
    assert by_place(path) == whole
    assert (first.traces, second.traces, second.new) == (18, 60, 42)
    assert engine.generated == second.new_tokens < second.tokens == sum(len(r.token_ids) for r in whole.values())
    third, engine = run(path, some[:6], 3)
    assert engine.generated == 0
    assert (third.traces, third.new, third.tokens_per_second) == (18, 0, None)
    assert (third.pass_at_1, third.cons_at_n, third.equal_pairs) == (
        first.pass_at_1,
        first.cons_at_n,
        first.equal_pairs,
    )


def test_a_trace_that_is_told_of_outlives_the_process(tmp_path: Path, some: list[Problem]) -> None:
    """Whatever ends it: the system has every line by then, none of it waits in a buffer of ours."""
    path, seen = tmp_path / "t.jsonl", []
    run(path, some, 2, watch=lambda event: seen.append((event.done, path.read_bytes())))
    assert [data.count(b"\n") for _, data in seen] == [done + 1 for done, _ in seen]
    assert all(data.endswith(b"\n") for _, data in seen)


@pytest.mark.parametrize("after", [1, 7, 30, 59])
def test_an_interrupted_run_keeps_what_was_finished_and_goes_on(
    tmp_path: Path, some: list[Problem], whole: dict[tuple[str, int], TraceRecord], after: int
) -> None:
    path = tmp_path / "t.jsonl"
    engine = FakeEngine(FullKV(), some)
    engine.crash_after = after
    with pytest.raises(KeyboardInterrupt):
        run(path, some, 5, engine)
    assert len(by_place(path)) == after
    found, _ = run(path, some, 5)
    assert found.new == 60 - after
    assert len(lines(path)) == 61
    assert by_place(path) == whole


def test_a_line_cut_short_is_cut_off_and_its_trace_runs_again(
    tmp_path: Path, some: list[Problem], whole: dict[tuple[str, int], TraceRecord]
) -> None:
    path = tmp_path / "t.jsonl"
    run(path, some, 5)
    path.write_bytes(path.read_bytes()[:-40])
    found, _ = run(path, some, 5)
    assert found.new == 1
    assert by_place(path) == whole


def test_a_broken_line_costs_its_trace_only(
    tmp_path: Path, some: list[Problem], whole: dict[tuple[str, int], TraceRecord]
) -> None:
    path = tmp_path / "t.jsonl"
    run(path, some, 5)
    written = path.read_bytes().splitlines()
    written[3] = written[3][:80]
    written[9] = written[9].replace(b'"token_ids"', b'"tokens"')
    path.write_bytes(b"\n".join(written) + b"\n")
    with open_file(path, ORIGIN, SAMPLING) as journal:
        assert journal.broken == ["line 4 is not JSON", "line 10 is no record of its kind (lacks token_ids)"]
    found, _ = run(path, some, 5)
    assert found.new == 2
    left = read_traces(path)
    assert [clause[:8] for clause in left.broken] == ["line 4 i", "line 10:"]
    assert {(r.problem, r.index): r for r in left.records} == whole


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path,
    some: list[Problem],
    whole: dict[tuple[str, int], TraceRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "t.jsonl"
    real, room = os.write, 20_000

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(fd, data[:room])
        room -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(LaconicError, match=r"no room left to write .*t\.jsonl .*run the same command again"):
            run(path, some, 5)
    kept = by_place(path)
    assert 5 < len(kept) < 60
    assert path.stat().st_size < 20_000, "half a line was written, and taken back"
    found, _ = run(path, some, 5)
    assert found.new == 60 - len(kept)
    assert by_place(path) == whole


@pytest.mark.parametrize(
    ("sampling", "origin", "says"),
    [
        (replace(SAMPLING, seed=6), ORIGIN, "sampling.seed was 5, now 6"),
        (replace(SAMPLING, temperature=0.5), ORIGIN, "sampling.temperature was 1.0, now 0.5"),
        (replace(SAMPLING, confidence_top_k=3), ORIGIN, "sampling.logprobs was 0, now 3"),
        (SAMPLING, replace(ORIGIN, weights="v" * 16), "weights was 'w"),
        (SAMPLING, replace(ORIGIN, policy="rpc"), "policy was 'full', now 'rpc'"),
        (SAMPLING, replace(ORIGIN, problems="others"), "problems was 'questions', now 'others'"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, some: list[Problem], sampling: Sampling, origin: TraceProvenance, says: str
) -> None:
    path = tmp_path / "t.jsonl"
    run(path, some[:2], 2)
    before = path.read_bytes()
    with pytest.raises(LaconicError, match=says):
        run(path, some[:2], 2, sampling=sampling, origin=origin)
    assert path.read_bytes() == before


def test_another_problem_under_a_known_id_is_refused(tmp_path: Path, some: list[Problem]) -> None:
    path = tmp_path / "t.jsonl"
    run(path, some[:2], 2)
    for changed in (replace(some[1], question="another"), replace(some[1], answer="another")):
        with pytest.raises(LaconicError, match=r"t\.jsonl holds traces of another problem with the id p1"):
            run(path, [some[0], changed], 2)


class Choosy(FakeEngine):
    """Refuses some questions."""

    refused = ("question 1", "question 4")

    def submit(self, prompt, sampling, n=1, ids=None):
        if prompt in self.refused:
            raise LaconicError(f"the prompt has 9,000 tokens, but the model's context is 1024: {prompt}")
        return super().submit(prompt, sampling, n, ids)


def test_a_problem_that_can_not_be_run_is_skipped_and_told(tmp_path: Path, some: list[Problem]) -> None:
    events: list[Progress] = []

    def readable(question: str) -> None:
        if question == "question 7":
            raise LaconicError("no such words")

    path = tmp_path / "t.jsonl"
    found, _ = run(path, some, 3, Choosy(FullKV(), some), watch=events.append, check_question=readable)
    assert [name for name, _ in found.refused] == ["p1", "p4", "p7"]
    assert "context is 1024" in found.refused[0][1]
    assert (found.problems, found.traces, found.missing) == (9, 27, 9)
    told = [event.message for event in events if event.message]
    assert len(told) == 3
    assert told[2] == "problem p7 is skipped: no such words"
    assert {record.problem for record in read_traces(path).records} == {p.id for p in some} - {"p1", "p4", "p7"}


def test_if_none_can_be_run_the_first_says_why(tmp_path: Path, some: list[Problem]) -> None:
    with pytest.raises(
        LaconicError, match=r"None of the problems can be run; p1, the first of 1: the prompt has 9,000"
    ):
        run(tmp_path / "t.jsonl", some[1:2], 3, Choosy(FullKV(), some))


def test_an_error_of_the_engine_while_it_runs_is_not_taken_for_a_refusal(tmp_path: Path, some: list[Problem]) -> None:
    class Broken(FakeEngine):
        def stream(self) -> Generator[Chunk, None, None]:
            raise LaconicError("out of memory")
            yield

    with pytest.raises(LaconicError, match="out of memory"):
        run(tmp_path / "t.jsonl", some, 3, Broken(FullKV(), some))


def test_the_engine_never_runs_half_empty_and_never_holds_all_problems(tmp_path: Path, problems: list[Problem]) -> None:
    seen: list[int] = []

    class Watched(FakeEngine):
        def stream(self) -> Generator[Chunk, None, None]:
            for chunk in super().stream():
                active = sum(t.state in ("waiting", "running") for t in self.traces.values())
                seen.append(active + bool(chunk.finish_reason))
                yield chunk

    found, _ = run(tmp_path / "t.jsonl", problems, 3, Watched(FullKV(), problems, batch=8))
    assert found.traces == 120
    assert max(seen) <= 2 * 8 + 3
    upto = next(i for i, active in enumerate(seen) if active < 8)
    assert all(active >= 8 for active in seen[:upto])
    assert len(seen) - upto < len(seen) / 4, "only the last few traces run alone"


@pytest.mark.parametrize(
    ("problems_", "n", "says"),
    [
        ([], 1, "no problems"),
        ([Problem("a", "q", "1"), Problem("a", "r", "1")], 1, "Two problems have the id 'a'"),
        ([Problem("a", "q", "1")], 0, "n is 0; expected a whole number from 1"),
        ([Problem("a", "q", "1")], 70_000, "n is 70000"),
    ],
)
def test_bad_input(tmp_path: Path, problems_: list[Problem], n: int, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        run(tmp_path / "t.jsonl", problems_, n)


def brief(*answers: str | None, gold: str = "1") -> list[dict]:
    return [{"answer": answer, "correct": answer == gold, "tokens": 10} for answer in answers]


@pytest.mark.parametrize(
    ("traces", "right", "equal"),
    [
        (brief("1", "2", "2"), False, 1 / 3),
        (brief("2", "1", "1.0"), True, 1 / 3),
        (brief("2", "1"), False, 0.0),
        (brief("1", "2"), True, 0.0),
        (brief(None, None, "1"), True, 0.0),
        (brief(None, None), False, 0.0),
        (brief("1"), True, None),
    ],
)
def test_votes_and_pairs(traces: list[dict], right: bool, equal: float | None) -> None:
    found = sum_up([traces], path="t", n=3, missing=0, refused=[], new=0, new_tokens=0, seconds=1.0)
    assert found.pass_at_1 is not None
    assert found.cons_at_n is not None
    assert found.cons_at_n.mean == right
    assert found.equal_pairs == (equal if equal is None else pytest.approx(equal))
    assert found.pass_at_1.mean == pytest.approx(sum(t["correct"] for t in traces) / len(traces))


def test_only_a_finished_trace_makes_a_record() -> None:
    problem = Problem("p", "q", "1")
    trace = Trace("t", 0, (1, 2), replace(SAMPLING, confidence_top_k=2), [5, 6], "\\boxed{1}", [1.23456789, 2.0])
    with pytest.raises(LaconicError, match="only a finished one"):
        trace_record(problem, trace, {})
    trace.finish_reason = "stop"
    record = trace_record(problem, trace, {}, bytes_per_token=64)
    assert record.confidences == (1.234568, 2.0)
    assert record.kv["bytes_per_token"] == 64
    assert record.correct
    trace.finish_reason = "stopped"
    with pytest.raises(LaconicError, match="finish_reason is 'stopped'"):
        trace_record(problem, trace, {})


# ---- a budget that all problems share --------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [PoolBudget(traces=3), PoolBudget(tokens=9000)], ids=str)
def test_problems_share_a_budget(tmp_path: Path, some: list[Problem], budget: PoolBudget) -> None:
    run(tmp_path / "all.jsonl", some, 8)
    every = by_place(tmp_path / "all.jsonl")
    path = tmp_path / "t.jsonl"
    events: list[Progress] = []
    found, engine = run(path, some, 8, budget=budget, watch=events.append)
    records = by_place(path)
    assert all(record == every[place] for place, record in records.items())  # the very traces, fewer of them
    counts = Counter(name for name, _ in records)
    assert set(counts) == {problem.id for problem in some}
    assert min(counts.values()) >= 2
    assert max(counts.values()) > min(counts.values())
    tokens = sum(len(record.token_ids) for record in records.values())
    assert found.limit is not None
    assert abs(tokens - found.limit) < 8 * 150  # what ran at the end may be longer or shorter than was expected of it
    assert (found.tokens, found.new, found.traces, found.missing) == (tokens, len(records), len(records), 0)
    assert found.budget == str(budget)
    votes = []
    for problem in some:
        answers = [records[problem.id, i].answer for i in range(8) if (problem.id, i) in records]
        said = [answer for answer in answers if answer is not None]
        best = max(said, key=lambda a: (said.count(a), -said.index(a)), default=None)
        votes.append(float(is_correct(problem, f"</think> \\boxed{{{best}}}")))
    assert found.cons_at_n is not None
    assert found.cons_at_n.mean == pytest.approx(sum(votes) / len(votes))
    assert [event.done for event in events] == list(range(1, len(records) + 1))
    assert events[-1].total >= len(records)
    assert engine.generated == tokens
    # It is all there: the same again runs nothing.
    again, engine = run(path, some, 8, budget=budget)
    assert (again.new, engine.generated) == (0, 0)
    assert again.tokens == found.tokens


def test_a_shared_budget_goes_on_where_it_was_cut(tmp_path: Path, some: list[Problem]) -> None:
    path, budget = tmp_path / "t.jsonl", PoolBudget(traces=3)
    for after in (1, 5, 9):
        engine = FakeEngine(FullKV(), some)
        engine.crash_after = after
        with pytest.raises(KeyboardInterrupt):
            run(path, some, 8, engine, budget=budget)
    found, _ = run(path, some, 8, budget=budget)
    records = by_place(path)
    assert len(lines(path)) == 1 + len(records)  # none was written twice
    assert abs(found.tokens - (found.limit or 0)) < 8 * 150
    # A larger budget adds to the file.
    grown, _ = run(path, some, 8, budget=PoolBudget(traces=5))
    assert grown.tokens > 1.4 * found.tokens
    assert all(by_place(path)[place] == record for place, record in records.items())


def test_problems_that_are_refused_leave_their_share(tmp_path: Path, some: list[Problem]) -> None:
    def check(question: str) -> None:
        if question == "question 1":
            raise LaconicError("it is too long")

    events: list[Progress] = []
    found, _ = run(
        tmp_path / "t.jsonl", some, 8, budget=PoolBudget(traces=3), check_question=check, watch=events.append
    )
    assert found.refused == (("p1", "it is too long"),)
    assert found.problems == 11
    assert events[0].message == "problem p1 is skipped: it is too long"
    with pytest.raises(LaconicError, match="None of the problems can be run; p1, the first of 1: it is too long"):
        run(tmp_path / "none.jsonl", some[1:2], 8, budget=PoolBudget(traces=3), check_question=check)
