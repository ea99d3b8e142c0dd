"""What `laconic demo` says of a policy: its answers and its cache on the same problems and random streams as full KV."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.answers import answer_of, equivalent
from laconic.compress import RPC, FullKV, Learned, Policy, Random
from laconic.engines.base import Engine, Sampling, Trace
from laconic.problems import Problem
from laconic.problems.base import problem_seed
from laconic.statistics import Interval, mean_interval, paired_difference


def compared_policies(ratio: float, interval: int, window: int, learned: bool = False) -> list[Policy]:
    """Full KV, then at one cache size the learned selector, where there is one, RPC, and Random.

    Raises InputError for a ratio below 1.
    """
    ratio = int(ratio) if float(ratio).is_integer() else ratio
    return [
        FullKV(),
        *([Learned(interval=interval, ratio=ratio, window=window)] if learned else []),
        RPC(interval=interval, ratio=ratio, window=window),
        Random(interval=interval, ratio=ratio, window=window),
    ]


def label_of(policy: Policy) -> str:
    """What a policy's column is called: its name, and its ratio where it has one."""
    ratio = getattr(policy, "ratio", None)
    return policy.name if ratio is None else f"{policy.name} c={ratio:g}"


@dataclass(frozen=True)
class Figures:
    """One policy's figures on some problems. KV tokens are of one layer, the prompt's included."""

    label: str
    family: str
    """The policy's name."""
    policy: str
    """Its spec."""
    ratio: float | None
    problems: int
    samples: int
    """Traces of each problem."""
    accuracy: Interval
    """Share of right answers, over problems."""
    difference: Interval | None
    """To full KV, paired by problem; None for full KV itself."""
    peak_kv_tokens: int
    """The most that any trace held."""
    mean_peak_kv_tokens: float
    """Mean over traces of their peak."""
    mean_kv_tokens: float
    """Mean over traces of the mean over their steps."""
    mean_length: float
    """Generated tokens a trace."""
    unanswered: float
    """Share of traces without a final answer."""
    truncated: float
    """Share of traces that ran into the limit of new tokens."""
    tokens_per_second: float | None

    def to_json(self) -> dict[str, Any]:
        said = dataclasses.asdict(self)
        return {**said, **{key: value._asdict() for key, value in vars(self).items() if isinstance(value, Interval)}}


def solve(
    engine: Engine,
    problems: Sequence[Problem],
    samples: int,
    sampling: Sampling,
    on_finished: Callable[[], None] = lambda: None,
) -> tuple[list[list[Trace]], float]:
    """The finished traces `[problem][sample]` of an engine, and the seconds that they took together.

    sampling: its seed is combined with each problem's id, and sample i of a problem draws the same way in every engine.
    on_finished: called after each trace.
    """
    started = time.monotonic()
    names = [
        engine.submit(
            engine.render(problem.question),
            dataclasses.replace(sampling, seed=problem_seed(sampling.seed, problem)),
            samples,
        )
        for problem in problems
    ]
    for chunk in engine.stream():
        if chunk.finish_reason is not None:
            on_finished()
    return [[engine.trace(name) for name in of_problem] for of_problem in names], time.monotonic() - started


def figures(
    policy: Policy,
    problems: Sequence[Problem],
    traces: Sequence[Sequence[Trace]],
    seconds: float,
    right_of_full: list[list[float]] | None,
) -> tuple[Figures, list[list[float]]]:
    """What a policy's traces `[problem][sample]` come to; with it, 1 or 0 for each: whether it is right.

    right_of_full: the same of full KV, for the difference; None for full KV itself.
    """
    answers = [[answer_of(trace) for trace in row] for row in traces]
    right = [
        [float(equivalent(answer, problem.answer)) for answer in row]
        for problem, row in zip(problems, answers, strict=True)
    ]
    flat = [trace for row in traces for trace in row]
    count, tokens = len(flat), sum(len(trace.token_ids) for trace in flat)
    found = Figures(
        label=label_of(policy),
        family=policy.name,
        policy=policy.spec(),
        ratio=getattr(policy, "ratio", None),
        problems=len(problems),
        samples=len(traces[0]),
        accuracy=mean_interval(right),
        difference=None if right_of_full is None else paired_difference(right, right_of_full),
        peak_kv_tokens=max(trace.peak_kv_tokens for trace in flat),
        mean_peak_kv_tokens=sum(trace.peak_kv_tokens for trace in flat) / count,
        mean_kv_tokens=math.fsum(trace.mean_kv_tokens for trace in flat) / count,
        mean_length=tokens / count,
        unanswered=sum(answer is None for row in answers for answer in row) / count,
        truncated=sum(trace.finish_reason == "length" for trace in flat) / count,
        tokens_per_second=tokens / seconds if seconds > 0 else None,
    )
    return found, right
