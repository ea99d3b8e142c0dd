"""What records come to, against loops over their tokens."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest

from laconic.compress.schedule import Fixed, Never, Proportional, Schedule
from laconic.lab.fidelity.contenders import contenders
from laconic.lab.fidelity.rows import BEFORE, distance_bins, distances, position_bins, summarise
from laconic.lab.shared.policies import full
from laconic.statistics import mean_interval, paired_difference

SCHEDULE = Proportional(16, 4, 8)


def records(seed: int, problems: int = 5, each: int = 2) -> list[dict[str, Any]]:
    """Whatever the seed, traces are of the same lengths; the first is the longest."""
    rng, lengths = random.Random(seed), random.Random(0)
    made: list[dict[str, Any]] = []
    for problem in range(problems):
        for index in range(each):
            length = lengths.randint(30, 89) if made else 90
            record = {
                "trace": f"p{problem}/{index}",
                "problem": f"p{problem}",
                "mean_kv_tokens": rng.uniform(10, 50),
                "peak_kv_tokens": rng.randint(20, 90),
                "kl": [rng.expovariate(3) for _ in range(length)],
                "agreement": [int(rng.random() < 0.9) for _ in range(length)],
                "change": [rng.gauss(-0.1, 1) for _ in range(length)],
            }
            made.append(record)
    return made


def by_problem(found: list[dict], value) -> list[list[float]]:
    names = sorted({record["problem"] for record in found})
    return [[value(record) for record in found if record["problem"] == name] for name in names]


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def test_figures_are_those_of_slow_sums() -> None:
    mine, theirs = records(1), records(2)
    (row,) = contenders(["rpc"], [4], [16], [8])
    found = summarise(row, SCHEDULE, mine, {"random": theirs}, {"random c=4": theirs})
    for name, interval in (("kl", found.kl["mean"]), ("change", found.change)):
        want = mean_interval(by_problem(mine, lambda r, n=name: sum(r[n]) / len(r[n])), bounds=None)
        assert interval == pytest.approx(want)
    agree = mean_interval(by_problem(mine, lambda r: sum(r["agreement"]) / len(r["agreement"])))
    assert found.agreement == pytest.approx(agree)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        want = mean_interval(by_problem(mine, lambda r, s=share: quantile(r["kl"], s)), bounds=None)
        assert found.kl[name].mean == pytest.approx(want.mean)
        assert found.kl[name].low == pytest.approx(max(0, want.low))
    for name, bounds in (("kl", None), ("agreement", (0, 1)), ("change", None)):
        pair = [by_problem(of, lambda r, n=name: sum(r[n]) / len(r[n])) for of in (mine, theirs)]
        assert found.differences["random"][name] == pytest.approx(paired_difference(*pair, bounds=bounds))
    assert list(found.differences) == ["random"]
    assert found.to_others == {"random c=4": found.differences["random"]["kl"]}
    assert (found.traces, found.problems) == (10, 5)
    assert found.tokens == sum(len(record["kl"]) for record in mine)
    assert found.mean_kv_tokens == pytest.approx(sum(record["mean_kv_tokens"] for record in mine) / 10)
    assert found.peak_kv_tokens == max(record["peak_kv_tokens"] for record in mine)
    assert (found.label, found.family, found.policy) == ("rpc c=4 P=16 R=8", "rpc", "rpc:interval=16,ratio=4,window=8")
    json.dumps(found.to_json(), allow_nan=False)


def test_bins_are_those_of_slow_sums() -> None:
    mine = records(1)
    found = summarise(contenders(["rpc"], [4], [16], [8])[0], SCHEDULE, mine, {}, {})
    slow = {"by_distance": slow_distances, "by_position": lambda schedule, tokens: list(range(tokens))}
    for name, places in slow.items():
        bins = getattr(found, name)
        assert sum(each.tokens for each in bins) == found.tokens
        for each in bins:
            per_problem: dict[str, list[float]] = {}
            agree: dict[str, list[float]] = {}
            for record in mine:
                at = places(SCHEDULE, len(record["kl"]))
                inside = [i for i, place in enumerate(at) if each.low <= place <= each.high]
                if inside:
                    per_problem.setdefault(record["problem"], []).append(
                        sum(record["kl"][i] for i in inside) / len(inside)
                    )
                    agree.setdefault(record["problem"], []).append(
                        sum(record["agreement"][i] for i in inside) / len(inside)
                    )
            want = mean_interval(list(per_problem.values()), bounds=None)
            assert each.kl.mean == pytest.approx(want.mean)
            assert each.agreement == pytest.approx(mean_interval(list(agree.values())))
    assert [each.name for each in found.by_distance] == [BEFORE, "1", "2-3", "4-7", "8-15", "16-31"]
    assert [each.name for each in found.by_position][:2] == ["0-7", "8-15"]


def slow_distances(schedule: Schedule, tokens: int) -> list[int]:
    """Steps through the trace: a token is drawn by the step that feeds the one before it, which compresses once it attended."""
    found, latest = [], None
    for token in range(tokens):
        found.append(0 if latest is None else token - latest)
        if token and schedule.rounds(token) > schedule.rounds(token - 1):
            latest = token
    return found


@pytest.mark.parametrize("schedule", [SCHEDULE, Fixed(20, 1, 10), Fixed(20, 7, 10), Never()])
def test_distances(schedule: Schedule) -> None:
    assert distances(schedule, 80) == slow_distances(schedule, 80)


def test_one_trace_has_no_interval_and_is_plain_json() -> None:
    mine = records(1, problems=1, each=1)
    other = records(2, problems=1, each=1)
    found = summarise(full(), Never(), mine, {"rpc": other}, {"rpc c=2": other}).to_json()
    assert found["to_others"]["rpc c=2"]["low"] is None
    assert found["kl"]["mean"]["low"] is None
    assert found["differences"]["rpc"]["kl"]["high"] is None
    assert found["agreement"]["low"] == 0
    json.dumps(found, allow_nan=False)


def test_bins_cover_everything_once() -> None:
    for longest in (1, 2, 16, 17, 500, 32768):
        for bins in (position_bins(longest), distance_bins(longest)):
            assert bins[0][1] == 0
            assert all(after[1] == before[2] + 1 for before, after in itertools.pairwise(bins))
            assert bins[-1][2] >= longest - 1
        assert len(position_bins(longest)) <= 16
