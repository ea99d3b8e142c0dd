"""Policies: their schedules and scorers, their spelling, and what they refuse."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

import laconic.compress as compress
from laconic.compress.evidence import Scorer
from laconic.compress.hindsight import FutureAttention, Hindsight
from laconic.compress.learned import Learned, LearnedScore
from laconic.compress.policies import (
    H2O,
    RKV,
    RPC,
    TOVA,
    Custom,
    FullKV,
    KNorm,
    Oracle,
    Random,
    SnapKV,
    StreamingLLM,
    with_budget,
)
from laconic.compress.policy import Policy
from laconic.compress.random_attention import RandomAttention
from laconic.compress.redundancy import Redundancy
from laconic.compress.registry import parse
from laconic.compress.schedule import Fixed, Never, Proportional
from laconic.compress.scorers import (
    AccumulatedAttention,
    NewestQuery,
    OracleScore,
    RandomScore,
    Recency,
    ShortKeys,
    WindowAttention,
)
from laconic.compress.vase import VaSE, WeightedDraw
from laconic.errors import LaconicError


def everything(token_ids):
    """A `keep` that has a name."""
    return token_ids >= 0


@pytest.mark.parametrize(
    ("policy", "schedule", "scorer"),
    [
        (FullKV(), Never(), None),
        (RPC(), Proportional(4096, 4, 32), WindowAttention(32, "avg", 7, "layer")),
        (
            RPC(interval=64, ratio=1.6, window=8, pooling="max", kernel=3, aggregation="group"),
            Proportional(64, 1.6, 8),
            WindowAttention(8, "max", 3, "group"),
        ),
        (H2O(), Fixed(1024, 1, 512), AccumulatedAttention()),
        (H2O(budget=7, buffer=2, window=3), Fixed(7, 2, 3), AccumulatedAttention()),
        (H2O(budget=1), Fixed(1, 1, 1), AccumulatedAttention()),
        (TOVA(budget=9), Fixed(9, 1, 1), NewestQuery()),
        (StreamingLLM(budget=9, buffer=4, sinks=2), Fixed(9, 4, 7), Recency(2)),
        (RKV(), Fixed(1024, 128, 8), Redundancy(8, 0.1, 7, 0.5, "group")),
        (SnapKV(), Fixed(1024, 128, 64), WindowAttention(64, "avg", 5, "group")),
        (KNorm(budget=9, buffer=2, aggregation="layer"), Fixed(9, 2, 1), ShortKeys("layer")),
        (Learned("f", 8, 2, 4), Proportional(8, 2, 4), LearnedScore()),
        (Random(8, 2, 4, seed=3), Proportional(8, 2, 4), RandomScore(3)),
        (Random(8, 2, 4, aggregation="group"), Proportional(8, 2, 4), RandomScore(0, "group")),
        (RandomAttention(8, 2, 4, seed=3), Proportional(8, 2, 4), RandomScore(3, "group", redraw=True)),
        (VaSE(), Proportional(4096, 4, 32), WeightedDraw(32, 0, 0.25, 5, "group")),
        (
            VaSE(8, 2, 4, protected=0.5, kernel=3, seed=7, aggregation="layer"),
            Proportional(8, 2, 4),
            WeightedDraw(4, 7, 0.5, 3, "layer"),
        ),
        (Hindsight(8, 2, 4), Proportional(8, 2, 4), FutureAttention()),
        (Hindsight(8, 2, 4, "group"), Proportional(8, 2, 4), FutureAttention("group")),
        (Oracle(everything, 8, 2, 4), Proportional(8, 2, 4), OracleScore(everything)),
        (Custom(Fixed(8, 2, 1), Recency(2)), Fixed(8, 2, 1), Recency(2)),
        (Custom(schedule=Never(), scorer=None), Never(), None),
    ],
    ids=lambda value: value.spec() if isinstance(value, Policy) else "",
)
def test_what_a_policy_is_made_of(policy: Policy, schedule, scorer) -> None:
    assert policy.schedule == schedule
    assert policy.scorer == scorer
    assert policy.schedule is policy.schedule  # made once: an engine asks at every step
    json.dumps(policy.settings())
    assert list(policy.settings()) == [f.name for f in dataclasses.fields(policy)]
    assert "\n" not in policy.describe()
    assert policy.describe().startswith(policy.spec())
    assert copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(copy.copy(policy))


def scorer_of(policy: Policy) -> Scorer:
    assert policy.scorer is not None
    return policy.scorer


def test_what_scorers_ask_of_an_engine() -> None:
    assert scorer_of(RPC(window=16, interval=64)).queries == 16
    assert scorer_of(H2O()).accumulates
    assert scorer_of(H2O()).queries == 0
    assert scorer_of(TOVA()).reads_prompt
    assert scorer_of(TOVA()).queries == 1
    assert scorer_of(Oracle(everything)).needs_token_ids
    assert scorer_of(VaSE(interval=64, window=16)).queries == 16
    assert scorer_of(RandomAttention()).queries == 0
    assert scorer_of(VaSE()).reads_values
    assert scorer_of(Hindsight()).reads_future
    assert scorer_of(Hindsight()).queries == 0
    assert scorer_of(VaSE()).reads_keep
    for policy in (RPC(), RKV(), SnapKV(), KNorm(), StreamingLLM(), Random(), RandomAttention()):
        scorer = scorer_of(policy)
        assert not scorer.reads_values
        assert not scorer.reads_keep
        assert not scorer.reads_future
        assert not any([scorer.accumulates, scorer.reads_prompt, scorer.needs_token_ids])


@pytest.mark.parametrize(
    "policy",
    [
        FullKV(),
        RPC(),
        RPC(interval=1000, ratio=2.5, window=10, pooling="max", kernel=1, aggregation="group"),
        H2O(),
        H2O(budget=100, buffer=3, window=7, aggregation="group"),
        TOVA(budget=5, buffer=2),
        StreamingLLM(sinks=0),
        SnapKV(budget=70, pooling="max"),
        KNorm(window=3),
        Learned(),
        Learned("a/b", ratio=2),
        RKV(lam=0.25, threshold=0.75, window=4, kernel=3, aggregation="layer"),
        Random(seed=9),
        Random(aggregation="group"),
        RandomAttention(seed=9),
        VaSE(protected=0.5),
        Hindsight(aggregation="group"),
    ],
    ids=Policy.spec,
)
def test_spec_reads_back(policy: Policy) -> None:
    assert parse(policy.spec()) == policy


def test_spelling() -> None:
    assert FullKV().spec() == "full"
    assert RPC().spec() == "rpc:interval=4096,ratio=4,window=32"
    assert RPC(kernel=3).spec() == "rpc:interval=4096,ratio=4,window=32,kernel=3"
    assert H2O(window=None).spec() == "h2o:budget=1024,buffer=1"
    assert Oracle(everything).spec() == "oracle:keep=everything,interval=4096,ratio=4,window=32"
    assert Oracle(everything).settings()["keep"] == "everything"
    assert RPC().settings() == {
        "interval": 4096,
        "ratio": 4,
        "window": 32,
        "pooling": "avg",
        "kernel": 7,
        "aggregation": "layer",
    }


def test_another_budget() -> None:
    assert with_budget(H2O(budget=64, buffer=4), 128) == H2O(budget=128, buffer=4)
    assert with_budget(H2O(), 128).schedule == Fixed(128, 1, 64)
    assert with_budget(StreamingLLM(sinks=2), 8).schedule == Fixed(8, 1, 6)
    with pytest.raises(LaconicError, match="policy rpc has no fixed budget"):
        with_budget(RPC(), 128)
    with pytest.raises(LaconicError, match="window is 8, larger than budget 4"):
        with_budget(RKV(), 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RPC(ratio=0.99), "ratio is 0.99; expected a number at least 1"),
        (lambda: RPC(interval=16), "interval is 16, smaller than window 32"),
        (lambda: RPC(interval=4095), "interval 4092 or 4096"),
        (lambda: RPC(kernel=6), "kernel is 6; expected an odd width.*5 or 7"),
        (lambda: RPC(pooling="mean"), "pooling is 'mean'; expected one of avg, max"),  # type: ignore[arg-type]
        (lambda: RPC(aggregation="none"), "aggregation is 'none'"),  # type: ignore[arg-type]
        (lambda: RPC(window=0), "window is 0;"),
        (lambda: H2O(budget=0), "budget is 0;"),
        (lambda: H2O(budget="8"), "budget is '8'"),  # type: ignore[arg-type]
        (lambda: H2O(budget=8, window=9), "window is 9, larger than budget 8"),
        (lambda: TOVA(buffer=0), "buffer is 0;"),
        (lambda: StreamingLLM(budget=4), "sinks is 4, which leaves nothing of budget 4"),
        (lambda: StreamingLLM(sinks=-1), "sinks is -1;"),
        (lambda: StreamingLLM(budget=None), "budget is None;"),  # type: ignore[arg-type]
        (lambda: RKV(lam=-0.1), "lam is -0.1; expected a number from 0 to 1"),
        (lambda: RKV(kernel=2), "kernel is 2;"),
        (lambda: RKV(budget=4), "window is 8, larger than budget 4"),
        (lambda: Random(seed=0.5), "seed is 0.5;"),  # type: ignore[arg-type]
        (lambda: Random(aggregation="head"), "aggregation is 'head'"),  # type: ignore[arg-type]
        (lambda: RandomAttention(seed=-1), "seed is -1;"),
        (lambda: Hindsight(aggregation="head"), "aggregation is 'head'"),  # type: ignore[arg-type]
        (lambda: VaSE(protected=1.5), "protected is 1.5; expected a number from 0 to 1"),
        (lambda: Oracle(keep=None), "keep is None; expected a function"),  # type: ignore[arg-type]
        (lambda: Custom(Fixed(8, 1, 1), WindowAttention(32)), "reads the latest 32 queries.*comes at 9"),
        (lambda: Custom(Fixed(8, 1, 1), None), "compresses at 9 generated tokens but has no scorer"),
        (lambda: Custom("rpc", None), "schedule is 'rpc'; expected a Schedule"),  # type: ignore[arg-type]
        (lambda: Custom(Never(), "rpc"), "scorer is 'rpc'; expected a Scorer"),  # type: ignore[arg-type]
    ],
)
def test_refusals_name_field_value_and_range(make, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        make()


def test_a_scorer_may_read_all_that_was_generated_by_the_first_compression() -> None:
    assert scorer_of(Custom(Fixed(8, 1, 1), WindowAttention(9))).queries == 9


def test_policies_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RPC().ratio = 8  # type: ignore[misc]


def test_the_packages_names_all_load() -> None:
    for name in compress.__all__:
        assert getattr(compress, name).__name__ == name or name == "Aggregation"
    assert set(compress.__all__) <= set(dir(compress))
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = compress.nonesuch
