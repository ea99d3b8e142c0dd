"""DeepPrune on scripted traces: whom it stops, whom it finishes, and that timing changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.engines.base import Sampling
from laconic.errors import LaconicError
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.self_consistency import SelfConsistency
from tests.prune.scripted import SAMPLING, MatrixJudge, Script, ScriptedEngine, TableJudge, noisy, perfect
from tests.prune.strategies.test_run import checked
from tests.reference import clustering as slow


def solve(scripts, judge=None, engine=None, sampling=SAMPLING, **settings_):
    engine = engine or ScriptedEngine(scripts)
    judge = judge or TableJudge(perfect(scripts))
    settings_ = {"excerpt": "tokens:4"} | settings_
    verdict = DeepPrune(len(scripts), judge, **settings_).solve(engine, "why?", sampling)
    assert engine.clean
    return checked(verdict, complete=True)


def fates(verdict):
    return [t.fate for t in verdict.traces]


MIXED = [Script(10 + i, a) for i, a in enumerate("1121323111")]


def test_redundant_traces_stop_at_their_excerpts_and_the_largest_cluster_votes():
    engine = ScriptedEngine(MIXED)
    verdict = solve(MIXED, engine=engine, K2=3, early_end=False)
    assert verdict.clusters == ((0, 1, 3, 7, 8, 9), (2, 5), (4, 6))
    assert verdict.answer == "1"
    assert [v.traces for v in verdict.votes] == [(0, 1, 3)]
    assert fates(verdict) == [
        "finished",
        "finished",
        "abandoned",
        "finished",
        "abandoned",
        "pruned",
        "pruned",
        "pruned",
        "pruned",
        "pruned",
    ]
    assert [t.tokens for t in verdict.traces] == [10, 11, 4, 13, 4, 4, 4, 4, 4, 4]
    assert verdict.traces[7].reason == "agrees with cluster 0 (1.00)"
    assert verdict.traces[2].reason == "not among those chosen to finish"
    assert verdict.tokens.judged == 70
    assert verdict.tokens.saved == round(10 * 34 / 3) - 62 - 70
    assert engine.rebuilt == 0, "all were judged in one step: survivors never left the batch"
    assert set(verdict.seconds) == {"explore", "judge", "finish", "vote", "total"}


def test_the_engine_runs_as_many_as_may_be_needed():
    scripts = [Script(10, "1")] * 2 + [Script(12, "2"), Script(30, "1"), Script(31, "1")]
    same = TableJudge(lambda a, b: 1.0)
    needed = solve(scripts, same, K2=5)
    # Three equal votes decide five; the third of the first three says "2", so a fourth runs, which decides.
    assert fates(needed) == ["finished", "finished", "finished", "finished", "pruned"]
    assert [t.tokens for t in needed.traces] == [10, 10, 12, 30, 4]
    together = solve(scripts, same, K2=5, finish="together")
    assert fates(together) == ["finished", "finished", "finished", "finished", "abandoned"]
    assert [t.tokens for t in together.traces] == [10, 10, 12, 30, 30]
    assert together.traces[4].reason == "the vote was decided without it"
    whole = solve(scripts, same, K2=5, early_end=False)
    assert fates(whole) == ["finished"] * 5
    assert needed.answer == together.answer == whole.answer == "1"


SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 14), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=14
)


@settings(max_examples=120, deadline=None)
@given(
    scripts=SCRIPTS,
    seed=st.integers(0, 999),
    batch=st.integers(1, 14),
    chunk=st.integers(1, 6),
    kind=st.sampled_from(["tokens:1", "tokens:4", "words:1", "words:1:0", "kept:5"]),
    vote=st.sampled_from(["plain", "size", "confidence"]),
    finish=st.sampled_from(["needed", "together"]),
    K=st.integers(1, 5),
)
def test_batch_and_chunks_change_nothing_and_early_end_only_the_cost(
    scripts, seed, batch, chunk, kind, vote, finish, K
):
    class Engine(ScriptedEngine):
        def kept(self, trace_id):
            return range(0, len(self.trace(trace_id).token_ids), 2)

    common = {"K": K, "K1": 2, "K2": 3, "seed": seed, "excerpt": kind, "vote": vote}
    first = solve(scripts, TableJudge(noisy(scripts, seed)), Engine(scripts), early_end=False, **common)
    judge = MatrixJudge(noisy(scripts, seed))
    other = solve(scripts, judge, Engine(scripts, batch, chunk), early_end=False, finish=finish, **common)
    assert other.clusters == first.clusters
    assert other.votes == first.votes
    assert other.answer == first.answer
    early = solve(scripts, judge, Engine(scripts, batch, chunk), finish=finish, **common)
    assert (early.clusters, early.answer) == (first.clusters, first.answer)
    assert [(e.kind, e.token_ids, e.text, e.complete) for e in sorted(judge.seen, key=lambda e: e.trace_id)][::2] == [
        (e.kind, e.token_ids, e.text, e.complete) for e in sorted(judge.seen, key=lambda e: e.trace_id)
    ][1::2]
    if any(script.answer for script in scripts):
        assert first.answer is not None, "never no answer while there is one to be had"
    for verdict in (first, other, early):
        assert verdict.tokens.generated <= sum(s.length for s in scripts)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.builds(Script, st.integers(1, 14), st.sampled_from(["1", "2", "3"])), min_size=1, max_size=14),
    st.sampled_from(["plain", "size"]),
)
def test_with_a_perfect_judge_the_answer_is_the_majoritys(scripts, vote):
    majority = SelfConsistency(len(scripts)).solve(ScriptedEngine(scripts), "why?", SAMPLING)
    verdict = solve(scripts, vote=vote, K2=len(scripts))
    assert verdict.answer == majority.answer


def test_clusters_are_those_of_the_slow_reference():
    scripts = [Script(6 + i % 5, str(i % 4)) for i in range(40)]
    same = noisy(scripts, 3)
    verdict = solve(scripts, TableJudge(same), K=6, K1=100)
    clusters, _ = slow.cluster(range(40), same, 0.5, 6, lambda _, inside: inside)
    assert [list(c) for c in verdict.clusters] == clusters


def test_a_trace_waits_for_its_turn_without_memory():
    """Trace 0 reaches its second reasoning word late: the others stop at theirs, and are placed after it."""
    slow_one, quick = Script(60, "1"), Script(30, "2")

    class Engine(ScriptedEngine):
        def _draw(self, row):
            super()._draw(row)
            at, index = len(row.trace.token_ids) - 1, row.trace.index
            if at == (40 if index == 0 else 2 + index):
                row.trace.text += "wait "

    held = []

    class Judge(TableJudge):
        def read(self, excerpts, engine=None):
            held.append(sorted(e.trace_id for e in excerpts))
            assert {engine.trace(e.trace_id).state for e in excerpts} == {"running"}
            return super().read(excerpts, engine)

    scripts = [slow_one, quick, quick, quick]
    engine = Engine(scripts)
    judge = Judge(lambda a, b: 1.0)
    solving = DeepPrune(4, judge, excerpt="words:1:0", K2=2, early_end=False).begin(engine, "why?", SAMPLING)
    placed: dict[int, int] = {}
    for _ in solving:
        for row in solving.snapshot().rows:
            if row.cluster is not None:
                placed.setdefault(row.index, len(engine.trace(solving.records[0].id).token_ids))
        if len(engine.trace(solving.records[0].id).token_ids) == 20:
            assert len(engine._batch) == 1, "those that wait hold no memory"
    assert held == [["p0-1"], ["p0-2"], ["p0-3"], ["p0-0"]]  # read when they get there, while their cache is alive
    assert set(placed.values()) == {41}  # placed when it was trace 0's turn
    verdict = checked(solving.verdict(), complete=True)
    assert verdict.clusters == ((0, 1, 2, 3),)
    assert [v.traces for v in verdict.votes] == [(0,), (1,)]
    assert engine.rebuilt == 1  # trace 1; trace 0 was judged in the step that stopped it


def test_more_traces_than_rows_are_judged_as_they_come():
    scripts = [Script(20, "1")] * 12
    judge = TableJudge(perfect(scripts))
    engine = ScriptedEngine(scripts, max_batch=5)
    verdict = solve(scripts, judge, engine, K2=3)
    assert [len(call) for call in judge.read_calls] == [5, 5, 2]
    assert verdict.clusters == (tuple(range(12)),)
    assert [t.tokens for t in verdict.traces] == [20, 20] + [4] * 10  # two of three decide
    assert engine.rebuilt == 2


def test_the_order_in_which_rows_report_changes_nothing():
    class Backwards(ScriptedEngine):
        def _emit(self):
            self._batch.reverse()
            super()._emit()
            self._batch.reverse()

    judge = TableJudge(perfect(MIXED))
    verdict = solve(MIXED, judge, Backwards(MIXED))
    assert judge.read_calls == [[f"p0-{i}" for i in range(10)]]
    forwards = solve(MIXED)
    assert (verdict.clusters, verdict.votes) == (forwards.clusters, forwards.votes)


def test_with_large_chunks_traces_are_judged_as_they_come():
    scripts = [Script(30, "1")] * 12
    judge = TableJudge(perfect(scripts))
    solve(scripts, judge, ScriptedEngine(scripts, max_batch=5, chunk_tokens=3), excerpt="tokens:7")
    assert [len(call) for call in judge.read_calls] == [5, 5, 2]
    uneven = [Script(3 if i == 2 else 30, "1") for i in range(9)]
    late = TableJudge(perfect(uneven))
    solving = DeepPrune(9, late, excerpt="tokens:7").begin(ScriptedEngine(uneven, 4, 3), "why?", SAMPLING)
    exploring = [len(late.read_calls) for progress in solving if progress.phase == "explore"]
    assert exploring[-1] > 1, "some were judged while others still explored"


def test_a_stop_that_comes_too_late_is_no_harm():
    """An engine may end a trace before it carries a stop out."""

    class Late(ScriptedEngine):
        def stop(self, trace_id):
            row = self._rows[trace_id]
            if row.trace.state == "running":
                while len(row.trace.token_ids) < row.script.length:
                    self._draw(row)
                self._emit()

    verdict = solve(MIXED, engine=Late(MIXED), K2=3, early_end=False)
    assert fates(verdict) == ["finished"] * 10
    assert [v.traces for v in verdict.votes] == [(0, 1, 3)]
    assert [t.tokens for t in verdict.traces] == [s.length for s in MIXED]


def test_a_judge_that_has_worked_before_is_billed_for_this_run_only():
    judge = TableJudge(perfect(MIXED))
    first = solve(MIXED, judge)
    assert solve(MIXED, judge).tokens == first.tokens
    assert (first.tokens.judged, judge.cost.tokens) == (70, 140)


def test_a_matrix_is_asked_once_where_all_come_together():
    judge = MatrixJudge(perfect(MIXED))
    verdict = solve(MIXED, judge)
    assert judge.matrices == [10]
    assert judge.cost.pairs == 0
    assert verdict.clusters == ((0, 1, 3, 7, 8, 9), (2, 5), (4, 6))
    trickle = MatrixJudge(lambda a, b: 1.0)
    scripts = [Script(20, "1")] * 40
    solve(scripts, trickle, ScriptedEngine(scripts, max_batch=2))
    assert trickle.matrices == [2, 4, 6, 8, 10, 12, 14, 16]  # then pair by pair
    assert trickle.cost.pairs > 0


# ---- what ended early, what has no answer ---------------------------------------------------------------------------


def test_traces_that_end_within_their_excerpts_vote_where_their_cluster_is_chosen():
    scripts = [Script(3, "2"), Script(9, "1"), Script(2, "1"), Script(9, "1"), Script(3, "1"), Script(9, "2")]
    judge = TableJudge(perfect(scripts))
    verdict = solve(scripts, judge, K2=3, early_end=False)
    assert verdict.clusters == ((0, 5), (1, 2, 3, 4))
    assert [(v.answer, v.traces) for v in verdict.votes] == [("1", (1, 2, 4))]  # the two that had ended, and one more
    assert fates(verdict) == ["finished", "finished", "finished", "pruned", "finished", "pruned"]
    assert verdict.traces[0].weight == 0
    assert [e.answer for e in sorted(judge.seen, key=lambda e: e.trace_id)] == ["2", None, "1", None, "1", None]
    more = solve([Script(3, "1")] * 5 + [Script(9, "1")], K2=2, early_end=False)
    assert [v.traces for v in more.votes] == [(0, 1, 2, 3, 4)], "what has ended votes, however many there are"


def test_all_ended_within_their_excerpts():
    verdict = solve([Script(3, a) for a in "1221"])
    assert verdict.answer == "1"
    assert verdict.note == "every trace ended within its excerpt (tokens:4), so there was nothing to prune"


def test_a_trace_that_ended_without_an_answer_is_in_no_cluster():
    scripts = [Script(2), Script(3), Script(9, "1"), Script(9, "1")]
    judge = TableJudge(lambda a, b: 1.0)
    verdict = solve(scripts, judge)
    assert verdict.clusters == ((2, 3),)
    assert [t.cluster for t in verdict.traces] == [None, None, 0, 0]
    assert [len(call) for call in judge.read_calls] == [2]


def test_where_nobody_of_a_panel_answers_the_next_ones_are_asked():
    answers = [None, None, None, None, "5", None, "6"]
    scripts = [Script(9, a) for a in answers]
    same = {0: 0, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 2}
    judge = TableJudge(lambda a, b: float(same[a] == same[b]))
    verdict = solve(scripts, judge, K2=2)
    assert verdict.answer == "5"
    assert fates(verdict) == ["finished"] * 5 + ["pruned", "abandoned"]
    for vote in ("size", "confidence"):
        assert solve(scripts, judge, K2=2, vote=vote).answer == "5"


def test_those_left_out_at_the_cap_are_asked_last():
    scripts = [Script(9), Script(9), Script(9, "7"), Script(9, "8")]
    judge = TableJudge(lambda a, b: float({a, b} == {0, 1}))
    verdict = solve(scripts, judge, K=1)
    assert verdict.clusters == ((0, 1),)
    assert verdict.traces[2].cluster is None
    assert verdict.answer == "7"
    pruned = solve([Script(9, "1"), Script(9, "1"), Script(9, "7")], judge, K=1)
    assert pruned.traces[2].reason == "unlike each of the 1 clusters there may be (0.00)"
    assert fates(pruned) == ["finished", "pruned", "pruned"]


def test_no_answer_anywhere():
    verdict = solve([Script(9), Script(3), Script(12)], TableJudge(lambda a, b: 1.0))
    assert (verdict.answer, verdict.votes) == (None, ())
    assert verdict.note == "of 3 traces that ended none gave an answer"
    assert fates(verdict) == ["finished"] * 3
    assert solve([Script(3), Script(3)]).answer is None


def test_all_singletons_drop_the_clustering():
    scripts = [Script(9, "1"), Script(9, "2"), Script(9, "2"), Script(9, "2"), Script(9, "3")]
    judge = TableJudge(lambda a, b: 0.1)
    verdict = solve(scripts, judge, K2=1, K3=3, early_end=False)
    assert verdict.clusters == ((0,), (1,), (2,), (3,), (4,))
    assert verdict.answer == "2"
    assert fates(verdict) == ["finished"] * 3 + ["abandoned"] * 2
    assert verdict.note == "every cluster was a singleton, so the clustering was dropped"
    # Those left out at the cap make no cluster more than a singleton.
    assert solve(scripts, judge, K=2, K2=1, K3=3, early_end=False).votes == verdict.votes
    assert solve(scripts, judge, K2=2, early_end=False).answer == "1"  # K3 is as K2 where it isn't given


def test_one_trace():
    verdict = solve([Script(9, "4")])
    assert (verdict.answer, verdict.clusters, verdict.note) == ("4", ((0,),), "")


def test_equal_clusters_the_earlier_one():
    scripts = [Script(9, a) for a in "2112"]
    assert solve(scripts).answer == "2"


# ---- votes ----------------------------------------------------------------------------------------------------------


def test_vote_by_size_estimates_the_vote_of_all():
    """One answer spread over two clusters outweighs the largest cluster."""
    where = [0] * 5 + [1] * 4 + [2] * 4
    scripts = [Script(9, "7" if c == 0 else "1") for c in where]
    judge = TableJudge(lambda a, b: float(where[a] == where[b]))
    assert solve(scripts, judge, K2=3).answer == "7"
    verdict = solve(scripts, judge, K2=3, vote="size", early_end=False)
    assert [(v.answer, v.weight, v.traces) for v in verdict.votes] == [("1", 8, (5, 9)), ("7", 5, (0,))]
    most = solve(scripts, judge, K2=13, vote="size", early_end=False)
    assert [(v.answer, v.weight) for v in most.votes] == [("1", 8), ("7", 5)]


def test_vote_by_confidence():
    scripts = [Script(9, "1", confidence=(1.0,)), Script(9, "1", confidence=(2.0,)), Script(9, "2", confidence=(4.0,))]
    judge = TableJudge(lambda a, b: 1.0)
    verdict = solve(scripts, judge, vote="confidence")
    assert [(v.answer, v.weight) for v in verdict.votes] == [("2", 4), ("1", 3)]
    assert solve(scripts, judge).answer == "1"


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "want"), [(1, 3), (8, 3), (16, 4), (64, 7), (512, 20), (2048, 40)])
def test_the_default_k2_is_the_papers_scaled(n, want):
    strategy = DeepPrune(n, TableJudge(lambda a, b: 1.0))
    assert (strategy.survivors, strategy.fallback, strategy.excerpt_kind) == (want, want, "words:25")


def test_the_excerpt_is_the_judges():
    judge = TableJudge(lambda a, b: 1.0, excerpt="tokens:56")
    assert DeepPrune(4, judge).excerpt_kind == "tokens:56"
    assert DeepPrune(4, judge, excerpt="tokens:56").excerpt_kind == "tokens:56"
    with pytest.raises(LaconicError, match="excerpt is tokens:64, but judge table was made for tokens:56"):
        DeepPrune(4, judge, excerpt="tokens:64")


def test_settings_are_in_the_verdict():
    verdict = solve([Script(9, "1")] * 8, tau=0.25, K3=2)
    assert verdict.strategy == "deepprune"
    assert verdict.settings == {
        "judge": "table",
        "tau": 0.25,
        "K": 32,
        "K1": 10,
        "K2": 3,
        "K3": 2,
        "excerpt": "tokens:4",
        "similarity": "decision",
        "vote": "plain",
        "early_end": True,
        "finish": "needed",
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n is 0; expected a whole number from 1 to 4096"),
        ({"n": 5000}, "n is 5000"),
        ({"tau": 2}, "tau is 2; expected a number from 0 to 1"),
        ({"K": 0}, "K is 0; expected a whole number of at least 1"),
        ({"K1": 0}, "K1 is 0"),
        ({"K2": 0}, "K2 is 0; expected a whole number of at least 1"),
        ({"K3": 1.5}, "K3 is 1.5"),
        ({"excerpt": "lines:3"}, "excerpt 'lines:3' is unknown; expected one of tokens:K"),
        ({"vote": "loud"}, "vote is 'loud'; expected one of plain, size, confidence"),
        ({"finish": "never"}, "finish is 'never'; expected one of needed, together"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; expected one of decision, probability"),
        ({"early_end": 1}, "early_end is 1; expected true or false"),
        ({"judge": "probe"}, "deepprune's judge is 'probe'; expected a judge"),
    ],
)
def test_settings_out_of_range(wrong, said):
    with pytest.raises(LaconicError, match=said):
        DeepPrune(**{"n": 4, "judge": TableJudge(lambda a, b: 1.0)} | wrong)


def test_a_judge_that_loses_count_is_refused():
    class Short(TableJudge):
        def read(self, excerpts, engine=None):
            return super().read(excerpts, engine)[1:]

    with pytest.raises(LaconicError, match="judge table gave 9 readings of 10 excerpts"):
        solve(MIXED, Short(lambda a, b: 1.0))

    class Thin(MatrixJudge):
        def matrix(self, readings):
            return super().matrix(readings[1:])

    with pytest.raises(LaconicError, match=r"matrix of judge matrix is \[9, 9\]; expected \[10, 10\]"):
        solve(MIXED, Thin(lambda a, b: 1.0))


def test_confidences_are_asked_for_where_confidence_votes():
    asked = []

    class Engine(ScriptedEngine):
        def submit(self, prompt, sampling, n=1, ids=None):
            asked.append(sampling.confidence_top_k)
            return super().submit(prompt, sampling, n, ids)

    scripts = [Script(9, "1")]
    solve(scripts, engine=Engine(scripts))
    solve(scripts, engine=Engine(scripts), vote="confidence")
    solve(scripts, engine=Engine(scripts), vote="confidence", sampling=Sampling(max_new_tokens=99, confidence_top_k=5))
    assert asked == [0, 20, 5]
