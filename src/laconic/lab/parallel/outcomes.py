"""What the journal of `bench parallel` keeps: what an entry is, how it fared on a problem, and which live runs go together."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from laconic.answers import equivalent, group_equivalent
from laconic.compress import Policy
from laconic.journal import Record
from laconic.lab.parallel.lineup import ComparedStrategy, LabelledPolicy
from laconic.lab.shared.judges import describe_judge
from laconic.problems import Problem
from laconic.prune.pool import Pool, PoolProblem
from laconic.prune.strategies.base import Strategy
from laconic.prune.verdict import Verdict
from laconic.traces import TraceRecord


def modes_of(records: Sequence[TraceRecord]) -> list[str]:
    """The answer that most of these traces give, in its first spelling; several where they are as many; none without any."""
    given = [record.answer for record in records]
    classes = group_equivalent(given)
    sizes = Counter(each for each in classes if each is not None)
    most = max(sizes.values(), default=0)
    return [str(given[classes.index(each)]) for each, size in sizes.items() if size == most]


def is_mode(answer: str | None, modes: Sequence[str]) -> float:
    """1 for one of `modes` (`modes_of`), or for no answer where there are none; else 0."""
    return float(any(answer == mode or equivalent(answer, mode) for mode in modes) if modes else answer is None)


def outcome(verdict: Verdict, problem: Problem, modes: Sequence[str] | None = None) -> Record:
    """A verdict as the journal keeps it. fates: a letter a trace (finished, pruned, abandoned), in the order of index. agrees:
    whether the answer is the one that most of all traces give; there where `modes` (`modes_of`) is given."""
    traces = sorted(verdict.traces, key=lambda trace: trace.index)
    return {
        "answer": verdict.answer,
        "right": [float(equivalent(verdict.answer, problem.answer))],
        "unanswered": float(verdict.answer is None),
        "generated": verdict.tokens.generated,
        "judged": verdict.tokens.judged,
        "kv_token_steps": verdict.kv.get("token_steps"),
        "steps": verdict.kv.get("steps"),
        "fates": "".join(trace.fate[0] for trace in traces),
        "lengths": [trace.tokens for trace in traces],
        "clusters": [len(cluster) for cluster in verdict.clusters],
        **({} if modes is None else {"agrees": [is_mode(verdict.answer, modes)]}),
    }


def in_orders(records: Sequence[TraceRecord], orders: int) -> list[list[TraceRecord]]:
    """A problem's traces as recorded, then in other orders at random, numbered anew; the same ones in every run."""
    found = [list(records)]
    drawn = random.Random(records[0].problem)
    for _ in range(orders - 1):
        mixed = drawn.sample(list(records), len(records))
        found.append([dataclasses.replace(record, index=index) for index, record in enumerate(mixed)])
    return found


def mean_outcome(outcomes: Sequence[Record]) -> Record:
    """One record of several orders: counts are means, `right` and `agrees` have an entry for each; the rest is of the recorded
    order."""
    first, *others = outcomes
    if not others:
        return first
    mean: Record = {
        name: [share for each in outcomes for share in each[name]] for name in ("right", "agrees") if name in first
    }
    for name in ("unanswered", "generated", "judged", "kv_token_steps", "steps"):
        values = [each[name] for each in outcomes if each.get(name) is not None]
        mean[name] = math.fsum(values) / len(values) if len(values) == len(outcomes) else None
    return first | mean


def single_traces(
    records: Sequence[TraceRecord], compression: LabelledPolicy, modes: Sequence[str] | None = None
) -> Record:
    """pass@1: every trace for itself, its tokens and steps a mean over them, by the schedule's arithmetic. classes: of their
    answers, equal ones alike, None for none. agrees: of each, as of `outcome`. confidences: of each, the mean of its tokens;
    there where they were recorded."""
    schedule = compression.policy.schedule
    steps = [schedule.total(max(len(r.token_ids) - 1, 0), len(r.prompt_ids)) for r in records]
    tokens = [record.confidences for record in records]
    sure = [round(math.fsum(each) / len(each), 6) for each in tokens if each]
    sure = sure if len(sure) == len(records) else []
    return {
        "answer": records[0].answer,
        "right": [float(record.correct) for record in records],
        "unanswered": sum(record.answer is None for record in records) / len(records),
        "generated": sum(len(record.token_ids) for record in records) / len(records),
        "judged": 0,
        "kv_token_steps": sum(steps) / len(steps),
        "steps": sum(len(record.token_ids) - 1 for record in records) / len(records),
        "fates": "f" * len(records),
        "lengths": [len(record.token_ids) for record in records],
        "clusters": [],
        "classes": group_equivalent([record.answer for record in records]),
        **({} if modes is None else {"agrees": [is_mode(record.answer, modes) for record in records]}),
        **({"confidences": sure} if sure else {}),
    }


def pooled_outcome(
    found: PoolProblem,
    problem: Problem,
    records: Sequence[TraceRecord],
    compression: LabelledPolicy,
    modes: Sequence[str] | None = None,
) -> Record:
    """As `outcome`, of a problem of a pool that has come to its end; records: its traces, in the order of index."""
    ran = [record for record in records if record.index not in found.waiting]
    steps = [compression.policy.schedule.total(max(len(r.token_ids) - 1, 0), len(r.prompt_ids)) for r in ran]
    return {
        "answer": found.answer,
        "right": [float(equivalent(found.answer, problem.answer))],
        "unanswered": float(found.answer is None),
        "generated": found.tokens,
        "judged": 0,
        "kv_token_steps": sum(steps),
        "steps": None,  # those of all problems were shared
        "fates": "".join("a" if record.index in found.waiting else "f" for record in records),
        "lengths": [0 if record.index in found.waiting else len(record.token_ids) for record in records],
        "clusters": [],
        **({} if modes is None else {"agrees": [is_mode(found.answer, modes)]}),
    }


def results_of(records: Sequence[Record], most: int) -> dict[str, dict[str, Record]]:
    """entry -> problem -> its latest result among `most` traces a problem.

    Where there is none it is the latest other one, of an earlier version or a run of fewer or more traces, without `agrees`:
    the answer that most of those give may be another one.
    """
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        if record["kind"] == "result":
            known = found.setdefault(record["entry"], {})
            if record.get("most") == most:
                known[record["problem"]] = record
            elif known.get(record["problem"], {}).get("most") != most:
                known[record["problem"]] = {key: value for key, value in record.items() if key != "agrees"}
    return found


def live_rounds(records: Sequence[Record], problem: str) -> list[list[Record]]:
    """A problem's live runs, those of one round together, oldest first."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        if record["kind"] == "live" and record["problem"] == problem:
            groups.setdefault(record["sitting"], []).append(record)
    return list(groups.values())


def describe(entry: ComparedStrategy, policy: Policy, strategy: Strategy | Pool) -> dict[str, Any]:
    """An entry and its strategy's settings as plain JSON values; the judge by its name, its excerpt's kind and its weights."""
    found: dict[str, Any] = {"family": entry.family, "n": entry.n, "policy": policy.spec(), "strategy": strategy.name}
    for field in dataclasses.fields(strategy):  # type: ignore[arg-type]  # every strategy is a frozen record
        value = getattr(strategy, field.name)
        if field.name == "judge":
            found["judge"] = describe_judge(value)
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[field.name] = value
        else:
            found[field.name] = str(value)
    return found
