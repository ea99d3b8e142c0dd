"""Strategies from text."""

from __future__ import annotations

import dataclasses

import pytest

from laconic.errors import LaconicError
from laconic.prune.strategies import registry
from laconic.prune.strategies.deepconf import DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.judged import JudgedVote
from laconic.prune.strategies.parallel_probe import SHORT
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.strategies.registry import (
    has_warmup_traces,
    known,
    listings,
    needs_judge,
    parse,
    settings,
    settings_for_short,
)
from laconic.prune.strategies.self_consistency import SelfConsistency
from tests.prune.scripted import TableJudge
from tests.prune.test_calibration import calibration

JUDGE = TableJudge(lambda a, b: 1.0)


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ("self-consistency", SelfConsistency(8)),
        ("cons:early_end=false", SelfConsistency(8, early_end=False)),
        ("Self_Consistency", SelfConsistency(8)),
        ("priced-vote", PricedVote(8)),
        ("priced:price=0.01,parallel=4,ties=index", PricedVote(8, 0.01, parallel=4, ties="index")),
        ("judged-vote", JudgedVote(8, JUDGE)),
        ("judged:price=0.01,tpr=0.9,fpr=0.2", JudgedVote(8, JUDGE, 0.01, tpr=0.9, fpr=0.2)),
        ("deepconf", DeepConf(8, "low")),
        ("deepconf:high", DeepConf(8, "high")),
        ("deepconf:low, window=64,threshold=0.9", DeepConf(8, "low", window=64, threshold=0.9)),
        ("deepconf:mode=high", DeepConf(8, "high")),
        ("deepprune", DeepPrune(8, JUDGE)),
        ("deepprune:tau=0.6,K=4,K1=2,K2=5,K3=6", DeepPrune(8, JUDGE, tau=0.6, K=4, K1=2, K2=5, K3=6)),
        ("deepprune:K2=none,excerpt=words:25:3", DeepPrune(8, JUDGE, excerpt="words:25:3")),
        ("deepprune:vote=size,finish=together,seed=3", DeepPrune(8, JUDGE, vote="size", finish="together", seed=3)),
    ],
)
def test_a_text_becomes_a_strategy(spec, want):
    assert parse(spec, 8, JUDGE) == want


def test_overrides_win_and_none_is_not_given():
    assert parse("deepprune:tau=0.6,K2=5", 8, JUDGE, tau=0.7, K2=None) == DeepPrune(8, JUDGE, tau=0.7, K2=5)


@pytest.mark.parametrize("name", known())
def test_every_setting_can_be_typed_as_its_default(name):
    made = parse(name, 8, JUDGE, calibration())
    spec = ",".join(f"{s.field}={getattr(made, s.field) if s.field == 'mode' else s.default}" for s in settings(name))
    assert parse(f"{name.partition(':')[0]}:{spec}", 8, JUDGE, calibration()) == made
    assert all(s.meaning for s in settings(name))
    said = {s.field for s in settings(name)} | {"n", "judge", "calibration"}
    assert {f.name for f in dataclasses.fields(made)} <= said  # type: ignore[arg-type]  # every strategy is one


def test_the_known_and_who_needs_a_judge():
    assert known() == (
        "self-consistency",
        "priced-vote",
        "adaptive-consistency",
        "auto",
        "deepprune",
        "judged-vote",
        "deepconf:low",
        "deepconf:high",
        "dynasor",
        "parallel-probe",
        "step",
    )
    assert [name for name in known() if needs_judge(name)] == ["deepprune", "judged-vote"]
    assert [name for name in known() if has_warmup_traces(name)] == ["deepconf:low", "deepconf:high"]
    assert needs_judge("deepprune:tau=0.2")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "majority",
            "strategy 'majority' is unknown; expected one of self-consistency, priced-vote, adaptive-consistency, auto, ",
        ),
        ("", "strategy '' is unknown"),
        ("deepprune:sigma=1", "setting 'sigma' of strategy deepprune is unknown; its settings: tau, K, K1, K2, K3, "),
        ("deepprune:judge=x", "setting 'judge' of strategy deepprune is unknown"),
        ("self-consistency:n=3", "setting 'n' of strategy self-consistency is unknown; its settings: early_end"),
        ("deepprune:tau", "'tau' in strategy 'deepprune:tau' has no value; expected setting=value"),
        ("deepprune:low", "'low' in strategy 'deepprune:low' has no value"),
        ("deepconf:middle", "'middle' in strategy 'deepconf:middle' has no value"),
        ("deepconf:low,mode=high", "mode is given twice"),
        ("deepconf:low,mode=mid", "mode is given twice"),
        ("deepconf:mode=mid", "mode is 'mid'; expected one of low, high"),
        ("deepprune:K=2,K=3", "K is given twice in strategy 'deepprune:K=2,K=3'; give it once"),
        ("deepprune:K=two", "K of strategy deepprune is 'two'; expected a whole number"),
        ("deepprune:tau=high", "tau of strategy deepprune is 'high'; expected a number"),
        ("deepprune:tau=nan", "tau is nan; expected a number from 0 to 1"),
        ("deepprune:early_end=1", "early_end of strategy deepprune is '1'; expected true or false"),
        ("deepprune:excerpt=lines", "excerpt 'lines' is unknown"),
    ],
)
def test_what_is_wrong_is_said(spec, said):
    with pytest.raises(LaconicError, match=said.replace("(", r"\(")):
        parse(spec, 8, JUDGE)


def test_presets_are_listed_as_forms():
    forms = {listing.name: listing.forms for listing in listings()}
    assert forms["deepconf"] == ("deepconf:low", "deepconf:high")
    assert forms["dynasor"] == ("dynasor", *(f"dynasor:{word}" for word in ("mild", "low", "mid", "high", "crazy")))
    assert forms["parallel-probe"] == ("parallel-probe", "parallel-probe:short")
    assert settings_for_short("parallel-probe:interval=5") == SHORT
    assert settings_for_short("deepconf:low") == settings_for_short("dynasor") == {}


def test_a_judge_must_be_given_where_one_is_needed():
    with pytest.raises(LaconicError, match="strategy deepprune needs a judge; give one"):
        parse("deepprune", 8)
    assert parse("cons", 8) == SelfConsistency(8)
    with pytest.raises(LaconicError, match="n is 0"):
        parse("cons", 0)
    with pytest.raises(LaconicError, match="setting 'tau' of strategy self-consistency is unknown"):
        parse("cons", 8, tau=0.5)


def test_classes_say_their_names():
    for name, cls in registry._CLASSES.items():
        made = parse(name, 8, JUDGE, calibration())
        assert type(made) is cls
        assert made.name.startswith(name)
        assert made.name in known()
