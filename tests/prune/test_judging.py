"""A judge at work on one run: what it did for that run alone is counted."""

from __future__ import annotations

from laconic.prune.cluster import Clustering
from laconic.prune.judge import Excerpt
from laconic.prune.judging import JudgedPairs, Judging
from tests.prune.scripted import TableJudge

EXCERPTS = {i: Excerpt(f"t-{i}", "tokens:4", "q", (1,), (2,), "w") for i in range(2)}


def test_a_judge_that_several_runs_ask_counts_for_each_its_own() -> None:
    judge = TableJudge(lambda a, b: 1.0)
    one, other = (Judging(judge, Clustering(0.5, 32, 10, 0, "decision")) for _ in range(2))
    one.read({0: EXCERPTS[0]})
    other.read(EXCERPTS)
    one.read({1: EXCERPTS[1]})
    for number in range(2):
        one.place(number)
        other.place(number)
    assert (one.cost.tokens, other.cost.tokens, judge.cost.tokens) == (14, 14, 28)
    assert (one.cost.pairs, other.cost.pairs) == (1, 1)


def test_pairs_count_their_own_too() -> None:
    judge = TableJudge(lambda a, b: 1.0)
    one, other = JudgedPairs(judge, 0.5), JudgedPairs(judge, 0.5)
    one.read({0: EXCERPTS[0]})
    other.read(EXCERPTS)
    one.read(EXCERPTS)
    assert (one.tokens, other.tokens, judge.cost.tokens) == (14, 14, 28)
