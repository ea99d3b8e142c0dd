"""Rows of the table: scorers on one schedule, or policies on their own; and what is refused."""

from __future__ import annotations

import pytest
import torch

from laconic.compress import H2O, RPC, Custom, FullKV, Hindsight, Never, Proportional, Random, SnapKV
from laconic.compress.scorers import AccumulatedAttention
from laconic.errors import LaconicError
from laconic.lab.fidelity.contenders import check_lengths, contenders, first_compression
from laconic.lab.shared.policies import described


def test_a_common_schedule_puts_every_scorer_on_rpcs() -> None:
    rows = contenders(["full", "rpc", "h2o", "random:aggregation=group", "hindsight"], [2, 4.0], [64], [16])
    assert [row.label for row in rows] == [
        "full",
        "rpc c=2 P=64 R=16",
        "rpc c=4 P=64 R=16",
        "h2o c=2 P=64 R=16",
        "h2o c=4 P=64 R=16",
        "random:aggregation=group c=2 P=64 R=16",
        "random:aggregation=group c=4 P=64 R=16",
        "hindsight c=2 P=64 R=16",
        "hindsight c=4 P=64 R=16",
    ]
    schedules = [row.running().schedule for row in rows]
    assert schedules == [Never(), *[Proportional(64, 2, 16), Proportional(64, 4, 16)] * 4]
    assert rows[0].running() == FullKV()
    assert rows[1].running() == RPC(64, 2, 16)
    assert rows[3].running() == Custom(Proportional(64, 2, 16), AccumulatedAttention())
    assert rows[5].running() == Random(64, 2, 16, aggregation="group")
    assert rows[8].running() == Hindsight(64, 4, 16)
    assert rows[4].family == "h2o"
    assert (rows[4].ratio, rows[4].interval, rows[4].window) == (4, 64, 16)
    assert described(rows[3]) == "h2o:budget=1024,buffer=1 on Proportional(interval=64, ratio=2, window=16)"
    assert described(rows[1]) == "rpc:interval=64,ratio=2,window=16"


def test_intervals_and_windows_multiply() -> None:
    rows = contenders(["rpc", "random"], [2], [32, 64], [8, 16])
    assert [row.label for row in rows] == [
        f"{name} c=2 P={interval} R={window}"
        for name in ("rpc", "random")
        for interval in (32, 64)
        for window in (8, 16)
    ]
    own = contenders(["rpc", "h2o", "rkv:budget=40"], [2], [32, 64], [16], "own")
    assert [row.label for row in own] == [
        "rpc c=2 P=32 R=16",
        "rpc c=2 P=64 R=16",
        "h2o c=2 P=32 R=16",
        "h2o c=2 P=64 R=16",
        "rkv:budget=40,buffer=128",
    ]


def test_a_scorer_reads_the_windows_queries_or_those_that_its_spec_says() -> None:
    (rpc,) = contenders(["rpc"], [2], [64], [16])
    (more,) = contenders(["rpc:window=24"], [2], [64], [16])
    scorers = [row.running().scorer for row in (rpc, more)]
    assert [scorer.queries for scorer in scorers if scorer is not None] == [16, 24]
    assert more.running().schedule == Proportional(64, 2, 16)
    assert more.family == "rpc:window=24"


def test_policies_of_their_own_are_those_of_bench_accuracy() -> None:
    rows = contenders(["rpc", "h2o"], [4], [64], [16], "own")
    matched = [row.matched([200, 300]) for row in rows]
    assert matched[0].policy == RPC(64, 4, 16)
    assert isinstance(matched[1].policy, H2O)
    assert matched[1].policy.schedule.mean(250) == pytest.approx(Proportional(64, 4, 16).mean(250), rel=0.05)
    assert [first_compression(row) for row in rows] == [80, 80]  # before it is matched, a budget's is its target's


def test_files_are_told_by_their_names(tmp_path) -> None:
    from laconic.lab.fidelity import contenders as module

    row = contenders(["random"], [4], [64], [16])[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "check_named_file", lambda policy: None)
        row = contenders([f"learned:{tmp_path}/mine.safetensors"], [4], [64], [16])[0]
    assert str(tmp_path) not in row.label + row.family + described(row)
    assert row.family == "learned:mine.safetensors"
    assert "mine.safetensors" in described(row)


def test_a_row_that_never_compresses_is_refused() -> None:
    rows = contenders(["full", "rpc"], [4], [64], [16])
    check_lengths(rows, [40, 82])
    for longest in (40, 81):  # the compression at 80 is first felt by token 81
        with pytest.raises(LaconicError, match=rf"first compresses after 80 generated tokens, .* has {longest}"):
            check_lengths(rows, [20, longest])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: contenders([], [4], [64], [16]), "No policies were given"),
        (lambda: contenders(["rpc"], [], [64], [16]), "No ratios were given"),
        (lambda: contenders(["rpc"], [4], [], [16]), "No intervals were given"),
        (lambda: contenders(["rpc"], [4], [64], []), "No windows were given"),
        (lambda: contenders(["rpc"], [4, 4.0], [64], [16]), "rpc c=4 P=64 R=16 is asked for twice"),
        (lambda: contenders(["rpc", "rpc"], [4], [64], [16]), "is asked for twice"),
        (lambda: contenders(["full", "full"], [4], [64], [16]), "full is asked for twice"),
        (lambda: contenders(["best"], [4], [64], [16]), "policy 'best' is unknown"),
        (lambda: contenders(["rpc:ratio=4"], [4], [64], [16]), "ratio is given in rpc:ratio=4.*--schedule own"),
        (lambda: contenders(["h2o:budget=4"], [4], [64], [16]), "budget is given in h2o:budget=4"),
        (lambda: contenders(["rpc"], [3], [64], [16]), "interval is 64, of which ratio 3"),
        (lambda: contenders(["rpc"], [4], [8], [16]), "interval is 8, smaller than window 16"),
        (
            lambda: contenders(["snapkv"], [4], [16], [16]),
            "reads the latest 64 queries, but the first compression comes at 32",
        ),
        (lambda: contenders(["oracle"], [4], [64], [16]), "--oracle-pattern"),
        (lambda: contenders(["rpc"], [4], [64], [16], "mine"), "schedule is 'mine'"),
        (lambda: contenders(["learned:no/such"], [4], [64], [16]), "no selector file no/such"),
    ],
)
def test_bad_input_is_one_sentence(call, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        call()


def test_an_oracle_is_told_what_to_keep() -> None:
    (row,) = contenders(["oracle"], [4], [64], [16], oracle=torch.abs)
    scorer = row.running().scorer
    assert scorer is not None
    assert scorer.needs_token_ids
    assert SnapKV().name not in row.label
