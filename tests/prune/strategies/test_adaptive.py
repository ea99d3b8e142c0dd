"""Adaptive consistency on scripted traces: the rule wave by wave, whatever ends first."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.strategies.adaptive import AdaptiveConsistency
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine

SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 9), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=14
)


def solve(scripts, engine=None, **settings_):
    engine = engine or ScriptedEngine(scripts)
    verdict = AdaptiveConsistency(len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return verdict


def ahead(a: int, b: int) -> Fraction:
    """P(theta > 1/2) for theta of Beta(a + 1, b + 1), in whole numbers."""
    coins = a + b + 1
    return Fraction(sum(comb(coins, heads) for heads in range(a + 1)), 2**coins)


def wave_by_wave(scripts, threshold, wave):
    """(traces, answer)."""
    seen = 0
    counts: dict[str, int] = {}
    while seen < len(scripts):
        for script in scripts[seen : seen + wave]:
            if script.answer is not None:
                counts[script.answer] = counts.get(script.answer, 0) + 1
        seen = min(seen + wave, len(scripts))
        first, second, *_ = [*sorted(counts.values(), reverse=True), 0, 0]
        if ahead(first, second) >= Fraction(threshold):
            break
    return seen, max(counts, key=lambda answer: counts[answer]) if counts else None


@settings(max_examples=120, deadline=None)
@given(SCRIPTS, st.sampled_from([0.55, 0.7, 0.95, 1.0]), st.integers(1, 5), st.integers(1, 8), st.integers(1, 4))
def test_wave_by_wave_is_the_rule(scripts, threshold, wave, batch, chunk):
    verdict = solve(scripts, ScriptedEngine(scripts, batch, chunk), threshold=threshold, wave=wave)
    count, answer = wave_by_wave(scripts, threshold, wave)
    assert [t.fate for t in verdict.traces] == ["finished"] * count + ["abandoned"] * (len(scripts) - count)
    assert verdict.tokens.generated == sum(s.length for s in scripts[:count])
    assert verdict.answer == answer
    assert verdict.complete


def test_why_is_told():
    scripts = [Script(5, "9")] * 8
    verdict = solve(scripts)
    # Beta(5, 1): 1 - 1/2^5 = .969 after four equal answers, .9375 after three
    assert [t.fate for t in verdict.traces] == [*["finished"] * 4, *["abandoned"] * 4]
    assert verdict.traces[7].reason == "the leader is likely enough to stay ahead"
    run = AdaptiveConsistency(8).begin(ScriptedEngine(scripts), "why?", SAMPLING)
    said = [step.message for step in run]
    assert "the leading answer stays ahead with a probability of 0.969, at least 0.95: 4 traces not started" in said
    assert run.snapshot().extra["ahead"] == pytest.approx(1 - 2**-5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n": 0}, "n is 0"),
        ({"threshold": 0.5}, "threshold is 0.5; expected a number above 0.5"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"wave": 0}, "wave is 0"),
        ({"ties": "luck"}, "ties is 'luck'"),
        ({"top_k": 0}, "top_k is 0"),
    ],
)
def test_settings_out_of_range(wrong, says):
    with pytest.raises(LaconicError, match=says):
        AdaptiveConsistency(**{"n": 4, **wrong})
