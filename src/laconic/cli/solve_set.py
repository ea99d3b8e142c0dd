"""`laconic solve --source`: what the options of a set come to, a line for each problem as it is settled, and the summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from laconic.cli.interruption import resumed
from laconic.cli.live import plain
from laconic.cli.messages import print_to_stderr, share
from laconic.cli.progress import ProgressOrLines
from laconic.cli.questions import Question, check_vocabulary
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.cli.engines import EngineChoice
    from laconic.engines.base import Engine, Sampling
    from laconic.problems import Problem
    from laconic.prune import Pool, Strategy
    from laconic.solve_set import SetProgress
    from laconic.solved import SetResults, SetSummary, SolvedProblem

POOL_CHUNK = 16  # tokens between two looks at a pool, which acts when a trace ends


def choose_set(
    source: str, count: int | None, seed: int, level: int | None, single: Mapping[str, object]
) -> list[Problem]:
    """The problems of ``--source``. single: what names or asks something of one problem, by option; None: not given.

    Raises InputError as `load_problems`, for a benchmark that a harness scores, for two problems with one id, and where an
    option for one problem is given.
    """
    from laconic.problems.sets import check_problems, refuse_unscored
    from laconic.problems.sources import load_problems

    for name, value in single.items():
        if value is not None:
            raise InputError(f"{name} is for one problem, and --source {source} names a set; give one of them")
    refuse_unscored(source)
    found = load_problems(source, count, seed, level, unanswered=True)
    check_problems(found)
    return found


def choose_pool(spend: str, n: int, batch: int, problems: int, given: Mapping[str, object]) -> Pool:
    """The pool of a set that shares the budget ``--spend``. given: options that a pool has no use for; None: not given.

    Raises InputError for one of these, for what is no budget, and for one below a token a problem.
    """
    from laconic.prune import Pool
    from laconic.prune.budget import PoolBudget
    from laconic.solve_set import check_budget

    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"--spend {spend} has all problems of --source share a budget, by plain votes that take no {name} (here "
                f"{value}); leave one of them out, or give each problem a budget of its own: --strategy auto:spend={spend}"
            )
    budget = PoolBudget.parse(spend, timed=True)
    check_budget(budget, problems)
    return Pool(n, budget, parallel=batch)


def kept_of_set(out: Path | None) -> str | Callable[[], str]:
    """What is told of an interrupted run."""
    if out is None:
        return "what was settled is above and nothing else is kept; with --out FILE the same command goes on from there"
    return resumed(out)


@dataclass(frozen=True)
class SetRequest:
    """A set and how it is solved. source: of the problems. seed: of these. said: what else verdicts in one file agree on. rows:
    traces that the engine runs at once."""

    source: str
    problems: Sequence[Problem]
    strategy: Strategy | Pool
    sampling: Sampling
    seed: int
    said: Mapping[str, Any]
    rows: int


def run_set(
    request: SetRequest, choice: EngineChoice, reasoner: Any, engine: Engine, as_json: bool, out: Path | None
) -> bool:
    """Solve it, on from the file ``--out`` where there is one. Returns as `show_set`."""
    from laconic.environment import hide_directories
    from laconic.problems.sets import prompt_of, set_name
    from laconic.prune import Pool
    from laconic.solve_set import set_settings, solve_each, solve_pool
    from laconic.solved import SetResults, open_verdicts

    settings: dict[str, Any] = {}
    if out is not None:  # a fingerprint reads all weights
        weights, dtype = reasoner.identity(engine)
        name = "bundled" if choice.small else hide_directories(str(choice.model or getattr(engine, "model", "unknown")))
        settings = set_settings(
            request.strategy,
            request.sampling,
            {"name": name, "weights": weights, "dtype": dtype},
            set_name(request.source, request.seed),
            prompt=prompt_of(request.source),
            **request.said,
        )
    check = (lambda text: check_vocabulary(reasoner.tokenizer, Question(text))) if choice.small else None
    with open_verdicts(out, settings) if out is not None else nullcontext() as journal:
        results = SetResults(request.problems, journal)
        asked, strategy, sampling = request.problems, request.strategy, request.sampling
        if isinstance(strategy, Pool):
            steps = solve_pool(asked, engine, strategy, sampling, results, check)
        else:
            steps = solve_each(asked, engine, strategy, sampling, results, check, request.rows)
        return show_set(steps, results, as_json, out, isinstance(strategy, Pool))


def show_set(steps: Iterator[SetProgress], results: SetResults, as_json: bool, out: Path | None, pooled: bool) -> bool:
    """Run it, showing each problem as it is settled, then the summary. Returns whether every problem that ran got a trace, and
    one of them at least an answer."""
    bar = ProgressOrLines(not as_json, "traces" if pooled else "problems")
    # Lines on stdout would cut through a bar on the same terminal.
    shared = bar.console.is_terminal and sys.stdout.isatty()
    with bar:
        if results.journal is not None:
            bar.print_resumed(results.journal, *(() if pooled else ("verdict", "solved problems")))
        for step in steps:
            if step.message:
                bar.say(step.message)
            elif step.solved is None or not pooled:
                bar.tell("solving", step.done, step.total, f"{step.tokens:,} tokens")
            if step.solved is not None and not as_json:
                (bar.say if shared else typer.echo)(line(step.solved))
    summary = results.summary()
    untried = [found.problem for found in results.solved.values() if not found.finished and not found.tokens]
    if as_json:
        problems = [results.solved[p.id].to_json() for p in results.problems if p.id in results.solved]
        typer.echo(json.dumps({**summary.to_json(), "solved": problems}))
    else:
        for name, value in facts(summary, out):
            print_to_stderr(f"{name}: {value}")
    if untried:
        print_to_stderr(
            f"warning: the budget was spent before {len(untried):,} of {summary.problems:,} problems got a trace (the first is "
            f"{untried[0]}); give more, at least 1x"
        )
    return bool(summary.answered and not untried)


def line(found: SolvedProblem) -> str:
    """A problem and its verdict: "line-3: answer 42, which is right (3 of 4 votes, 4 traces, 1,234 tokens)"."""
    from laconic.cli.solve_report import told_answer

    told = told_answer(found.answer, found.gold, found.right)
    weights = [weight for _, weight in found.votes]
    shares = f"{weights[0]:.3g} of {sum(weights):.3g} votes, " if weights else ""
    traces = "1 trace" if found.traces == 1 else f"{found.traces:,} traces"
    note = f"; {plain(found.note)}" if found.note and found.answer is None else ""
    return f"{plain(found.problem)}: {told} ({shares}{traces}, {found.tokens:,} tokens{note})"


def facts(summary: SetSummary, out: Path | None) -> list[tuple[str, str]]:
    """The summary as (name, value) pairs, for people."""
    skipped = f", {len(summary.refused):,} skipped" if summary.refused else ""
    of = "" if summary.scored in (0, summary.problems) else f", of {summary.scored:,} with a reference answer"
    judged = f" + {summary.judged:,} judged" if summary.judged else ""
    found = [
        ("problems", f"{summary.problems:,}, {summary.answered:,} with an answer{skipped}"),
        ("traces", f"{summary.traces:,}"),
        ("tokens", f"{summary.generated:,} generated{judged}"),
        ("accuracy", share(summary.accuracy, summary.scored) + of),
    ]
    vote = summary.plain
    if vote is not None:
        said = [f"{vote.traces:.1f} traces of each, another answer on {vote.otherwise:,} of the problems"]
        if vote.accuracy is not None and vote.ahead is not None:
            mean, low, high = (100 * value for value in vote.ahead)
            said.insert(
                0, f"{vote.accuracy.mean:.1%}, the verdicts are {mean:+.1f} points [{low:+.1f}, {high:+.1f}] to it"
            )
        if vote.fewer:
            said.append(f"{vote.fewer:,} have fewer, whose vote stands in")
        ties = ", ties by confidence" if vote.by_confidence else ""
        found.append((f"plain vote of these tokens{ties}", "; ".join(said)))
    if out is not None:
        found.append(("file", str(out)))
    return found
