"""The judged vote on scripted traces: the priced vote where the judge tells nothing, a vote of prefixes where it never errs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.judges.baselines import PerfectJudge, RandomJudge, SimulatedJudge
from laconic.prune.strategies.judged import BUNDLED_FPR, BUNDLED_TPR, JudgedVote
from laconic.prune.strategies.priced import PricedVote
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine, TableJudge, noisy, perfect
from tests.prune.strategies.test_run import checked

SCRIPTS = st.lists(
    st.builds(
        Script,
        st.integers(1, 12),
        st.sampled_from(["1", "2", "3", None]),
        confidence=st.tuples(st.sampled_from([1.0, 2.0, 3.0])),
    ),
    min_size=1,
    max_size=10,
)


def solve(scripts, judge=None, engine=None, **settings_):
    engine = engine or ScriptedEngine(scripts)
    judge = judge or TableJudge(perfect(scripts), tokens=0)
    values: dict[str, Any] = {"excerpt": "tokens:3", "tpr": 1.0, "fpr": 0.0, **settings_}
    verdict = JudgedVote(len(scripts), judge, **values).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return checked(verdict, complete=True, probed=True)


@settings(max_examples=60, deadline=None)
@given(
    SCRIPTS, st.sampled_from([0.0023, 0.0107, 0.031, 0.21]), st.integers(1, 4), st.sampled_from(["confidence", "index"]),
    st.integers(1, 8), st.integers(1, 4), st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_a_judge_that_tells_nothing_makes_it_the_priced_vote(scripts, price, first, ties, batch, chunk, rate):
    judge = TableJudge(perfect(scripts))
    given_ = solve(
        scripts, judge, ScriptedEngine(scripts, batch, chunk), price=price, first=first, ties=ties, tpr=rate, fpr=rate
    )
    alone = ScriptedEngine(scripts, batch, chunk)
    priced = PricedVote(len(scripts), price, first, ties=ties).solve(alone, "why?", SAMPLING)
    assert judge.read_calls == []
    assert (given_.answer, given_.votes, given_.traces, given_.tokens) == (
        priced.answer,
        priced.votes,
        priced.traces,
        priced.tokens,
    )


@settings(max_examples=60, deadline=None)
@given(SCRIPTS, st.integers(0, 5), st.sampled_from([0.0023, 0.0107, 0.05]), st.integers(1, 8))
def test_nothing_depends_on_the_batch(scripts, seed, price, batch):
    judges = [TableJudge(noisy(scripts, seed), tokens=1) for _ in range(2)]
    one, other = (
        solve(scripts, judge, ScriptedEngine(scripts, rows), price=price, tpr=0.8, fpr=0.2)
        for judge, rows in zip(judges, (batch, 64), strict=True)
    )
    assert one.traces == other.traces
    assert one.votes == other.votes
    assert judges[0].read_calls == judges[1].read_calls
    assert one.tokens.judged == sum(map(len, judges[0].read_calls))


def test_prefixes_take_the_place_of_traces_where_the_judge_never_errs():
    scripts = [Script(60, a) for a in "1211111111"]
    verdict = solve(scripts, price=0.004)
    priced = PricedVote(10, 0.004).solve(ScriptedEngine(scripts), "why?", SAMPLING)
    assert verdict.answer == priced.answer == "1"
    assert verdict.tokens.total < 0.6 * priced.tokens.total
    fates = [t.fate for t in verdict.traces]
    assert fates[:4] == ["finished", "finished", "pruned", "pruned"]
    assert [t.tokens for t in verdict.traces[2:4]] == [3, 3]
    assert verdict.traces[2].reason == "read: 1 with a probability of 1.00"
    assert verdict.votes[0].weight == pytest.approx(1 + fates.count("pruned"), abs=1e-6)
    assert verdict.winner == 0  # one that came to its end


def test_an_answer_that_only_prefixes_have_is_finished_before_it_wins():
    scripts = [Script(40, a) for a in "12333333"]
    engine = ScriptedEngine(scripts)
    verdict = solve(scripts, engine=engine, price=0.01)
    assert verdict.answer == "3"
    assert [t.fate for t in verdict.traces[:3]] == ["finished"] * 3
    assert ("resume", "p0-2") in engine.log
    assert engine.rebuilt == 1
    assert sum(t.tokens for t in verdict.traces) < 200


def test_what_ends_within_its_excerpt_is_a_finished_trace():
    scripts = [Script(20, "1"), Script(20, "2"), *[Script(2, "1")] * 6]
    verdict = solve(scripts, price=0.01)
    assert verdict.answer == "1"
    assert {t.fate for t in verdict.traces} <= {"finished", "abandoned"}
    assert verdict.votes[0].weight > 2


def test_a_dear_judge_is_asked_once_and_no_more():
    scripts = [Script(60, a) for a in "1212121212"]
    judge = TableJudge(perfect(scripts), tokens=500)
    verdict = solve(scripts, judge, price=0.004)
    assert judge.read_calls == [["p0-0", "p0-1", "p0-2"]]  # what it costs is known only then
    assert verdict.tokens.judged == 1500


def test_a_noisy_prefix_is_finished_where_that_pays():
    scripts = [Script(20, a) for a in "12121212"]
    judge = TableJudge(lambda a, b: 1.0, tokens=0)  # says yes to all, which tells the least of two answers
    engine = ScriptedEngine(scripts)
    verdict = solve(scripts, judge, engine, price=0.0005, excerpt="tokens:12", tpr=0.9, fpr=0.1)
    resumed = [name for what, name in engine.log if what == "resume"]
    again = {name for name in resumed if resumed.count(name) > 1}
    assert again
    assert {t.fate for t in verdict.traces if t.id in again} == {"finished"}


def test_rates_are_the_judge_s_own_unless_given():
    assert JudgedVote(4, RandomJudge(p=0.3)).rates == (0.3, 0.3)
    assert JudgedVote(4, PerfectJudge({})).rates == (1.0, 0.0)
    tpr, fpr = JudgedVote(4, SimulatedJudge({}, auroc=0.9)).rates
    assert tpr == pytest.approx(1 - fpr)
    assert tpr == pytest.approx(0.8176, abs=1e-4)
    assert JudgedVote(4, SimulatedJudge({}), tpr=0.7).rates[0] == 0.7
    assert JudgedVote(4, TableJudge(lambda a, b: 1.0)).rates == (BUNDLED_TPR, BUNDLED_FPR)


def test_a_simulated_judge_errs_as_its_rates_say():
    answers = {str(i): str(i % 3) for i in range(240)}
    judge = SimulatedJudge(answers, auroc=0.85)
    pairs = [((str(i), str(i % 3)), (str(j), str(j % 3))) for i in range(240) for j in range(i)]
    said = [number > 0.5 for number in judge.compare(pairs)]
    alike = [a[1] == b[1] for a, b in pairs]
    for truth, rate in zip((True, False), judge.rates, strict=True):
        mine = [yes for yes, same in zip(said, alike, strict=True) if same == truth]
        assert sum(mine) / len(mine) == pytest.approx(rate, abs=0.02)


class TwoReadings(TableJudge):
    def read(self, excerpts, engine=None):
        return super().read(excerpts)[:-1]


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (lambda scripts: TwoReadings(perfect(scripts)), "gave 2 readings of 3 excerpts"),
        (lambda scripts: TableJudge(lambda a, b: 1.5), "what the judge gave is 1.5"),
    ],
)
def test_a_judge_that_gives_what_none_can(judge, says):
    scripts = [Script(60, a) for a in "1211111111"]
    with pytest.raises(LaconicError, match=says):
        solve(scripts, judge(scripts), price=0.004)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"price": 0}, "price is 0; expected a number above 0 and at most 1"),
        ({"first": 0}, "first is 0"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"tau": 0.7}, "tau is 0.7, and a judge's rates are known at 0.5 alone: give tpr and fpr, too"),
        ({"tpr": -0.1}, "tpr is -0.1"),
        ({"fpr": 2}, "fpr is 2"),
        ({"ties": "luck"}, "ties is 'luck'; expected one of confidence, index"),
        ({"excerpt": "lines"}, "excerpt 'lines' is unknown"),
        ({"judge": None}, "judged-vote's judge is None"),
        ({"judge": TableJudge(lambda a, b: 1.0, excerpt="tokens:4"), "excerpt": "tokens:5"}, "was made for tokens:4"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_settings_out_of_range(values, says):
    with pytest.raises(LaconicError) as error:
        JudgedVote(**{"n": 4, "judge": TableJudge(lambda a, b: 1.0), **values})
    assert says in str(error.value)
