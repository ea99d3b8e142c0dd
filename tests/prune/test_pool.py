"""The pool: its allocation against a slow one, a batch that stays full, the budget, what is known already, and bad input."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from itertools import islice
from typing import Any, cast

import pytest

from laconic.errors import InputError, LaconicError
from laconic.prune.budget import PoolBudget
from laconic.prune.pool import KnownTrace, Pool, PoolRun
from laconic.prune.worth import worth
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine

N = 8


class ProblemsEngine(ScriptedEngine):
    """Each prompt has scripts of its own; one without any is refused. rows: in the batch at each step."""

    def __init__(self, sets: list[list[Script]], **more: Any) -> None:
        super().__init__([], **more)
        self.sets = sets
        self.asked: list[int] = []
        self.lost_of: dict[int, dict[int, int]] = {}
        """By place: the traces that are given up, and after how many tokens."""
        self.rows: list[int] = []

    def submit(self, prompt, sampling, n=1, ids=None):
        place = int(prompt.strip("<>"))
        if not self.sets[place]:
            raise InputError("the prompt is longer than the context")
        self.scripts, self._prompts = self.sets[place], place
        self.asked.append(place)
        return super().submit(prompt, sampling, n, ids)

    def _gives_up(self, row):
        place = int(row.trace.id.split("-")[0][1:])
        return len(row.trace.token_ids) >= self.lost_of.get(place, {}).get(row.trace.index, 1 << 30)

    def _step(self):
        self.rows.append(len(self._batch))
        super()._step()


def sets_of(seed: int, problems: int = 6) -> list[list[Script]]:
    drawn, found = random.Random(seed), []
    for _ in range(problems):
        spread, length = drawn.choice([1, 2, 5]), drawn.randint(3, 20)
        choices = [None, *map(str, range(spread))]
        found.append(
            [
                Script(length + drawn.randint(0, 6), drawn.choice(choices), confidence=(drawn.random(),))
                for _ in range(N)
            ]
        )
    return found


def begin(sets: list[list[Script]], pool: Pool, known: Any = None, **more: Any) -> tuple[PoolRun, ProblemsEngine]:
    engine = ProblemsEngine(sets, **more)
    return pool.begin(engine, [str(place) for place in range(len(sets))], [SAMPLING] * len(sets), known), engine


def ended(run: PoolRun) -> list[tuple[int, int]]:
    """(problem, index) of the traces, as they end."""
    return [(each.problem, each.trace.index) for each in run if each.trace is not None]


def slow_pool(sets: list[list[Script]], budget: PoolBudget, first: int) -> list[tuple[int, int]]:
    """One trace after another, all told from scratch each time."""
    ran: list[list[Script]] = [[] for _ in sets]
    found: list[tuple[int, int]] = []
    while True:
        lengths = [[script.length for script in traces] for traces in ran]
        means = [sum(each) / len(each) for each in lengths if each]
        mean = sum(means) / len(means) if means else 0.0
        usual = [(sum(each) + mean) / (len(each) + 1) or 1.0 for each in lengths]
        values = {}
        for p, traces in enumerate(ran):
            votes = Counter(script.answer for script in traces if script.answer is not None)
            if len(traces) < first:
                values[p] = (float(first - len(traces)), 0.0)
            elif len(traces) < N:
                values[p] = (0.0, worth(list(votes.values()), len(traces), N - len(traces)) / usual[p])
        if not values:
            return found
        best = max(values, key=lambda p: (values[p], -p))
        if means and sum(map(sum, lengths)) + usual[best] / 2 > budget.limit(len(sets), mean):
            return found
        found.append((best, len(ran[best])))
        ran[best].append(sets[best][len(ran[best])])


@pytest.mark.parametrize("budget", [PoolBudget(traces=1), PoolBudget(traces=3.5), PoolBudget(tokens=300)], ids=str)
@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_one_after_another_it_does_what_a_slow_one_does(seed: int, first: int, budget: PoolBudget) -> None:
    sets = sets_of(seed)
    run, engine = begin(sets, Pool(N, budget, first, parallel=1))
    found = ended(run)
    assert found == slow_pool(sets, budget, first)
    assert run.generated == sum(sets[p][i].length for p, i in found)
    for place, problem in enumerate(run.problems):
        mine = [sets[place][i] for p, i in found if p == place]
        counted = Counter(script.answer for script in mine if script.answer is not None)
        assert {vote.answer: len(vote.traces) for vote in problem.votes} == counted
        if counted:
            assert counted[str(problem.answer)] == max(counted.values())
    engine.forget(list(engine._rows))
    assert engine.clean


@pytest.mark.parametrize("parallel", [2, 7, 64])
@pytest.mark.parametrize("seed", range(3))
def test_the_batch_is_full_and_the_budget_holds(seed: int, parallel: int) -> None:
    sets = sets_of(seed, problems=12)
    run, engine = begin(sets, Pool(N, PoolBudget(traces=4), parallel=parallel), max_batch=parallel)
    found = ended(run)
    assert len(set(found)) == len(found)
    longest = max(script.length for traces in sets for script in traces)
    assert run.generated <= run.limit + parallel * 6 + longest  # lengths spread by 6 about what is expected of them
    assert run.generated >= run.limit - longest or len(found) == 12 * N
    # Only at the end, when what runs is expected to take the rest, are there fewer rows.
    full = [rows == min(parallel, 12 * 2) for rows in engine.rows]
    assert all(full[: full.index(False)] if False in full else full)
    assert sum(full) >= len(full) / 3 or parallel == 64


def test_what_is_settled_leaves_its_share_to_the_rest() -> None:
    settled = [Script(10, "1")] * N
    scattered = [Script(10, str(i)) for i in range(N)]
    contested = [Script(10, answer) for answer in "12112122"]
    run, _ = begin([settled, scattered, contested], Pool(N, PoolBudget(traces=4), parallel=2))
    assert len(ended(run)) == 12
    counts = [problem.ended for problem in run.problems]
    assert counts[0] == 2
    assert min(counts[1:]) == 5
    assert [problem.answer for problem in run.problems] == ["1", "0", "1"]


def test_every_problem_has_its_first_traces_before_any_has_more() -> None:
    run, _ = begin(sets_of(5, 10), Pool(N, PoolBudget(traces=3), first=2, parallel=4))
    found = ended(run)
    assert Counter(p for p, _ in found[:20]) == dict.fromkeys(range(10), 2) or len({p for p, _ in found[:24]}) == 10
    assert min(problem.ended for problem in run.problems) == 2


def test_no_problem_has_more_before_its_first_traces_have_ended() -> None:
    """Even where the batch would have room for all that the budget allows."""
    run, engine = begin(sets_of(3, 5), Pool(N, PoolBudget(traces=5), first=2, parallel=64))
    done: Counter[int] = Counter()
    for event in run:
        done[event.problem] += 1
        for place, problem in enumerate(run.problems):
            assert problem.started <= 2 or done[place] >= 2
    assert engine.rows[0] == 10
    assert run.generated >= 0.8 * run.limit


@pytest.mark.parametrize("ties", ["confidence", "index"])
def test_ties_go_to_the_more_confident_or_to_the_first(ties: str) -> None:
    sets = [[Script(4, "1", confidence=(1.0,)), Script(4, "2", confidence=(2.0,))]]
    run, _ = begin(sets, Pool(2, PoolBudget(traces=2), ties=ties))
    assert len(ended(run)) == 2
    assert run.problems[0].answer == ("2" if ties == "confidence" else "1")


@pytest.mark.parametrize("seed", range(3))
def test_a_run_goes_on_from_what_is_known(seed: int) -> None:
    """As if it had not been cut: what is known votes, counts as spent, and isn't run again."""
    sets = sets_of(seed)
    pool = Pool(N, PoolBudget(tokens=400), parallel=1)
    whole, _ = begin(sets, pool)
    order = ended(whole)
    for cut in (1, 7, len(order) - 1, len(order)):
        known: dict[int, list[KnownTrace]] = {}
        for p, i in order[:cut]:
            script = sets[p][i]
            known.setdefault(p, []).append(KnownTrace(i, script.answer, script.length, script.logprob(0) * -1))
        run, _ = begin(sets, pool, known)
        assert ended(run) == order[cut:]
        assert [problem.votes for problem in run.problems] == [problem.votes for problem in whole.problems]
        assert run.generated == whole.generated


def test_a_problem_that_is_refused_leaves_its_share_to_the_others() -> None:
    sets = [[Script(5, "1")] * N, [], [Script(5, str(i % 2)) for i in range(N)]]
    run, engine = begin(sets, Pool(N, PoolBudget(traces=3)))
    events = list(run)
    assert [(each.problem, each.message) for each in events if each.trace is None] == [
        (1, "the prompt is longer than the context")
    ]
    assert run.problems[1].refused
    assert run.problems[1].answer is None
    assert run.generated == 5 * sum(problem.ended for problem in run.problems) == 9 * 5
    assert engine.asked == [0, 2]


def test_an_interruption_stops_all_and_keeps_the_votes() -> None:
    run, engine = begin(sets_of(1), Pool(N, PoolBudget(traces=4), parallel=4))
    seen = list(islice(run, 5))
    run.interrupt()
    assert not engine._batch
    assert sum(problem.ended for problem in run.problems) == len(seen)
    assert sum(problem.running for problem in run.problems) == 0
    assert run.generated == sum(len(row.trace.token_ids) for row in engine._rows.values())
    run.interrupt()  # again: nothing is left to stop


def test_what_was_spent_is_told() -> None:
    run, _ = begin([[Script(10, "1")] * N] * 2, Pool(N, PoolBudget(traces=2), parallel=1))
    assert run.to_json() == {"budget": "2 traces a problem", "limit": None, "tokens": 0, "traces": [0, 0]}
    ended(run)
    assert run.to_json() == {"budget": "2 traces a problem", "limit": 40, "tokens": 40, "traces": [2, 2]}


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("4x", PoolBudget(traces=4)),
        (" 2.5X ", PoolBudget(traces=2.5)),
        ("500000", PoolBudget(tokens=500_000)),
        ("500,000", PoolBudget(tokens=500_000)),
    ],
)
def test_a_budget_is_read(text: str, budget: PoolBudget) -> None:
    assert PoolBudget.parse(text) == budget
    assert PoolBudget.parse(str(text)) == budget
    assert PoolBudget.parse(text, timed=True) == budget


@pytest.mark.parametrize("text", ["4,5x", "4,5", "1,00,000", "12,3456", ",500"])
def test_a_comma_that_parts_no_thousands_is_refused(text: str) -> None:
    with pytest.raises(LaconicError, match="is neither; expected tokens"):
        PoolBudget.parse(text)


def test_a_time_is_a_budget_where_it_is_asked_for() -> None:
    budget = PoolBudget.parse(" 1.5 S", timed=True)
    assert (budget, str(budget)) == (PoolBudget(seconds=1.5), "1.5 s")
    assert budget.limit(3, 100.0) == float("inf")


def test_when_time_is_up_what_has_ended_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("laconic.prune.pool.time.monotonic", lambda: now[0])
    sets = sets_of(2)
    run, engine = begin(sets, Pool(N, PoolBudget(seconds=30), parallel=4))
    found = []
    for event in run:
        found.append((event.problem, event.trace.index if event.trace else -1))
        if len(found) == 14:
            now[0] = 30.0
    assert len(found) in (14, 15), "the step in which the time ends is the last one"
    assert not engine._batch
    assert sum(problem.running for problem in run.problems) == 0
    assert sum(problem.ended for problem in run.problems) == len(found)
    assert run.generated == sum(len(row.trace.token_ids) for row in engine._rows.values())
    assert run.generated == sum(problem.tokens + problem.stopped for problem in run.problems)
    assert sum(problem.stopped for problem in run.problems) > 0
    assert run.to_json()["limit"] is None


def test_with_time_to_spare_every_trace_runs() -> None:
    run, engine = begin(sets_of(2), Pool(N, PoolBudget(seconds=3600), parallel=4))
    assert len(ended(run)) == 6 * N
    engine.forget(list(engine._rows))
    assert engine.clean


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PoolBudget.parse("four"), "expected tokens, as 500000, or a multiple of one trace"),
        (lambda: PoolBudget.parse("x"), "expected tokens"),
        (lambda: PoolBudget.parse("nanx"), "traces is nan"),
        (lambda: PoolBudget.parse("0.5x"), "traces is 0.5; expected a number at least 1"),
        (lambda: PoolBudget.parse("0"), "tokens is 0"),
        (lambda: PoolBudget.parse("-4x"), "traces is -4"),
        (PoolBudget, "expected one of them"),
        (lambda: PoolBudget(5, 5), "expected one of them"),
        (lambda: PoolBudget(5, seconds=5), "expected one of them"),
        (lambda: PoolBudget.parse("30s"), "as 4x$"),
        (lambda: PoolBudget.parse("half", timed=True), "or a time, as 30s"),
        (lambda: PoolBudget.parse("0s", timed=True), "seconds is 0"),
        (lambda: Pool(0, PoolBudget(traces=4)), "n is 0"),
        (lambda: Pool(4, cast(Any, 4)), "budget is 4"),
        (lambda: Pool(4, PoolBudget(traces=4), ties="luck"), "ties is 'luck'"),
        (
            lambda: begin([[Script(5)]], Pool(1, PoolBudget(traces=1)))[0].pool.begin(
                cast(Any, object()), ["a"], [SAMPLING]
            ),
            "engine",
        ),
        (lambda: Pool(1, PoolBudget(traces=1)).begin(ProblemsEngine([]), [], []), "questions"),
        (lambda: Pool(1, PoolBudget(traces=1)).begin(ProblemsEngine([]), ["a"], []), "1 questions and 0 samplings"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(LaconicError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_engine_without_confidences_is_told_what_to_do() -> None:
    class Silent(ProblemsEngine):
        def submit(self, prompt, sampling, n=1, ids=None):
            return super().submit(prompt, dataclasses.replace(sampling, confidence_top_k=0), n, ids)

    run = Pool(2, PoolBudget(traces=2)).begin(Silent([[Script(5, "1")] * 2]), ["0"], [SAMPLING])
    with pytest.raises(InputError, match="ties=index"):
        list(run)


def test_what_ended_in_the_step_in_which_time_was_up_votes_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for looks in range(1, 9):
        ticks = itertools.count()
        monkeypatch.setattr(
            "laconic.prune.pool.time.monotonic", lambda ticks=ticks, looks=looks: 100.0 * (next(ticks) >= looks)
        )
        run, engine = begin([[Script(5, str(i % 2)) for i in range(N)]], Pool(N, PoolBudget(seconds=10), parallel=4))
        told = [each.trace.id for each in run if each.trace is not None]
        whole = [row.trace.id for row in engine._rows.values() if row.trace.state == "finished"]
        assert sorted(told) == sorted(whole)
        assert sum(len(vote.traces) for vote in run.problems[0].votes) == len(whole)


@pytest.mark.parametrize(("tokens", "parallel"), [(100, 1), (100, 8), (100, 64), (1600, 64), (3000, 64)])
def test_a_budget_of_tokens_is_kept_while_no_length_is_known(tokens: int, parallel: int) -> None:
    sampling = dataclasses.replace(SAMPLING, max_new_tokens=60)
    engine = ProblemsEngine([[Script(50, "1")] * N for _ in range(32)])
    pool = Pool(N, PoolBudget(tokens=tokens), parallel=parallel)
    run = pool.begin(engine, [str(place) for place in range(32)], [sampling] * 32)
    ended(run)
    assert run.generated <= tokens + 50
    assert run.generated >= min(tokens, 32 * N * 50) - 75
