"""The priced vote on scripted traces: what one after another would give, whatever runs side by side or ends first."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.strategies.priced import PricedVote
from laconic.prune.worth import worth
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.reference import worth as slow

SCRIPTS = st.lists(
    st.builds(
        Script,
        st.integers(1, 9),
        st.sampled_from(["1", "2", "3", None]),
        confidence=st.tuples(st.sampled_from([1.0, 2.0, 3.0])),
    ),
    min_size=1,
    max_size=10,
)


def solve(scripts, engine=None, n=None, **settings_):
    engine = engine or ScriptedEngine(scripts)
    verdict = PricedVote(n or len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return verdict


def one_after_another(scripts, price, first, ties):
    """(traces, answer): the rule as it is told, with the slow worth."""
    counts: dict[str, int] = {}
    confidences: dict[str, list[float]] = {}
    seen = 0
    for script in scripts:
        seen += 1
        if script.answer is not None:
            counts[script.answer] = counts.get(script.answer, 0) + 1
            confidences.setdefault(script.answer, []).append(script.confidence[0])
        if seen >= first and slow.worth(list(counts.values()), seen, len(scripts) - seen) < price:
            break
    if not counts:
        return seen, None

    def rank(answer):
        mean = sum(confidences[answer]) / len(confidences[answer]) if ties == "confidence" else 0
        return counts[answer], mean, -next(i for i, s in enumerate(scripts) if s.answer == answer)

    return seen, max(counts, key=rank)


@settings(max_examples=120, deadline=None)
@given(
    SCRIPTS, st.sampled_from([0.0023, 0.0107, 0.031, 0.21]), st.integers(1, 4), st.sampled_from(["confidence", "index"]),
    st.integers(1, 8), st.integers(1, 4),
)  # fmt: skip
def test_one_at_a_time_is_the_rule(scripts, price, first, ties, batch, chunk):
    verdict = solve(scripts, ScriptedEngine(scripts, batch, chunk), price=price, first=first, ties=ties)
    count, answer = one_after_another(scripts, price, first, ties)
    assert verdict.answer == answer
    assert [t.fate for t in verdict.traces] == ["finished"] * count + ["abandoned"] * (len(scripts) - count)
    assert verdict.tokens.generated == sum(s.length for s in scripts[:count])
    assert verdict.complete
    assert {t.weight for t in verdict.traces if t.answer is not None} <= {1.0}


@settings(max_examples=120, deadline=None)
@given(SCRIPTS, st.sampled_from([0.0023, 0.0107, 0.031]), st.integers(1, 6), st.integers(1, 4))
def test_side_by_side_does_not_depend_on_who_ends_first(scripts, price, parallel, chunk):
    given_ = solve(scripts, ScriptedEngine(scripts, 64, chunk), price=price, parallel=parallel)
    other = [dataclasses.replace(s, length=1 + (s.length * 7 + i * 5) % 9) for i, s in enumerate(scripts)]
    elsewhere = solve(other, ScriptedEngine(other, 3, 1), price=price, parallel=parallel)
    assert [v.traces for v in given_.votes] == [v.traces for v in elsewhere.votes]
    assert given_.answer == elsewhere.answer
    alone, _ = one_after_another(scripts, price, 2, "confidence")
    assert sum(t.tokens > 0 for t in given_.traces) >= min(alone, 2)


def test_traces_on_their_way_are_counted_in():
    scripts = [Script(3, "1"), Script(3, "2"), *[Script(4 + i, "1") for i in range(8)]]
    engine = ScriptedEngine(scripts)
    run = PricedVote(10, price=0.01, parallel=4).begin(engine, "why?", SAMPLING)
    most = 0
    for _ in run:
        rows = run.snapshot().rows
        most = max(most, sum(row.state == "running" for row in rows))
    assert most == 4
    assert run.snapshot().extra["worth"] < 0.01
    assert worth([1, 1], 2, 7, running=1) > 0.01  # which is why a second one started beside the first


def test_what_runs_is_stopped_where_it_can_not_change_the_leader():
    scripts = [Script(2, "1"), Script(2, "2"), Script(3, "1"), Script(4, "1"), Script(90, "2"), Script(90, "2")]
    verdict = solve(scripts, price=0.01, parallel=2)
    # Side by side with the fourth trace runs a fifth: at three votes against one it can't change the leader any more, and a
    # sixth would not be worth its price.
    assert [t.fate for t in verdict.traces] == [*["finished"] * 4, "abandoned", "abandoned"]
    assert 0 < verdict.traces[4].tokens < 10
    assert verdict.traces[4].reason == "the vote was decided without it"
    assert verdict.traces[5].tokens == 0
    assert verdict.traces[5].reason == "it was not worth its price"


def test_why_is_told():
    verdict = solve([Script(5, "9")] * 6, price=0.02)
    assert [t.fate for t in verdict.traces] == ["finished", "finished", *["abandoned"] * 4]
    assert verdict.traces[5].reason == "it was not worth its price"
    assert (verdict.strategy, verdict.n, verdict.settings["price"]) == ("priced-vote", 6, 0.02)
    engine = ScriptedEngine([Script(5, "9")] * 6)
    said = [step.message for step in PricedVote(6, price=0.02).begin(engine, "why?", SAMPLING)]
    assert "2 traces of at most 6 start" in said
    assert any(
        s.startswith("a further trace would be worth 0.0")
        and s.endswith("under the price of 0.02: 4 traces not started")
        for s in said
    )


def test_one_trace_and_no_answer():
    verdict = solve([Script(5, "9")])
    assert (verdict.answer, verdict.tokens.generated) == ("9", 5)
    verdict = solve([Script(3)] * 40)
    assert verdict.answer is None
    assert "none gave an answer" in verdict.note
    assert 2 < sum(t.fate == "finished" for t in verdict.traces) < 12  # a hopeless problem isn't paid for to the end


def test_the_more_confident_of_two_wins():
    scripts = [Script(4, "1", confidence=(1.0,)), Script(4, "2", confidence=(1.5,))]
    assert solve(scripts).answer == "2"
    assert solve(scripts, ties="index").answer == "1"


class Mute(ScriptedEngine):
    """Has no confidences to give."""

    def _draw(self, row):
        super()._draw(row)
        row.trace.confidences.clear()


def test_an_engine_without_confidences_is_told():
    with pytest.raises(LaconicError, match=r"trace p0-0 has 0 confidences for 3 tokens.*or ties=index"):
        PricedVote(2).solve(Mute([Script(3, "1")] * 2), "why?", SAMPLING)
    assert PricedVote(2, ties="index").solve(Mute([Script(3, "1")] * 2), "why?", SAMPLING).answer == "1"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"price": 0}, "price is 0; expected a number above 0 and at most 1"),
        ({"price": -1.0}, "price is -1.0"),
        ({"price": 2}, "price is 2"),
        ({"first": 0}, "first is 0"),
        ({"parallel": 0}, "parallel is 0"),
        ({"ties": "luck"}, "ties is 'luck'; expected one of confidence, index"),
        ({"top_k": 0}, "top_k is 0"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_settings_out_of_range(values, says):
    with pytest.raises(LaconicError) as error:
        PricedVote(**{"n": 4, **values})
    assert says in str(error.value)
