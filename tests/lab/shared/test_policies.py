"""Rows of the table: names, specs, and budgets that meet RPC's mean cache size."""

from __future__ import annotations

import random

import pytest
import torch

from laconic.compress import H2O, RKV, RPC, TOVA, Custom, FullKV, Hindsight, Oracle, Random, StreamingLLM
from laconic.compress.schedule import Proportional, Schedule
from laconic.errors import LaconicError
from laconic.lab.shared.policies import ComparedPolicy, KeepPattern, compared_policies, match_budget, mean_cache

LENGTHS = [random.Random(4).randint(120, 640) for _ in range(50)]


def slow_mean(schedule: Schedule, lengths: list[int]) -> float:
    """Step through every trace and count what each step attends: held after the step before, and the new token."""
    means = []
    for length in lengths:
        attended = [schedule.physical(step - 1) + 1 for step in range(1, length + 1)]
        means.append(sum(attended) / length)
    return sum(means) / len(means)


def slow_match(policy, target: Schedule, lengths: list[int]) -> int:
    wanted = slow_mean(target, lengths)
    best = None
    for budget in range(1, max(lengths) + 1):
        try:
            schedule = type(policy)(budget=budget, buffer=policy.buffer).schedule
        except LaconicError:
            continue
        miss = abs(slow_mean(schedule, lengths) - wanted)
        if best is None or miss < best[0] - 1e-9:
            best = (miss, budget)
    assert best is not None
    return best[1]


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("policy", [H2O(), TOVA(), StreamingLLM(), RKV(buffer=64)], ids=lambda p: p.name)
def test_budgets_are_those_of_a_search_by_hand(policy, ratio: int) -> None:
    lengths = LENGTHS[:12]
    target = Proportional(64, ratio, 16)
    matched = match_budget(policy, target, lengths)
    assert matched.budget == slow_match(policy, target, lengths)
    assert matched.buffer == policy.buffer
    assert mean_cache(matched.schedule, lengths) == pytest.approx(slow_mean(matched.schedule, lengths))
    assert mean_cache(matched.schedule, lengths) == pytest.approx(mean_cache(target, lengths), rel=0.02)


def test_a_cache_too_small_for_a_policy_gets_its_smallest() -> None:
    # R-KV keeps a window of 8 and a buffer of 128: more than RPC holds here on average.
    matched = match_budget(RKV(), Proportional(16, 8, 16), [100, 200])
    assert matched.budget == 8


def test_recorded_traces_may_be_known_to_their_end() -> None:
    assert compared_policies(["hindsight"], [4], interval=64, window=16, recorded=True)[1].policy == Hindsight(
        64, 4, 16
    )


def test_a_row_may_be_a_scorer_on_another_schedule() -> None:
    schedule = Proportional(64, 4, 16)
    row = ComparedPolicy("h2o", "h2o", H2O(), schedule=schedule)
    assert row.running() == Custom(schedule, H2O().scorer)
    assert row.running(RPC(64, 4, 16)) == RPC(64, 4, 16)  # on that schedule anyway
    assert "h2o:budget=1024,buffer=1 on Proportional" in row.requested()
    assert ComparedPolicy("h2o", "h2o", H2O()).running() == H2O()


def test_short_traces_keep_everything() -> None:
    matched = match_budget(TOVA(), Proportional(64, 4, 16), [10, 20])
    assert mean_cache(matched.schedule, [10, 20]) == mean_cache(Proportional(64, 4, 16), [10, 20])


def test_rows_are_policies_times_ratios_after_full_kv() -> None:
    rows = compared_policies(["rpc", "h2o", "random", "rkv:budget=99,buffer=3"], [2, 4.0], interval=64, window=16)
    assert [row.label for row in rows] == [
        "full",
        "rpc c=2",
        "rpc c=4",
        "h2o c=2",
        "h2o c=4",
        "random c=2",
        "random c=4",
        "rkv:budget=99,buffer=3",
    ]
    assert rows[0].policy == FullKV()
    assert rows[1].policy == RPC(64, 2, 16)
    assert rows[6].policy == Random(64, 4, 16)
    assert rows[3].target == Proportional(64, 2, 16)
    assert rows[7].policy == RKV(budget=99, buffer=3)
    assert [row.target for row in rows if row.family in ("rpc", "random", "full")] == [None] * 5
    assert rows[3].matched(LENGTHS).target is None
    assert rows[1].matched(LENGTHS) is rows[1]


def test_a_spec_that_leaves_its_size_out_is_on_the_same_schedule_as_a_name() -> None:
    """`learned:fading=1` beside `learned` once kept the published interval of 4,096, and so evicted nothing in short traces."""
    specs = ["rpc:pooling=max", "rkv:lam=0.3", "rpc:ratio=8", "random:interval=32,window=8", "streamingllm:budget=80"]
    rows = compared_policies(specs, [2, 4], interval=64, window=16)[1:]
    assert [row.label for row in rows] == [
        "rpc:pooling=max c=2",
        "rpc:pooling=max c=4",
        "rkv:lam=0.3 c=2",
        "rkv:lam=0.3 c=4",
        "rpc:interval=64,ratio=8,window=16",
        "random:interval=32,window=8 c=2",
        "random:interval=32,window=8 c=4",
        "streamingllm:budget=80,buffer=1",
    ]
    assert rows[1].policy == RPC(64, 4, 16, pooling="max")
    assert rows[3].target == Proportional(64, 4, 16)
    assert rows[3].policy.settings()["lam"] == 0.3
    assert rows[3].policy.settings()["buffer"] == 64
    assert rows[6].policy == Random(32, 4, 8)
    # Rows are compared at one cache size, which goes by what a policy has and not by what the command says.
    assert [(row.interval, row.window) for row in rows[:2]] == [(64, 16)] * 2
    assert [(row.interval, row.window) for row in rows[5:7]] == [(32, 8)] * 2


def test_full_given_by_name_is_not_a_second_row() -> None:
    assert [row.label for row in compared_policies(["full", "rpc"], [4], interval=64, window=16)] == ["full", "rpc c=4"]


def test_a_buffer_is_never_coarser_than_the_interval() -> None:
    def buffers(rows: list[ComparedPolicy]) -> dict[str, int | None]:
        return {row.family: row.policy.settings().get("buffer") for row in rows}

    assert (
        buffers(compared_policies(["rkv", "h2o"], [4], interval=64, window=16)).items() >= {"rkv": 64, "h2o": 1}.items()
    )
    assert buffers(compared_policies(["rkv"], [4]))["rkv"] == 128


def test_what_was_asked_for_does_not_depend_on_lengths() -> None:
    rows = compared_policies(["h2o", "rpc"], [4], interval=64, window=16)
    assert "budget=matched" in rows[1].requested()
    assert "interval=64, ratio=4, window=16" in rows[1].requested()
    assert rows[2].requested() == RPC(64, 4, 16).spec()


def test_the_oracle_keeps_what_the_pattern_says() -> None:
    keep = KeepPattern(r"^[a-z]=\d$", ["Ġh=6", "hello", " k=1 ", "h=66"])
    ids = torch.tensor([[0, 1, 2], [3, 99, -5]])
    assert keep(ids).tolist() == [[True, False, True], [False, False, False]]
    (row,) = [
        row for row in compared_policies(["oracle"], [4], interval=64, window=16, oracle=keep) if row.family == "oracle"
    ]
    assert isinstance(row.policy, Oracle)
    assert r"^[a-z]=\\d$" in row.requested()
    assert "hello" not in row.requested()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: compared_policies(["best"]), "rpc"),
        (lambda: compared_policies(["learned:no/such"]), "there is no selector file no/such"),
        (lambda: compared_policies(["rpc"], [0.5]), "ratio is 0.5"),
        (lambda: compared_policies(["rpc"], [3], interval=64, window=16), "interval is 64"),
        (lambda: compared_policies(["rpc:ratio=4,speed=9"]), "speed"),
        (lambda: compared_policies(["oracle"]), "--oracle-pattern"),
        (lambda: compared_policies(["hindsight"]), "which only a recorded trace tells"),
        (lambda: compared_policies([]), "No policies"),
        (lambda: compared_policies(["rpc"], []), "No ratios"),
        (lambda: compared_policies(["rpc", "rpc"], [4]), "rpc c=4 is asked for twice"),
        (lambda: match_budget(TOVA(), Proportional(64, 4, 16), []), "no generated lengths"),
        (lambda: match_budget(RPC(), Proportional(64, 4, 16), [5]), "rpc"),
        (lambda: KeepPattern("(", ["a"]), "no regular expression"),
        (lambda: KeepPattern("b", ["a"]), "matches no token"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word):
        call()
