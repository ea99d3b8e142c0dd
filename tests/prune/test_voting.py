"""Votes, exactly: against counting by hand and against trying every way in which the rest could vote."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic import answers
from laconic.prune.verdict import PlainVote, Vote
from laconic.prune.voting import Confidence, Tally, consensus, decided, enough, percentile, plain_vote, seats
from tests.reference import clustering as slow


def tally(votes):
    made = Tally()
    for index, answer, weight in votes:
        made.add(index, answer, weight)
    return made


ANSWERS = st.sampled_from(["1", "2", "3"])


@st.composite
def elections(draw, most=4):
    """(cast, pending) with different indices and whole weights."""
    cast = draw(st.lists(ANSWERS, max_size=6))
    pending = draw(st.integers(0, most))
    indices = draw(st.permutations(range(len(cast) + pending)))
    weights = draw(st.lists(st.integers(1, 3), min_size=len(indices), max_size=len(indices)))
    plain = draw(st.booleans())
    rows = list(zip(indices, [1] * len(indices) if plain else weights, strict=True))
    split = len(cast)
    return [(i, a, w) for (i, w), a in zip(rows[:split], cast, strict=True)], rows[split:]


@settings(max_examples=200, deadline=None)
@given(elections())
def test_the_winner_and_whether_the_lead_can_be_overtaken(election):
    cast, pending = election
    votes = tally(cast).votes()
    assert (votes[0].answer if votes else None) == slow.winner(cast)
    assert decided(votes, pending) == (not slow.overtakable(cast, pending))


@settings(max_examples=100, deadline=None)
@given(elections(), st.randoms())
def test_the_order_of_counting_does_not_matter(election, shuffle):
    cast, _ = election
    want = tally(cast).votes()
    again = list(cast)
    shuffle.shuffle(again)
    assert tally(again).votes() == want
    assert [v.weight for v in want] == sorted((v.weight for v in want), reverse=True)
    assert sorted(i for v in want for i in v.traces) == sorted(i for i, _, _ in cast)


@settings(max_examples=150, deadline=None)
@given(elections())
def test_enough_is_the_fewest_that_could_decide(election):
    cast, pending = election
    votes = tally(cast).votes()
    lead = votes[0].answer if votes else "new"

    def could(count):
        filled = [(i, lead, w) for i, w in pending[:count]]
        return decided(tally([*cast, *filled]).votes(), pending[count:])

    assert enough(votes, pending) == next((c for c in range(len(pending) + 1) if could(c)), len(pending))


def test_nine_of_seventeen():
    assert enough((), [(i, 1.0) for i in range(17)]) == 9
    assert enough((), [(i, 1.0) for i in range(16)]) == 8  # a tie goes to the answer of the first trace
    assert enough((), [(i, 1.0) for i in reversed(range(16))]) == 9


def test_weights_that_nobody_knows_decide_nothing():
    votes = tally([(0, "1", 5.0)]).votes()
    pending = [(1, math.inf), (2, math.inf)]
    assert not decided(votes, pending)
    assert enough(votes, pending) == 2
    assert decided(votes, [])


def test_equivalent_answers_vote_together_under_the_first_traces_spelling(monkeypatch):
    votes = tally([(3, "0.5", 1.0), (1, "1/2", 1.0), (2, "7", 1.5), (5, "7", 1.0)]).votes()
    assert votes == (Vote("7", 2.5, (2, 5)), Vote("1/2", 2.0, (1, 3)))
    asked = []

    def group(found):
        asked.append(found)
        return answers.equivalence.group_equivalent(found)

    monkeypatch.setattr(answers, "group_equivalent", group)
    made = tally([(0, "7", 1.0), (1, "8", 1.0)])
    made.votes()
    for index in range(2, 20):
        made.add(index, "7")
        made.votes()
    assert asked == [("7", "8")], "equivalence is asked for new spellings only"


def test_a_vote_that_is_taken_back_was_never_cast():
    tally, other = Tally(), Tally()
    for index, answer in enumerate(["1/2", "7", "0.5", "7", "7"]):
        tally.add(index, answer)
        if index not in (1, 4):
            other.add(index, answer)
    tally.remove(1)
    tally.remove(4)
    tally.remove(9)
    assert tally.votes() == other.votes()
    assert len(tally) == 3


def test_a_blank_answer_is_no_vote():
    assert tally([(0, "  ", 1.0)]).votes() == ()
    assert [v.answer for v in tally([(0, "  ", 9.0), (1, "4", 1.0)]).votes()] == ["4"]


def test_consensus():
    assert consensus(()) == 0
    assert consensus(tally([(0, "1", 3.0), (1, "2", 1.0)]).votes()) == 0.75


@pytest.mark.parametrize(
    ("sizes", "count", "want"),
    [
        ([30, 15, 8, 5], 7, [3, 2, 1, 1]),
        ([2, 2], 3, [2, 1]),
        ([1, 9], 4, [0, 4]),
        ([3, 1], 10, [3, 1]),
        ([], 3, []),
        ([0, 2], 1, [0, 1]),
    ],
)
def test_seats(sizes, count, want):
    assert seats(sizes, count) == want


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 30))
def test_seats_are_websters(sizes, count):
    """The largest quotients size / 1, size / 3, size / 5, ... win."""
    quotients = sorted((-size / (2 * k + 1), c) for c, size in enumerate(sizes) for k in range(size))
    want = [sum(c == mine for _, c in quotients[:count]) for mine in range(len(sizes))]
    assert seats(sizes, count) == want


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(0, 1))
def test_percentile_is_torchs_quantile(values, share):
    import torch

    want = torch.tensor(values, dtype=torch.float64).quantile(share, interpolation="linear").item()
    assert percentile(values, share) == pytest.approx(want, abs=1e-9)


def test_percentile_of_nothing():
    with pytest.raises(ValueError, match="expected at least one"):
        percentile([], 0.5)


@pytest.mark.parametrize("window", [1, 3, 8, 40])
@pytest.mark.parametrize("seed", range(5))
def test_confidence_is_the_least_of_all_windows(window, seed):
    draw = random.Random(seed)
    confidences = [draw.uniform(0, 30) for _ in range(33)]
    made = Confidence(window)
    assert made.lowest == 0
    for count, value in enumerate(confidences, start=1):
        made.add(value)
        assert made.lowest == pytest.approx(
            float(slow.window_confidence([-c for c in confidences[:count]], window)), rel=1e-12
        )
    assert made.tokens == 33


def test_a_plain_vote_is_priced_at_the_mean_length_of_what_has_finished():
    votes = tally([(0, "7", 1), (2, "8", 1), (3, "8", 1)]).votes()
    plain = plain_vote(votes, [100, 140, 120], 600)
    assert plain is not None
    assert (plain.answer, plain.votes, plain.finished, plain.affordable) == ("8", 2, 3, 5.0)
    assert plain_vote(votes, [100, 140, 120], 360) == PlainVote("8", 2, 3, 3.0)
    assert plain_vote((), [10], 25) == PlainVote(None, 0, 1, 2.5)
    assert plain_vote((), [], 25) is None
    assert plain_vote((), [0, 0], 25) is None  # nothing is known of how long a trace is
