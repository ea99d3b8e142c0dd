"""What a further draw is worth beside noisy ones, against polynomials multiplied out with exact fractions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.prune.noisy_worth import NoisyVotes
from laconic.prune.worth import AHEAD, ahead_probability, rise
from tests.reference import noisy_worth as slow

LIKELY = st.sampled_from([0.0, 0.03, 0.2, 0.5, 0.9, 1.0])
NOISY = st.lists(st.tuples(LIKELY, LIKELY).filter(lambda factor: sum(factor) > 0), max_size=4)
READ = st.lists(st.tuples(LIKELY, LIKELY, LIKELY).filter(lambda factor: sum(factor) > 0), min_size=1, max_size=4)
VOTES = st.integers(0, 4)


@settings(max_examples=60, deadline=None)
@given(VOTES, VOTES, NOISY, LIKELY, LIKELY, READ, st.integers(1, 3))
def test_all_is_as_the_integrals_say(a, b, noisy, t, f, read, most):
    votes = NoisyVotes(a, b, tuple(noisy))
    assert votes.ahead() == pytest.approx(float(slow.ahead(a, b, noisy)), abs=1e-12)
    assert votes.rise_exact(most) == pytest.approx(float(slow.rise_exact(a, b, noisy, most)), abs=1e-12)
    assert votes.rise_noisy((t, f), most) == pytest.approx(float(slow.rise_noisy(a, b, noisy, (t, f), most)), abs=1e-12)
    found = votes.rise_finished(read, most)
    assert found == pytest.approx(float(slow.rise_finished(a, b, noisy, read, most)), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (2, 1), (3, 3), (5, 2)])
def test_a_judge_that_never_errs_makes_a_prefix_as_good_as_a_trace(a, b):
    known = NoisyVotes(a, b)
    assert known.rise_noisy((1.0, 0.0), AHEAD) == pytest.approx(rise(a, b, AHEAD), abs=1e-13)
    assert known.rise_exact(AHEAD) == rise(a, b, AHEAD)
    read = NoisyVotes(a, b, ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0)))
    assert read.ahead() == pytest.approx(ahead_probability(a + 2, b + 1), abs=1e-13)
    assert read.rise_exact(AHEAD) == pytest.approx(rise(a + 2, b + 1, AHEAD), abs=1e-13)


def test_a_judge_that_tells_nothing_is_worth_nothing():
    assert NoisyVotes(2, 1).rise_noisy((0.4, 0.4), AHEAD) == 0
    assert NoisyVotes(2, 1, ((0.3, 0.3),) * 5).ahead() == pytest.approx(ahead_probability(2, 1), abs=1e-13)


def test_the_better_the_judge_the_more():
    rising = [NoisyVotes(1, 1).rise_noisy((t, 1 - t), AHEAD) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert rising == sorted(rising)
    assert rising[0] == 0
    assert rising[3] == pytest.approx(0.6 * rising[5])  # with one vote each, as the rates differ


def test_what_is_known_for_certain_need_not_be_finished():
    assert NoisyVotes(1, 1).rise_finished([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)], 2) == pytest.approx(0, abs=1e-13)
    assert NoisyVotes(1, 1).rise_finished([(0.5, 0.5, 0.0)], 1) == pytest.approx(rise(1, 1, 1), abs=1e-13)


def test_many_votes_are_computed_as_well():
    votes = NoisyVotes(2000, 1990, ((0.8, 0.3),) * 40)
    assert 0 < votes.rise_exact(4) < 0.01
    assert math.isclose(NoisyVotes(2000, 1990).ahead(), ahead_probability(2000, 1990))
