"""A set of problems on one engine: each by a strategy, side by side in one batch, or all by a pool that shares a budget."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from laconic import checks
from laconic.answers import answer_of
from laconic.engines.base import Engine, Sampling
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import InputError, LaconicError
from laconic.problems.base import Problem, problem_seed
from laconic.problems.sets import check_problems, sampling_settings
from laconic.prune.budget import PoolBudget
from laconic.prune.pool import KnownTrace, Pool, PoolProblem
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.base import Strategy, StrategyProgress, StrategyRun
from laconic.prune.strategies.settings import settings_of
from laconic.prune.trace_engine import TraceEngine
from laconic.prune.verdict import Tokens, TraceFate, Verdict
from laconic.prune.voting import Tally, mean_confidence, plain_vote
from laconic.solved import SetResults, SolvedProblem

UNSPENT = "no trace: the budget was spent before"


@dataclass(frozen=True, slots=True)
class SetProgress:
    """A step of a set. solved: a problem was settled. message: why one was left out. done, total: problems, or traces where
    they share a budget. tokens: of this run."""

    done: int
    total: int
    tokens: int = 0
    solved: SolvedProblem | None = None
    message: str = ""


def set_settings(
    strategy: Strategy | Pool, sampling: Sampling, model: Mapping[str, str], problem_set: str, **more: Any
) -> dict[str, Any]:
    """What verdicts must agree on to stand in one file, for `laconic.solved.open_verdicts`. Of a pool neither its budget nor n
    is among it: more of either adds to the file. more: the policy, the judge and the like; what is empty isn't said."""
    if isinstance(strategy, Pool):
        about: dict[str, Any] = {"name": strategy.name, "first": strategy.first, "ties": strategy.ties}
    elif isinstance(strategy, Auto):
        about = {"name": strategy.name, "n": strategy.n, "spend": strategy.spend}
        about["chosen"] = {"name": strategy.chosen().name, **settings_of(strategy.chosen())}
    else:
        about = {"name": strategy.name, "n": strategy.n, **settings_of(strategy)}  # type: ignore[attr-defined]
    settled = {name: value for name, value in more.items() if value}
    return {
        "strategy": about,
        "model": dict(model),
        "problems": problem_set,
        "sampling": sampling_settings(sampling),
        **settled,
    }


def check_budget(budget: PoolBudget, problems: int) -> None:
    """InputError for fewer tokens than problems: nothing is as short as such a trace."""
    if budget.tokens is not None and budget.tokens < problems:
        raise InputError(
            f"a budget of {budget.tokens:,} tokens is below one trace of each of {problems:,} problems; give more, or a "
            "multiple of one trace, as 4x"
        )


def solve_each(
    problems: Sequence[Problem],
    engine: TraceEngine,
    strategy: Strategy,
    sampling: Sampling,
    results: SetResults,
    check_question: Callable[[str], None] | None = None,
    rows: int = 1,
) -> Iterator[SetProgress]:
    """Solve what `results` lacks, each problem on its own; trace i of a problem is drawn as `laconic collect` draws it.

    rows: traces that the engine runs at once. The next problem begins as soon as fewer than that run or wait, so that the batch
    stays full while earlier problems come to their ends, and problems may be settled in another order than given. With 1, and
    for a strategy that goes by the engine's whole cache (`Strategy.alone`), one begins when the one before has ended. A problem
    that the engine, the strategy or check_question refuses is left out. Raises InputError for no problems, two with one id, or
    if every problem is refused.
    """
    check_problems(problems)
    checks.whole("rows", rows, 1, meaning="traces at once")
    left = [problem for problem in problems if problem.id not in results.solved]
    solving = _one_by_one if rows == 1 or strategy.alone else _side_by_side
    done, tokens = len(results.solved), 0
    asked = _Asked(left, sampling, check_question)
    for problem, found in solving(asked, engine, strategy, rows):
        why = str(found) if isinstance(found, InputError) else _lost(found)
        if why:
            results.refuse(problem, why)
            yield SetProgress(done, len(problems), tokens, message=f"problem {problem.id} is skipped: {why}")
        elif isinstance(found, Verdict):
            done, tokens = done + 1, tokens + found.tokens.total
            yield SetProgress(done, len(problems), tokens, results.add(problem, found))
    _check_refused(problems, results)


def _lost(verdict: Verdict) -> str:
    """Why the verdict isn't what it would be on an engine that works: the same command tries again. "" if nothing was lost."""
    lost = [trace for trace in verdict.traces if trace.fate == "lost"]
    return f"{len(lost)} of its {verdict.n} traces lost: {lost[0].reason}" if lost else ""


@dataclass(frozen=True)
class _Asked:
    """Problems to solve, each with a seed of its own."""

    problems: Sequence[Problem]
    sampling: Sampling
    check_question: Callable[[str], None] | None

    def of(self, problem: Problem) -> Sampling:
        """How its traces are drawn. Raises InputError for a question that can't be asked."""
        if self.check_question is not None:
            self.check_question(problem.question)
        return dataclasses.replace(self.sampling, seed=problem_seed(self.sampling.seed, problem))


def _one_by_one(
    asked: _Asked, engine: TraceEngine, strategy: Strategy, _rows: int
) -> Iterator[tuple[Problem, Verdict | InputError]]:
    for problem in asked.problems:
        try:
            verdict: Verdict | InputError = strategy.solve(engine, problem.question, asked.of(problem))
        except InputError as error:
            verdict = error
        yield problem, verdict


@dataclass(eq=False)
class _Solving:
    """A problem whose traces run beside those of others. found: its verdict, or why there is none."""

    problem: Problem
    view: EngineView
    strategy: Strategy
    asked: _Asked
    found: Verdict | InputError | None = None
    _run: StrategyRun | None = None
    _steps: Iterator[StrategyProgress] = field(default_factory=lambda: iter(()))
    _began: float = 0.0

    def advance(self) -> bool:
        try:
            if self._run is None:
                self._began = time.monotonic()
                self._run = self.strategy.begin(self.view, self.problem.question, self.asked.of(self.problem))
                self._steps = iter(self._run)
            if any(progress.waits for progress in self._steps):
                return False
            verdict = self._run.verdict()
            # Its clock runs in its own steps alone, and the engine's are everyone's.
            seconds = {**verdict.seconds, "total": time.monotonic() - self._began}
            self.found = dataclasses.replace(verdict, seconds=seconds)
        except InputError as error:
            self.found = error
        return True


def _side_by_side(
    asked: _Asked, engine: TraceEngine, strategy: Strategy, rows: int
) -> Iterator[tuple[Problem, Verdict | InputError]]:
    shared = SharedEngine(cast(Engine, engine))
    tasks = (_Solving(problem, shared.view(), strategy, asked) for problem in asked.problems)
    for task in shared.side_by_side(tasks, rows):
        assert task.found is not None
        yield task.problem, task.found


def solve_pool(
    problems: Sequence[Problem],
    engine: TraceEngine,
    pool: Pool,
    sampling: Sampling,
    results: SetResults,
    check_question: Callable[[str], None] | None = None,
) -> Iterator[SetProgress]:
    """Solve the problems by a pool, on from the traces that `results` has, which count as spent.

    Every trace is in the results' file as it ends. A problem is settled once all its n traces have ended, or at the end.
    Refusals and errors as of `solve_each`; also raises InputError for a budget of fewer tokens than problems.
    """
    check_problems(problems)
    check_budget(pool.budget, len(problems))
    asked = []
    for problem in problems:
        try:
            if check_question is not None:
                check_question(problem.question)
            asked.append(problem)
        except LaconicError as error:
            results.refuse(problem, str(error))
            yield SetProgress(0, len(problems), message=f"problem {problem.id} is skipped: {error}")
    if asked:
        yield from _run_pool(asked, engine, pool, sampling, results)
    _check_refused(problems, results)


def _run_pool(
    asked: Sequence[Problem], engine: TraceEngine, pool: Pool, sampling: Sampling, results: SetResults
) -> Iterator[SetProgress]:
    known = {
        place: [trace for i, trace in sorted(results.traces[problem.id].items()) if i < pool.n]
        for place, problem in enumerate(asked)
    }
    samplings = [dataclasses.replace(sampling, seed=problem_seed(sampling.seed, problem)) for problem in asked]
    run = pool.begin(engine, [problem.question for problem in asked], samplings, known)
    before, settled = run.generated, set[int]()

    def told(**more: Any) -> SetProgress:
        done = sum(state.ended for state in run.problems)
        return SetProgress(done, max(done, run.expected), run.generated - before, **more)

    def settle(place: int) -> SetProgress:
        settled.add(place)
        problem = asked[place]
        return told(solved=results.add(problem, _verdict(pool, run.problems[place], results.traces[problem.id])))

    for event in run:
        problem, state = asked[event.problem], run.problems[event.problem]
        if event.trace is None:
            results.refuse(problem, event.message)
            yield told(message=f"problem {problem.id} is skipped: {event.message}")
            continue
        trace = event.trace
        sure = mean_confidence(trace) if pool.ties == "confidence" and trace.token_ids else 0.0
        found = KnownTrace(trace.index, answer_of(trace), len(trace.token_ids), sure)
        results.add_trace(problem, found, trace.text)
        engine.forget([trace.id])
        yield told()
        if not (state.waiting or state.running):
            yield settle(event.problem)
    for place, state in enumerate(run.problems):
        if place not in settled and not state.refused:
            yield settle(place)


def _verdict(pool: Pool, state: PoolProblem, traces: Mapping[int, KnownTrace]) -> Verdict:
    """Of one problem of a pool. The texts of its traces are in the file, with the traces."""
    plain, counted = Tally(), [trace for i, trace in sorted(traces.items()) if i < pool.n]
    for trace in counted:
        if trace.answer is not None:
            plain.add(trace.index, trace.answer, tie=trace.confidence)
    spent = state.tokens + state.stopped
    note = "" if state.answer is not None else "none of its traces gave an answer" if state.ended else UNSPENT
    return Verdict(
        strategy=pool.name,
        n=pool.n,
        answer=state.answer,
        votes=state.votes,
        traces=tuple(
            TraceFate(
                "",
                t.index,
                "finished",
                "came to its end",
                t.tokens,
                answer=t.answer,
                weight=float(t.answer is not None),
                confidence=t.confidence if pool.ties == "confidence" else None,
            )
            for t in counted
        ),
        tokens=Tokens(spent),
        settings={"budget": str(pool.budget), "first": pool.first, "ties": pool.ties, "top_k": pool.top_k},
        note=note,
        plain=plain_vote(plain.votes(), [trace.tokens for trace in counted], spent),
    )


def _check_refused(problems: Sequence[Problem], results: SetResults) -> None:
    if len(results.refused) == len(problems):
        first, why = results.refused[0]
        raise InputError(f"None of the problems can be solved; {first}, the first of {len(problems)}: {why}")
