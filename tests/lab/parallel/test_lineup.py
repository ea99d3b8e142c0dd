"""Which rows a run has, what they are called, and which requests are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.compress import RPC, FullKV
from laconic.errors import LaconicError
from laconic.lab.parallel.lineup import CONS, EARLY, SINGLE, LabelledPolicy, compressions, lineup, shown

RPC2 = LabelledPolicy("rpc:ratio=2", RPC(interval=128, ratio=2))
RPC4 = LabelledPolicy("rpc:ratio=4", RPC(interval=128, ratio=4))


def made(
    ns=(4, 16), compress=(RPC2,), strategies=("deepconf:low", "deepprune"), judges=("probe", "perfect"), few=(2, 4, 8)
):
    return lineup(ns, compressions(compress), strategies, judges, lambda spec: spec.startswith("deepprune"), few)


def test_every_strategy_at_every_n_under_every_compression() -> None:
    found = made()
    families = [SINGLE, CONS, EARLY, "deepconf:low", "deepprune, probe", "deepprune, perfect"]
    wanted = [
        (family, n, compress)
        for compress in ("none", "rpc:ratio=2")
        for family, n in [(CONS, 2), (CONS, 8), *((family, n) for n in (4, 16) for family in families)]
    ]
    assert [(entry.family, entry.n, entry.compress) for entry in found] == wanted
    assert len({entry.label for entry in found}) == len(found)
    assert {entry.judge for entry in found if entry.strategy == "deepprune"} == {"probe", "perfect"}
    assert {entry.judge for entry in found if entry.strategy != "deepprune"} == {None}
    assert all(entry.single == (entry.family == SINGLE) for entry in found)
    assert {entry.strategy for entry in found if entry.family == EARLY} == {"self-consistency:early_end=true"}
    assert {entry.strategy for entry in found if entry.family == CONS} == {"self-consistency:early_end=false"}


def test_full_kv_is_always_there_and_first() -> None:
    assert [c.label for c in compressions([RPC4, RPC2])] == ["none", "rpc:ratio=4", "rpc:ratio=2"]
    assert [c.label for c in compressions([RPC4, LabelledPolicy("none", FullKV())])] == ["none", "rpc:ratio=4"]
    assert compressions([])[0].full


def test_a_judge_is_shown_without_this_machines_directories(tmp_path: Path) -> None:
    assert shown(f"encoder:{tmp_path}/mine") == "encoder:mine"
    assert shown("random:p=0.5,seed=0") == "random:p=0.5,seed=0"
    assert shown("probe") == "probe"
    assert made(judges=(f"encoder:{tmp_path}/mine",))[6].family == "deepprune, encoder:mine"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ns": ()}, "no numbers of traces"),
        ({"ns": (16, 0)}, "--n has 0"),
        ({"ns": (16, 16)}, "--n has 16 twice"),
        ({"few": (-1,)}, "--few has -1"),
        ({"few": (4, 4)}, "--few has 4 twice"),
        ({"strategies": ("deepconf:low", "deepconf:low")}, "strategy deepconf:low is asked for twice"),
        ({"judges": ("probe", "probe")}, "judge probe is asked for twice"),
        ({"judges": ()}, "deepprune needs a judge"),
        ({"judges": ("encoder:/a/mine", "encoder:/b/mine")}, "both be called deepprune, encoder:mine"),
        ({"compress": (RPC2, RPC2)}, "rpc:ratio=2 is asked for twice"),
        ({"compress": (RPC2, LabelledPolicy("rpc:ratio=2.0", RPC2.policy))}, "rpc:ratio=2.0 is asked for twice"),
        ({"compress": (LabelledPolicy("full", FullKV()),)}, "full is full KV"),
    ],
)
def test_bad_requests_are_one_sentence(change: dict, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        made(**change)
