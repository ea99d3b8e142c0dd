"""Majority voting on scripted traces: early end changes the cost, never the answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.strategies.self_consistency import SelfConsistency
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.reference import clustering as slow

SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 12), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=12
)


def solve(scripts, engine=None, **settings_):
    engine = engine or ScriptedEngine(scripts)
    verdict = SelfConsistency(len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return verdict


@settings(max_examples=150, deadline=None)
@given(SCRIPTS, st.integers(1, 12), st.integers(1, 5))
def test_early_end_gives_the_same_answer(scripts, batch, chunk):
    votes = [(i, s.answer, 1) for i, s in enumerate(scripts) if s.answer is not None]
    whole = solve(scripts, early_end=False)
    early = solve(scripts, ScriptedEngine(scripts, batch, chunk))
    assert whole.answer == early.answer == slow.winner(votes)
    assert whole.tokens.generated == sum(s.length for s in scripts)
    assert early.tokens.generated <= whole.tokens.generated
    assert {t.fate for t in whole.traces} == {"finished"}
    assert whole.complete
    assert early.complete
    assert {t.index for t in early.traces if t.fate == "finished" and t.answer} == {
        i for vote in early.votes for i in vote.traces
    }
    assert {t.fate for t in early.traces} <= {"finished", "abandoned"}


def test_the_rest_is_stopped_at_the_step_that_decides():
    scripts = [Script(4, "1"), Script(6, "1"), Script(9, "2"), Script(30, "1"), Script(40, "2")]
    engine = ScriptedEngine(scripts)
    verdict = solve(scripts, engine)
    # Two of five are not enough, a third "1" would be: trace 3 must come to its end, trace 4 need not.
    assert [(t.fate, t.tokens) for t in verdict.traces] == [
        ("finished", 4),
        ("finished", 6),
        ("finished", 9),
        ("finished", 30),
        ("abandoned", 30),
    ]
    assert verdict.traces[4].reason == "the vote was decided without it"
    assert [(v.answer, v.weight, v.traces) for v in verdict.votes] == [("1", 3, (0, 1, 3)), ("2", 1, (2,))]
    assert [t.weight for t in verdict.traces] == [1, 1, 1, 1, 0]
    assert verdict.tokens.saved == round(5 * 49 / 4) - 79


def test_one_trace_is_pass_at_1():
    verdict = solve([Script(5, "9")])
    assert (verdict.answer, verdict.n, verdict.tokens.generated) == ("9", 1, 5)
    assert verdict.strategy == "self-consistency"
    assert verdict.settings == {"early_end": True, "ties": "index", "top_k": 20}
    assert verdict.traces[0].reason == "came to its end"


def test_ties_go_to_the_answer_of_the_first_trace():
    assert solve([Script(9, "2"), Script(2, "1"), Script(3, "1"), Script(12, "2")]).answer == "2"


SURE = st.builds(
    Script,
    st.integers(1, 12),
    st.sampled_from(["1", "2", "3", None]),
    confidence=st.tuples(st.sampled_from([1.0, 2.0, 3.0])),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SURE, min_size=1, max_size=10), st.integers(1, 12), st.integers(1, 5))
def test_ties_may_go_to_the_more_confident_traces(scripts, batch, chunk):
    """Early end waits for what could still tip a tie."""
    whole = solve(scripts, early_end=False, ties="confidence")
    assert solve(scripts, ScriptedEngine(scripts, batch, chunk), ties="confidence").answer == whole.answer
    votes: dict[str, list[float]] = {}
    for script in scripts:
        if script.answer is not None:
            votes.setdefault(script.answer, []).append(script.confidence[0])
    best = max(((len(v), sum(v) / len(v)) for v in votes.values()), default=None)
    if best is not None:
        assert (len(votes[whole.answer]), sum(votes[whole.answer]) / len(votes[whole.answer])) == pytest.approx(best)


def test_no_answer_is_a_verdict_that_says_so():
    verdict = solve([Script(3), Script(5, finish="length")])
    assert (verdict.answer, verdict.votes, verdict.complete) == (None, (), True)
    assert verdict.note == "of 2 traces that ended none gave an answer"
    assert verdict.traces[1].reason == "reached its limit of 5 tokens"


def test_kv_and_seconds_are_told():
    scripts = [Script(4, "1"), Script(6, "1"), Script(6, "2")]
    engine = ScriptedEngine(scripts)
    engine.peak = 10**6  # held before this run
    verdict = solve(scripts, engine, early_end=False)
    assert verdict.kv["token_steps"] == engine.kv_token_steps > 0
    assert 0 < verdict.kv["peak_bytes"] < 10**6
    assert set(verdict.seconds) == {"finish", "vote", "total"}
    assert verdict.seconds["total"] == pytest.approx(verdict.seconds["finish"] + verdict.seconds["vote"])
    fresh = ScriptedEngine(scripts)
    assert solve(scripts, fresh, early_end=False).kv["peak_bytes"] == fresh.peak


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n is 0; expected a whole number from 1 to 4096 (traces)"),
        ({"n": 4097}, "n is 4097; expected a whole number from 1 to 4096"),
        ({"n": True}, "n is True"),
        ({"n": 2, "early_end": "yes"}, "early_end is 'yes'; expected true or false"),
    ],
)
def test_settings_out_of_range(wrong, said):
    with pytest.raises(LaconicError, match=re.escape(said)):
        SelfConsistency(**wrong)


def test_an_empty_question_is_refused_before_anything_runs():
    engine = ScriptedEngine([Script(3)])
    solving = SelfConsistency(1).begin(engine, "  \n", SAMPLING)
    with pytest.raises(LaconicError, match="the problem is empty: give a question"):
        next(iter(solving))
    assert engine.clean
    assert engine.steps == 0
    with pytest.raises(LaconicError, match="the problem is empty"):
        SelfConsistency(1).solve(engine, "", SAMPLING)
