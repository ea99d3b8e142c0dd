"""`auto`: it is the strategy that its calibration chooses, and says so."""

from __future__ import annotations

import pytest

from laconic.errors import LaconicError
from laconic.prune.calibration import CalibratedRow
from laconic.prune.needs import Needs
from laconic.prune.strategies.auto import Auto
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.strategies.registry import needs_calibration, needs_judge, parse
from laconic.prune.strategies.self_consistency import SelfConsistency
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.prune.test_calibration import ROWS, calibration

SCRIPTS = [Script(5 + i % 4, str(i % 3), confidence=(1.0 + i % 2,)) for i in range(16)]


def test_it_does_what_the_chosen_strategy_does_and_says_why() -> None:
    made = Auto(16, calibration(), "4x")
    assert made.chosen() == PricedVote(16, price=0.01)
    assert made.needs() == Needs(confidence_top_k=20)
    got = made.solve(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    want = PricedVote(16, price=0.01).solve(ScriptedEngine(SCRIPTS), "why?", SAMPLING)
    assert (got.strategy, got.settings, got.votes, got.tokens) == (
        want.strategy,
        want.settings,
        want.votes,
        want.tokens,
    )
    assert got.note == (
        "chosen for 4 traces a problem: priced-vote:price=0.01 was right on 35.0% for 3.5 traces a problem, +6.0 points "
        "[+1.0, +11.0] to the plain vote that costs as much, on 60 problems of m"
    )


def test_no_more_traces_than_asked_for() -> None:
    assert Auto(3, calibration(), "4x").chosen() == PricedVote(3, price=0.01)
    assert Auto(16, calibration(), "2x").chosen() == SelfConsistency(1)


def test_as_text() -> None:
    made = calibration()
    assert parse("auto:spend=2x", 16, calibration=made) == Auto(16, made, "2x")
    assert parse("auto", 16, calibration=made, spend="1000") == Auto(16, made, "1000")
    assert needs_calibration("auto")
    assert not needs_calibration("priced-vote")
    assert not needs_judge("auto")
    assert parse("self-consistency", 4, calibration=made) == SelfConsistency(4)


def test_what_cannot_work_is_one_sentence() -> None:
    with pytest.raises(LaconicError, match="strategy auto needs a calibration"):
        parse("auto", 16)
    with pytest.raises(LaconicError, match="calibration is 'x'"):
        Auto(16, "x")  # type: ignore[arg-type]
    with pytest.raises(LaconicError, match="is below one trace"):
        Auto(16, calibration(), "10")
    with pytest.raises(LaconicError, match="is neither"):
        Auto(16, calibration(), "lots")
    judged = (*ROWS, CalibratedRow("deepprune", 16, 2.0, 0.9))
    with pytest.raises(LaconicError, match="the calibration chooses deepprune, which asks a judge"):
        Auto(16, calibration(judged), "4x")
    broken = (*ROWS, CalibratedRow("magic", 16, 2.0, 0.9))
    with pytest.raises(LaconicError, match="strategy 'magic' is unknown"):
        Auto(16, calibration(broken), "4x")


def test_the_reason_says_where_n_cuts_a_choice_short() -> None:
    assert Auto(3, calibration(), "4x").why().endswith("; that was with up to 16 traces, here there are 3")
    assert "here there are" not in Auto(16, calibration(), "4x").why()
