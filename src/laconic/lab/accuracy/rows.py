"""A row of the accuracy table: what one policy's traces come to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.journal import Record
from laconic.lab.shared.policies import ComparedPolicy
from laconic.problems import Problem
from laconic.statistics import Interval, mean_interval, paired_difference

BASELINE = "full"


@dataclass(frozen=True)
class AccuracyRow:
    """One policy's figures. KV tokens are of one layer, the prompt's included.

    accuracy: pass@1 and its 95 % interval; difference: to full KV on the same problems and seeds, None for full KV
    itself or where it did not run; to_random: to Random at the same cache size, likewise; to_others: to each other
    policy at the same cache size, by its label. peak_kv_tokens: the
    most any trace held; mean_peak_kv_tokens: mean over traces of their peak; mean_kv_tokens: mean over traces of the
    mean over their steps. mean_length: generated tokens a trace, of which a policy fed mean_fed. unanswered: share of traces
    without a final answer; truncated: share that ran into the limit of new tokens. tokens_per_second: generated tokens over
    wall time, as the run went; no timed claim (`throughput` makes those).
    """

    label: str
    family: str
    policy: str
    ratio: float | None
    problems: int
    samples: int
    accuracy: Interval
    difference: Interval | None
    to_random: Interval | None
    to_others: Mapping[str, Interval]
    peak_kv_tokens: int
    mean_peak_kv_tokens: float
    mean_kv_tokens: float
    mean_length: float
    mean_fed: float
    unanswered: float
    truncated: float
    tokens_per_second: float | None

    def to_json(self) -> dict[str, Any]:
        row = dataclasses.asdict(self)
        row["accuracy"] = self.accuracy._asdict()
        for name in ("difference", "to_random"):
            found = getattr(self, name)
            row[name] = found._asdict() if found else None
        row["to_others"] = {label: found._asdict() for label, found in self.to_others.items()}
        return row


def summarise(
    contender: ComparedPolicy,
    problems: Sequence[Problem],
    samples: int,
    records: Sequence[Record],
    baseline: Sequence[Record] | None,
    random: Sequence[Record] | None = None,
    others: Mapping[str, Sequence[Record]] | None = None,
) -> AccuracyRow:
    """A row from its records (kinds `trace` and `clock`); baseline: full KV's, random: the random policy's at the same ratio,
    others: each other policy's there, by its label, for paired differences."""
    traces = [record for record in records if record["kind"] == "trace"]
    clocks = [record for record in records if record["kind"] == "clock"]
    seconds = sum(record["seconds"] for record in clocks)
    right = _by_problem(problems, traces)
    difference = None
    if baseline is not None and contender.label != BASELINE:
        difference = paired_difference(right, _by_problem(problems, baseline))
    count = len(traces)
    return AccuracyRow(
        label=contender.label,
        family=contender.family,
        policy=contender.policy.spec(),
        ratio=contender.ratio,
        problems=len(problems),
        samples=samples,
        accuracy=mean_interval(right),
        difference=difference,
        to_random=None if random is None else paired_difference(right, _by_problem(problems, random)),
        to_others={
            label: paired_difference(right, _by_problem(problems, theirs)) for label, theirs in (others or {}).items()
        },
        peak_kv_tokens=max(record["peak_kv_tokens"] for record in traces),
        mean_peak_kv_tokens=sum(record["peak_kv_tokens"] for record in traces) / count,
        mean_kv_tokens=math.fsum(record["mean_kv_tokens"] for record in traces) / count,
        mean_length=sum(record["length"] for record in traces) / count,
        mean_fed=sum(record.get("fed", 0) for record in traces) / count,
        unanswered=sum(record["answer"] is None for record in traces) / count,
        truncated=sum(record["finish"] == "length" for record in traces) / count,
        tokens_per_second=sum(record["tokens"] for record in clocks) / seconds if seconds > 0 else None,
    )


def _by_problem(problems: Sequence[Problem], traces: Sequence[Record]) -> list[list[float]]:
    """For each problem whether its samples are right, in their order, so that policies are paired sample by sample."""
    values: dict[str, list[float]] = {problem.id: [] for problem in problems}
    for record in sorted(traces, key=lambda record: record["sample"]):
        values[record["problem"]].append(float(record["correct"]))
    return list(values.values())
