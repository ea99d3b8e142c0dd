"""Sets of problems: each by a strategy or all by a pool, files that a run goes on from, and the summary against a slow one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from laconic.errors import EngineError, InputError, LaconicError
from laconic.judges.baselines import TokenJaccard
from laconic.problems import Problem
from laconic.prune import Pool, SelfConsistency, parse
from laconic.prune.budget import PoolBudget
from laconic.solve_set import set_settings, solve_each, solve_pool
from laconic.solved import SetResults, SolvedProblem, open_verdicts, sum_up
from tests.prune.scripted import SAMPLING, Script
from tests.prune.test_calibration import calibration
from tests.prune.test_pool import ProblemsEngine, sets_of

N = 8
FIRST_TWO = [[Script(5, "1")] * N, [Script(9, answer) for answer in "23323232"]]


def asked(count: int, gold: str = "1") -> list[Problem]:
    return [Problem(f"p{place}", str(place), gold) for place in range(count)]


def settings(strategy: Any) -> dict[str, Any]:
    return set_settings(strategy, SAMPLING, {"name": "scripted"}, "set", policy="full", judge=None)


SIDE_BY_SIDE = ["self-consistency", "priced-vote:price=0.01", "adaptive-consistency", "deepprune:K2=2,excerpt=tokens:3"]


def solved_by(strategy: Any, sets: list[list[Script]], path: Path | None = None, **more: Any) -> SetResults:
    """Run to the end. more: of ProblemsEngine."""
    problems, engine = asked(len(sets)), ProblemsEngine(sets, **more)
    solve: Any = solve_pool if isinstance(strategy, Pool) else solve_each
    if path is None:
        results = SetResults(problems)
        list(solve(problems, engine, strategy, SAMPLING, results))
    else:
        with open_verdicts(path, settings(strategy)) as journal:
            results = SetResults(problems, journal)
            list(solve(problems, engine, strategy, SAMPLING, results))
    return results


def lines(path: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in map(json.loads, path.read_text().splitlines()) if record["kind"] == kind]


def test_each_problem_has_the_strategys_own_verdict(tmp_path: Path) -> None:
    sets = sets_of(1)
    strategy = parse("priced-vote:price=0.01", n=N)
    results = solved_by(strategy, sets, tmp_path / "v.jsonl")
    for place, problem in enumerate(asked(len(sets))):
        alone = strategy.solve(ProblemsEngine(sets), str(place), SAMPLING)
        assert results.solved[problem.id] == SolvedProblem.of(problem, alone)
    told = lines(tmp_path / "v.jsonl", "verdict")
    assert [record["problem"] for record in told] == [f"p{place}" for place in range(6)]
    assert all(trace["text"] for record in told for trace in record["traces"] if trace["fate"] == "finished")


@pytest.mark.parametrize("rows", [2, 5, 100])
@pytest.mark.parametrize("spec", SIDE_BY_SIDE)
def test_problems_side_by_side_are_solved_as_alone(tmp_path: Path, spec: str, rows: int) -> None:
    sets, path = sets_of(5), tmp_path / "v.jsonl"
    sets[2] = []  # which the engine refuses
    strategy = parse(spec, n=N, judge=TokenJaccard() if "deepprune" in spec else None)
    engine = ProblemsEngine(sets, max_batch=rows)
    with open_verdicts(path, settings(strategy)) as journal:
        results = SetResults(asked(6), journal)
        told = list(solve_each(asked(6), engine, strategy, SAMPLING, results, rows=rows))
    assert [step.message for step in told if step.message] == [
        "problem p2 is skipped: the prompt is longer than the context"
    ]
    assert [step.done for step in told if not step.message] == [1, 2, 3, 4, 5]
    assert told[-1].tokens == sum(found.tokens for found in results.solved.values())
    for place, problem in enumerate(asked(6)):
        if sets[place]:
            alone = strategy.solve(ProblemsEngine(sets, max_batch=rows), str(place), SAMPLING)
            found, expected = results.solved[problem.id], SolvedProblem.of(problem, alone)
            assert found.answer == expected.answer
            if rows > N * len(sets):  # else what of it runs when its vote is decided depends on what runs beside it
                assert found == expected
    assert all(record["seconds"]["total"] >= 0 for record in lines(path, "verdict"))
    assert not engine._rows, "all are forgotten"


def test_the_batch_stays_full() -> None:
    sets = [[Script(4 + place, "1")] * N for place in range(12)]
    strategy, problems = parse("priced-vote", n=N), asked(12)
    engines = [ProblemsEngine(sets, max_batch=6) for _ in range(2)]
    for rows, engine in zip((1, 6), engines, strict=True):
        list(solve_each(problems, engine, strategy, SAMPLING, SetResults(problems), rows=rows))
    alone, beside = (engine.rows for engine in engines)
    assert sum(alone) == sum(beside), "the same tokens"
    assert max(beside) == 6
    assert len(beside) < len(alone) / 2


@pytest.mark.parametrize("steps", [1, 3])
def test_who_stops_listening_stops_what_runs(steps: int) -> None:
    sets, problems = sets_of(6), asked(6)
    engine = ProblemsEngine(sets, max_batch=4)
    telling = solve_each(problems, engine, SelfConsistency(N), SAMPLING, SetResults(problems), rows=4)
    for _ in range(steps):
        next(telling)
    assert engine._rows
    telling.close()  # type: ignore[attr-defined]
    assert not any(row.trace.state == "running" for row in engine._rows.values())


def test_a_strategy_that_goes_by_the_whole_cache_has_it_alone() -> None:
    sets, problems = [[Script(6, "1", confidence=(1.0,))] * N] * 3, asked(3)
    engine = ProblemsEngine(sets, max_batch=100)
    strategy = parse("step:kv=20", n=N)
    list(solve_each(problems, engine, strategy, SAMPLING, SetResults(problems), rows=100))
    assert max(engine.rows) <= N


@pytest.mark.parametrize("rows", [1, 6])
def test_a_problem_that_lost_a_trace_is_tried_again(tmp_path: Path, rows: int) -> None:
    sets, path, strategy = [[Script(6, "1")] * N] * 4, tmp_path / "v.jsonl", SelfConsistency(N, early_end=False)
    engine = ProblemsEngine(sets, max_batch=16)
    engine.lost_of = {1: {3: 2}}
    for left in (1, 0):
        with open_verdicts(path, settings(strategy)) as journal:
            results = SetResults(asked(4), journal)
            list(solve_each(asked(4), engine, strategy, SAMPLING, results, rows=rows))
        assert results.refused == [("p1", "1 of its 8 traces lost: the line was cut")] * left
        engine.lost_of = {}
    assert len(results.solved) == 4
    assert not engine._rows


@pytest.mark.parametrize("rows", [1, 6, 50])
def test_an_engine_that_is_gone_ends_the_set_and_no_verdict_is_made_up(tmp_path: Path, rows: int) -> None:
    sets, path, strategy = [[Script(6, "1")] * N] * 5, tmp_path / "v.jsonl", SelfConsistency(N, early_end=False)
    engine = ProblemsEngine(sets, max_batch=16)
    engine.lost_of = {place: dict.fromkeys(range(N), 1) for place in range(2, 5)}
    with open_verdicts(path, settings(strategy)) as journal:
        solving = solve_each(asked(5), engine, strategy, SAMPLING, SetResults(asked(5), journal), rows=rows)
        with pytest.raises(EngineError, match="none of the traces came to its end; trace 0 is lost: the line was cut"):
            list(solving)
    assert {record["problem"] for record in lines(path, "verdict")} <= {"p0", "p1"}
    assert not engine._rows


def test_a_pool_keeps_no_trace_that_was_lost(tmp_path: Path) -> None:
    sets, path, pool = [[Script(6, "1")] * N] * 3, tmp_path / "v.jsonl", Pool(N, PoolBudget(traces=4), parallel=4)
    engine = ProblemsEngine(sets)
    engine.lost_of = {1: {1: 3}}
    with open_verdicts(path, settings(pool)) as journal, pytest.raises(EngineError, match="the line was cut"):
        list(solve_pool(asked(3), engine, pool, SAMPLING, SetResults(asked(3), journal)))
    told = {(record["problem"], record["index"]) for record in lines(path, "trace")}
    assert told
    assert ("p1", 1) not in told
    again = solved_by(pool, sets, path)
    assert all(len(found.finished) >= 2 for found in again.solved.values())


@pytest.mark.parametrize("rows", [2, 20])
def test_whatever_an_engine_raises_comes_out(rows: int) -> None:
    """An InputError in a step must not be read as one about traces that were given up: the step would be tried for ever."""
    sets, problems = [[Script(9, "1")] * N] * 3, asked(3)
    engine = ProblemsEngine(sets, fail_at=3, error=InputError("this model caches no values"))
    with pytest.raises(InputError, match="this model caches no values"):
        list(solve_each(problems, engine, SelfConsistency(N), SAMPLING, SetResults(problems), rows=rows))


def test_a_strategy_by_the_clock_has_the_engine_alone() -> None:
    assert parse("auto:spend=30s", n=N, calibration=calibration()).alone
    assert not parse("auto:spend=4x", n=N, calibration=calibration()).alone


def test_rows_are_counted() -> None:
    with pytest.raises(InputError, match="rows is 0"):
        list(solve_each(asked(1), ProblemsEngine([[]]), SelfConsistency(N), SAMPLING, SetResults(asked(1)), rows=0))


def test_a_file_of_verdicts_goes_on_and_grows(tmp_path: Path) -> None:
    sets, path, strategy = sets_of(2), tmp_path / "v.jsonl", SelfConsistency(N)
    whole = solved_by(strategy, sets)
    first = solved_by(strategy, sets[:2], path)
    assert len(first.solved) == 2
    engine = ProblemsEngine(sets)
    with open_verdicts(path, settings(strategy)) as journal:
        results = SetResults(asked(6), journal)
        list(solve_each(asked(6), engine, strategy, SAMPLING, results))
    assert engine.asked == [2, 3, 4, 5]
    assert results.solved == whole.solved
    with pytest.raises(InputError, match=r"recorded with other settings \(strategy.n was 8, now 4\)"):
        open_verdicts(path, settings(SelfConsistency(4)))


@pytest.mark.parametrize("cut", [0, 1, 5, 11])
def test_a_pool_goes_on_from_the_traces_of_its_file(tmp_path: Path, cut: int) -> None:
    sets, path = sets_of(3), tmp_path / "v.jsonl"
    pool = Pool(N, PoolBudget(tokens=400), parallel=1)
    whole = solved_by(pool, sets)
    with open_verdicts(path, settings(pool)) as journal:
        steps = solve_pool(asked(6), ProblemsEngine(sets), pool, SAMPLING, SetResults(asked(6), journal))
        for _ in range(cut):
            next(steps)
    assert len(lines(path, "trace") if cut else []) == cut
    again = solved_by(pool, sets, path)
    assert again.solved == whole.solved
    assert [found["problem"] for found in lines(path, "verdict")] == [f"p{place}" for place in range(6)]
    keys = [(record["problem"], record["index"]) for record in lines(path, "trace")]
    assert len(set(keys)) == len(keys) == sum(len(found.finished) for found in again.solved.values())


def test_a_larger_budget_and_n_add_to_the_file(tmp_path: Path) -> None:
    sets, path = sets_of(4), tmp_path / "v.jsonl"
    small = solved_by(Pool(4, PoolBudget(traces=2), parallel=1), sets, path)
    large = solved_by(Pool(N, PoolBudget(traces=5), parallel=1), sets, path)
    again = solved_by(Pool(N, PoolBudget(traces=5), parallel=1), sets, path)
    assert again.solved == large.solved
    grown = [name for name in small.solved if small.solved[name] != large.solved[name]]
    assert grown
    count = Counter(record["problem"] for record in lines(path, "verdict"))
    assert count == {name: 1 + (name in grown) for name in small.solved}
    for name, before in small.solved.items():
        assert large.solved[name].finished[: len(before.finished)] == before.finished


def test_a_problem_of_a_pool_is_settled_when_all_its_traces_have_ended() -> None:
    problems = asked(2)
    steps = solve_pool(
        problems, ProblemsEngine(FIRST_TWO), Pool(2, PoolBudget(traces=2), parallel=1), SAMPLING, SetResults(problems)
    )
    told = [step.solved.problem if step.solved else "" for step in steps]
    assert [name for name in told if name] == ["p0", "p1"]
    assert told.index("p0") < len(told) - 1


def test_a_pools_verdict_is_its_vote(tmp_path: Path) -> None:
    results = solved_by(Pool(N, PoolBudget(traces=4), parallel=1), FIRST_TWO, tmp_path / "v.jsonl")
    easy, contested = results.solved["p0"], results.solved["p1"]
    assert (easy.answer, easy.right, easy.traces, easy.generated, easy.votes) == ("1", True, 2, 10, (("1", 2.0),))
    assert contested.right is False
    assert contested.traces > 4
    assert contested.generated == 9 * contested.traces
    record = lines(tmp_path / "v.jsonl", "verdict")[-1]
    assert (record["strategy"], record["gold"], record["settings"]["budget"]) == ("pool", "1", "4 traces a problem")
    assert lines(tmp_path / "v.jsonl", "trace")[0]["text"].endswith("\\boxed{1}")


def slow_plain(sets: list[list[Script]], found: list[SolvedProblem], traces: int) -> list[str | None]:
    """The plain votes of the first so many of each problem's finished traces, counted out; ties by mean confidence."""
    said = []
    for scripts, solved in zip(sets, found, strict=True):
        told = [scripts[trace.index] for trace in solved.finished][:traces]
        sure: dict[str, list[float]] = {}
        for script in told:
            if script.answer is not None:
                sure.setdefault(script.answer, []).append(script.confidence[0])
        ranks = {answer: (len(each), sum(each) / len(each)) for answer, each in sure.items()}
        said.append(max(ranks, key=lambda answer: ranks[answer]) if ranks else None)
    return said


@pytest.mark.parametrize("strategy", [Pool(N, PoolBudget(traces=3.5), parallel=1), parse("priced-vote", n=N)])
@pytest.mark.parametrize("seed", range(4))
def test_the_summary_is_what_counting_says(seed: int, strategy: Any) -> None:
    sets = sets_of(seed)
    results = solved_by(strategy, sets)
    found = [results.solved[f"p{place}"] for place in range(6)]
    summary = results.summary()
    assert (summary.problems, summary.scored, summary.judged) == (6, 6, 0)
    assert summary.traces == sum(len(each.finished) for each in found)
    assert summary.generated == sum(sets[p][t.index].length for p, each in enumerate(found) for t in each.finished)
    assert summary.accuracy is not None
    assert summary.accuracy.mean == pytest.approx(sum(each.answer == "1" for each in found) / 6)
    means = [sum(sets[p][t.index].length for t in each.finished) / len(each.finished) for p, each in enumerate(found)]
    traces = summary.generated / sum(means)
    vote = summary.plain
    assert vote is not None
    assert vote.traces == pytest.approx(traces)
    low, part = int(traces), traces - int(traces)
    shares = [slow_plain(sets, found, k) for k in (low, low + 1)]
    right = [(1 - part) * (a == "1") + part * (b == "1") for a, b in zip(*shares, strict=True)]
    assert vote.accuracy is not None
    assert vote.ahead is not None
    assert vote.accuracy.mean == pytest.approx(sum(right) / 6)
    assert vote.ahead.mean == pytest.approx(summary.accuracy.mean - sum(right) / 6)
    near = slow_plain(sets, found, round(traces))
    assert vote.otherwise == sum(said != each.answer for said, each in zip(near, found, strict=True))
    assert vote.fewer == sum(len(each.finished) < round(traces) for each in found)
    assert summary.to_json()["plain"]["accuracy"]["mean"] == vote.accuracy.mean


def test_without_reference_answers_nothing_is_scored() -> None:
    problems = [Problem("a", "0", ""), Problem("b", "1", "3")]
    results = SetResults(problems)
    list(solve_each(problems, ProblemsEngine(FIRST_TWO), SelfConsistency(3), SAMPLING, results))
    assert [results.solved[name].right for name in "ab"] == [None, True]
    assert results.summary().scored == 1
    alone = sum_up([results.solved["a"]])
    assert (alone.accuracy, alone.scored, alone.answered) == (None, 0, 1)
    assert alone.plain is not None
    assert (alone.plain.accuracy, alone.plain.ahead) == (None, None)
    assert sum_up([]).plain is None


@pytest.mark.parametrize("strategy", [SelfConsistency(4), Pool(4, PoolBudget(traces=3))], ids=lambda s: s.name)
def test_a_problem_that_is_refused_is_left_out(strategy: Any) -> None:
    sets = [FIRST_TWO[0], [], FIRST_TWO[1]]
    results = solved_by(strategy, sets)
    assert results.refused == [("p1", "the prompt is longer than the context")]
    assert set(results.solved) == {"p0", "p2"}
    with pytest.raises(
        InputError, match="None of the problems can be solved; p0, the first of 2: the prompt is longer"
    ):
        solved_by(strategy, [[], []])


def test_a_budget_that_leaves_problems_without_a_trace_says_so() -> None:
    results = solved_by(Pool(4, PoolBudget(tokens=12), parallel=1), [[Script(10, "1")] * 4] * 3)
    assert [found.note for found in results.solved.values()][-1] == "no trace: the budget was spent before"
    assert results.summary().answered < 3


def test_an_engine_that_dies_is_no_refusal() -> None:
    problems = asked(2)
    engine = ProblemsEngine(FIRST_TWO, fail_at=3)
    with pytest.raises(RuntimeError, match="the engine broke"):
        list(solve_each(problems, engine, SelfConsistency(4), SAMPLING, SetResults(problems)))


@pytest.mark.parametrize(
    ("problems", "budget", "says"),
    [
        ([], PoolBudget(traces=2), "There are no problems"),
        ([*asked(1), *asked(1)], PoolBudget(traces=2), "Two problems have the id 'p0'"),
        (asked(2), PoolBudget(tokens=1), "a budget of 1 tokens is below one trace of each of 2 problems; give more"),
    ],
)
def test_bad_input_is_one_sentence(problems: list[Problem], budget: PoolBudget, says: str) -> None:
    with pytest.raises(LaconicError, match=says) as caught:
        list(solve_pool(problems, ProblemsEngine(FIRST_TWO), Pool(4, budget), SAMPLING, SetResults(problems)))
    assert "\n" not in str(caught.value)


def test_another_problem_under_a_known_id_and_a_broken_line(tmp_path: Path) -> None:
    path, strategy = tmp_path / "v.jsonl", SelfConsistency(2)
    solved_by(strategy, FIRST_TWO, path)
    with open_verdicts(path, settings(strategy)) as journal:
        with pytest.raises(InputError, match="holds verdicts of another problem with the id p0; nothing was changed"):
            SetResults([Problem("p0", "0", "2")], journal)
        assert SetResults([Problem("new", "0", "2")], journal).solved == {}
    header, _, second = path.read_text().splitlines()
    broken = ['{"kind": "verdict", "problem": "p0", "digest": "x"}', '{"kind": "x", "problem": "p0", "digest": "x"}']
    path.write_text("\n".join([header, *broken, second]) + "\n")
    with open_verdicts(path, settings(strategy)) as journal:
        assert [told.split(" (")[0] for told in journal.broken] == [
            f"line {n} is no record of its kind" for n in (2, 3)
        ]
        assert set(SetResults(asked(2), journal).solved) == {"p1"}
