"""Several traces that can't differ are told, once, and run all the same."""

from __future__ import annotations

import warnings

import pytest

from laconic.engines.base import Sampling
from laconic.errors import LaconicWarning
from laconic.prune import DeepConf, SelfConsistency
from laconic.prune.alike import warn_alike
from tests.prune.scripted import Script, ScriptedEngine


@pytest.mark.parametrize(
    ("n", "sampling", "said"),
    [
        (2, Sampling(temperature=0), "temperature is 0, at which all traces"),
        (64, Sampling(temperature=1, top_k=1), "top_k is 1, at which all traces"),
        (1, Sampling(temperature=0), None),
        (64, Sampling(temperature=1, top_k=2), None),
        (64, None, None),
    ],
)
def test_only_traces_that_cannot_differ(n: int, sampling: Sampling | None, said: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_alike(n, sampling)  # type: ignore[arg-type]
    assert [w.category for w in caught] == ([LaconicWarning] if said else [])
    assert not said or said in str(caught[0].message)


@pytest.mark.parametrize("strategy", [SelfConsistency(3), DeepConf(3, warmup=1)])
def test_a_strategy_tells_it_where_it_begins(strategy: SelfConsistency | DeepConf) -> None:
    source = ScriptedEngine([Script(5, "4")] * 3)
    with pytest.warns(LaconicWarning, match="temperature is 0, at which all traces of a problem are the same"):
        strategy.begin(source, "2 + 2 ?", Sampling(temperature=0))
