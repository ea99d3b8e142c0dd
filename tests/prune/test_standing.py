"""How a vote stands with prefixes: as with finished traces where the judge never errs, as without where it tells nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.prune.standing import ROUNDS, Standing, stand
from laconic.prune.worth import worth

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9)


def groups_of(answers, indices):
    found: dict[str, list[int]] = {}
    for i in indices:
        if answers[i] is not None:
            found.setdefault(answers[i], []).append(i)
    return sorted(found.values(), key=lambda group: (-len(group), group[0]))


def standing_of(answers, finished, same, tpr, fpr) -> Standing:
    groups = groups_of(answers, range(finished))
    unanswered = sum(answers[i] is None for i in range(finished))
    return stand(groups, unanswered, range(finished, len(answers)), same, tpr, fpr)


@settings(max_examples=80, deadline=None)
@given(ANSWERS, st.data())
def test_a_judge_that_never_errs_makes_prefixes_as_good_as_traces(answers, data):
    finished = data.draw(st.integers(1, len(answers)))

    def same(i, j):
        return answers[i] is not None and answers[i] == answers[j]

    found = standing_of(answers, finished, same, 1.0, 0.0)
    # One that will end without an answer looks like one with an answer of its own.
    told = [f"own {i}" if a is None and i >= finished else a for i, a in enumerate(answers)]
    groups = groups_of(told, range(len(told)))
    assert sorted(found.expected, reverse=True) == pytest.approx([len(group) for group in groups], abs=1e-6)
    assert found.draws == len(answers)
    for left in (0, 1, 5):
        want = worth([len(group) for group in groups], len(told), left)
        if found.groups:
            assert found.value_of_finishing(left) == pytest.approx(want, abs=1e-6)
            if len(found.groups) > 1 or found.share() == 1:
                assert found.value_of_reading(left) == pytest.approx(want, abs=1e-6)
        elif groups:
            assert found.value_of_finishing(left) == want
    assert found.value_of_completing()[0] == pytest.approx(0, abs=1e-6)  # nothing is left to learn


@settings(max_examples=40, deadline=None)
@given(ANSWERS, st.floats(0, 1))
def test_a_judge_that_tells_nothing_is_never_worth_reading(answers, rate):
    found = standing_of(answers, len(answers), lambda i, j: True, rate, rate)
    counts = [len(group) for group in groups_of(answers, range(len(answers)))]
    assert found.value_of_reading(5) == pytest.approx(0, abs=1e-12)
    assert found.value_of_finishing(5) == worth(counts, len(answers), 5)
    assert found.value_of_completing() == (0.0, None)


def slow_expected(exact, other, odds):
    """Probabilities from shares, and shares from probabilities, as told."""
    votes, beyond = [*map(float, exact)], other
    for _ in range(ROUNDS):
        table = []
        for row in odds:
            weighted = [v * w for v, w in zip([*votes, beyond], row, strict=True)]
            table.append([x / sum(weighted) for x in weighted])
        votes = [count + sum(row[g] for row in table) for g, count in enumerate(exact)]
        beyond = other + sum(row[-1] for row in table)
    return votes


def test_probabilities_come_from_what_the_judge_said_and_from_the_votes():
    # 0, 1 say one thing, 2 another; the judge calls prefix 3 alike with 0 and 2, prefix 4 with none
    alike = {(3, 0), (3, 2)}
    found = stand([[0, 1], [2]], 1, [3], lambda i, j: (i, j) in alike, 0.8, 0.1)
    yes, no = 0.8 / 0.1, 0.2 / 0.9
    odds = [[math.sqrt(yes * no), yes, 1.0]]  # of two members who are judged otherwise, the mean
    assert found.odds[0] == pytest.approx([w / yes for w in odds[0]])
    assert found.expected == pytest.approx(slow_expected([2, 1], 2.0, odds))
    assert sum(found.probabilities(0)) == pytest.approx(1)
    assert found.draws == 5

    unlike = stand([[0, 1], [2]], 0, [3, 4, 5], lambda i, j: {i, j} == {3, 5}, 0.9, 0.05)
    assert unlike.groups == ((0, 1), (2,), (3, 5), (4,))  # two that are like each other, and one that is like none
    assert unlike.known == 2
    assert unlike.leaders == (0, 2)
    assert 1.7 < unlike.expected[2] < 2.2


def test_the_least_certain_is_completed_first():
    said = {(2, 0): True, (2, 1): False, (3, 0): True, (3, 1): True}
    found = stand([[0], [1]], 0, [2, 3], lambda i, j: said[max(i, j), min(i, j)] if min(i, j) < 2 else False, 0.9, 0.1)
    value, which = found.value_of_completing()
    assert which == 3
    assert value > 0


def test_nothing_has_an_answer():
    found = stand([], 3, [], lambda i, j: True, 0.9, 0.1)
    assert found.value_of_finishing(4) == worth([], 3, 4)
    assert found.value_of_reading(4) == 0
    assert found.leaders == ()
