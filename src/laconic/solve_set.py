"""A set of problems on one engine: each by a strategy, one after another, or all of them by a pool that shares a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.answers import answer_of
from laconic.engines.base import Sampling
from laconic.errors import InputError, LaconicError
from laconic.problems.base import Problem, problem_seed
from laconic.problems.sets import check_problems, sampling_settings
from laconic.prune.budget import PoolBudget
from laconic.prune.pool import KnownTrace, Pool, PoolProblem
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.base import Strategy
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
) -> Iterator[SetProgress]:
    """Solve what `results` lacks, one problem after another; trace i of a problem is drawn as `laconic collect` draws it.

    A problem that the engine, the strategy or check_question refuses is left out. Raises InputError for no problems, two with
    one id, or if every problem is refused.
    """
    check_problems(problems)
    done, tokens = len(results.solved), 0
    for problem in problems:
        if problem.id in results.solved:
            continue
        asking = dataclasses.replace(sampling, seed=problem_seed(sampling.seed, problem))
        try:
            if check_question is not None:
                check_question(problem.question)
            verdict = strategy.solve(engine, problem.question, asking)
        except InputError as error:
            results.refuse(problem, str(error))
            yield SetProgress(done, len(problems), tokens, message=f"problem {problem.id} is skipped: {error}")
            continue
        done, tokens = done + 1, tokens + verdict.tokens.total
        yield SetProgress(done, len(problems), tokens, results.add(problem, verdict))
    _check_refused(problems, results)


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
            plain.add(trace.index, trace.answer)
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
