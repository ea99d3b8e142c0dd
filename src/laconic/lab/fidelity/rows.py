"""A row of the fidelity table: what one policy's records come to."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from laconic.compress.schedule import Schedule
from laconic.journal import Record
from laconic.lab.shared.policies import ComparedPolicy, described
from laconic.statistics import Interval, mean_interval, paired_difference

BASELINES = ("random", "rpc")
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
BEFORE = "before"
"""The bin of tokens that come before the first compression."""
MOST_BINS = 16
SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Bin:
    """Tokens low to high (inclusive), counted from the last compression or from the trace's beginning."""

    name: str
    low: int
    high: int
    tokens: int
    kl: Interval
    agreement: Interval

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"kl": _json(self.kl), "agreement": _json(self.agreement)}


@dataclass(frozen=True)
class FidelityRow:
    """One policy's figures, per generated token, averaged over a trace's tokens, then traces. In nats.

    kl: KL(full KV || policy): `mean`, and `median`, `p90` and `p99` of a trace's tokens; agreement: share of tokens whose
    likeliest candidate is full KV's; change: of the log-likelihood of the trace's own tokens. All with 95 % intervals over
    problems. differences: by baseline (the plain `random` and `rpc` on the same schedule), kl, agreement and change less the
    baseline's on the same traces; missing where that did not run. to_others: kl less that of each other policy on the same
    schedule, by label. by_distance: by tokens since the last compression;
    by_position: by place in the trace. mean_kv_tokens, peak_kv_tokens: held in one layer, prompt included: mean over steps,
    then traces; the most of any trace.
    """

    label: str
    family: str
    policy: str
    ratio: float | None
    interval: int | None
    window: int | None
    traces: int
    problems: int
    tokens: int
    kl: Mapping[str, Interval]
    agreement: Interval
    change: Interval
    differences: Mapping[str, Mapping[str, Interval]]
    to_others: Mapping[str, Interval]
    mean_kv_tokens: float
    peak_kv_tokens: int
    by_distance: Sequence[Bin]
    by_position: Sequence[Bin]

    def to_json(self) -> dict[str, Any]:
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row |= {name: _json(getattr(self, name)) for name in ("agreement", "change")}
        row["kl"] = {name: _json(value) for name, value in self.kl.items()}
        row["differences"] = {
            baseline: {name: _json(value) for name, value in of.items()} for baseline, of in self.differences.items()
        }
        row["to_others"] = {label: _json(value) for label, value in self.to_others.items()}
        return row | {name: [each.to_json() for each in getattr(self, name)] for name in ("by_distance", "by_position")}


def _json(interval: Interval) -> dict[str, float | None]:
    """Ends that can't be told are null: one trace, or traces that do not differ."""
    ends = {name: value if math.isfinite(value) else None for name, value in interval._asdict().items()}
    return {**ends, "mean": interval.mean}


class TokenValues:
    """What the records of one row hold, by problem and trace."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = sorted(records, key=lambda record: record["trace"])
        self.problems: dict[str, list[Record]] = {}
        for record in self.records:
            self.problems.setdefault(record["problem"], []).append(record)

    def means(self, name: str) -> list[list[float]]:
        """[problem][trace]: of a trace's tokens."""
        return [[_mean(record[name]) for record in records] for records in self.problems.values()]

    def quantiles(self, share: float) -> list[list[float]]:
        """[problem][trace]: of a trace's kl, linear between two tokens."""
        found = []
        for records in self.problems.values():
            values = [torch.tensor(record["kl"], dtype=torch.float64) for record in records]
            found.append([float(of.quantile(share)) for of in values])
        return found

    def binned(self, bins: Sequence[tuple[str, int, int]], places: Mapping[str, Sequence[int]]) -> list[Bin]:
        """bins: (name, low, high), ascending without a gap from 0 on. places: by trace, the number of each of its tokens.
        Empty bins are left out."""
        starts = torch.tensor([low for _, low, _ in bins])
        found: dict[str, list[list[list[float]]]] = {
            "kl": [],
            "agreement": [],
        }  # [bin][problem][trace with such tokens]
        for by_bin in found.values():
            by_bin += [[] for _ in bins]
        counts = torch.zeros(len(bins), dtype=torch.long)
        for records in self.problems.values():
            for by_bin in found.values():
                for each in by_bin:
                    each.append([])
            for record in records:
                index = torch.bucketize(torch.tensor(places[record["trace"]]), starts, right=True) - 1
                inside = torch.bincount(index, minlength=len(bins))
                counts += inside
                for name, by_bin in found.items():
                    weights = torch.tensor(record[name], dtype=torch.float64)
                    sums = torch.bincount(index, weights, minlength=len(bins))
                    for number in inside.nonzero().flatten().tolist():
                        by_bin[number][-1].append(float(sums[number] / inside[number]))
        made = []
        for number, (name, low, high) in enumerate(bins):
            if counts[number]:
                kl, agreement = ([values for values in of[number] if values] for of in found.values())
                interval = _above_zero(mean_interval(kl, bounds=None))
                made.append(Bin(name, low, high, int(counts[number]), interval, mean_interval(agreement)))
        return made


def summarise(
    row: ComparedPolicy,
    schedule: Schedule,
    records: Sequence[Record],
    baselines: Mapping[str, Sequence[Record]],
    others: Mapping[str, Sequence[Record]],
) -> FidelityRow:
    """A row from its records, at least one. schedule: what it ran on. baselines: records of the same traces, by name; others:
    of each other row on the schedule, by label."""
    values = TokenValues(records)
    means = {name: values.means(name) for name in ("kl", "agreement", "change")}
    differences = {}
    for name, theirs in baselines.items():
        other = TokenValues(theirs)
        differences[name] = {
            what: paired_difference(ours, other.means(what), bounds=SHARE if what == "agreement" else None)
            for what, ours in means.items()
        }
    lengths = {record["trace"]: len(record["kl"]) for record in values.records}
    longest = max(lengths.values())
    kl = {"mean": mean_interval(means["kl"], bounds=None)}
    kl |= {name: mean_interval(values.quantiles(share), bounds=None) for name, share in QUANTILES.items()}
    return FidelityRow(
        label=row.label,
        family=row.family,
        policy=described(row),
        ratio=row.ratio,
        interval=row.interval,
        window=row.window,
        traces=len(records),
        problems=len(values.problems),
        tokens=sum(lengths.values()),
        kl={name: _above_zero(interval) for name, interval in kl.items()},
        agreement=mean_interval(means["agreement"]),
        change=mean_interval(means["change"], bounds=None),
        differences=differences,
        to_others={
            label: paired_difference(means["kl"], TokenValues(theirs).means("kl"), bounds=None)
            for label, theirs in others.items()
        },
        mean_kv_tokens=_mean([record["mean_kv_tokens"] for record in records]),
        peak_kv_tokens=max(record["peak_kv_tokens"] for record in records),
        by_distance=values.binned(
            distance_bins(longest), {trace: distances(schedule, length) for trace, length in lengths.items()}
        ),
        by_position=values.binned(position_bins(longest), {trace: range(length) for trace, length in lengths.items()}),
    )


def distances(schedule: Schedule, tokens: int) -> list[int]:
    """For each token of a trace, how many were computed since the last compression when it was drawn; 0: none has come yet.

    A compression that is due at b comes after token b - 1 has attended: the first token drawn from what it left is b + 1.
    """
    points = schedule.compression_points(tokens)
    found = []
    for token in range(tokens):
        before = bisect_left(points, token)
        found.append(token - points[before - 1] if before else 0)
    return found


def distance_bins(longest: int) -> list[tuple[str, int, int]]:
    """Before the first compression, then 1, 2-3, 4-7, ... tokens after the latest."""
    bins, low = [(BEFORE, 0, 0)], 1
    while low < longest:
        bins.append((_name(low, 2 * low - 1), low, 2 * low - 1))
        low *= 2
    return bins


def position_bins(longest: int) -> list[tuple[str, int, int]]:
    """At most MOST_BINS of equal width, a power of two."""
    width = 1
    while width * MOST_BINS < longest:
        width *= 2
    return [(_name(low, low + width - 1), low, low + width - 1) for low in range(0, longest, width)]


def _name(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _above_zero(interval: Interval) -> Interval:
    """A divergence is never below 0, which Student's t doesn't know."""
    return interval._replace(low=max(0.0, interval.low)) if math.isfinite(interval.low) else interval
