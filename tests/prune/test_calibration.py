"""What a budget buys, by a calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.budget import PoolBudget
from laconic.prune.calibration import LEAST_PROBLEMS, CalibratedRow, Calibration

ROWS = (
    CalibratedRow("self-consistency", 1, 1.0, 0.2),
    CalibratedRow("self-consistency", 4, 4.0, 0.3),
    CalibratedRow("priced-vote:price=0.01", 16, 3.5, 0.35, 0.06, 0.01, 0.11),
    CalibratedRow("priced-vote:price=0.005", 16, 5.0, 0.34, 0.03, -0.01, 0.07),
)


def calibration(rows: tuple[CalibratedRow, ...] = ROWS, **changed: object) -> Calibration:
    about: dict[str, object] = {"model": "m", "weights": "0" * 16, "problems": 60, "samples": 16, "mean_tokens": 250.0}
    return Calibration(**(about | changed), rows=rows)  # type: ignore[arg-type]


def check_gains(made: Calibration) -> None:
    """Each strategy's gain is what it has above the plain votes of the same file at its cost, between neighbours in a line."""
    plain = [row for row in made.rows if row.gain is None]
    assert [row.traces for row in plain] == [row.n for row in plain] == list(range(1, made.samples + 1))
    strategies = [row for row in made.rows if row.gain is not None]
    assert strategies
    for row in strategies:
        votes = np.interp(row.traces, [each.traces for each in plain], [each.accuracy for each in plain])
        assert row.gain == pytest.approx(row.accuracy - float(votes), abs=1e-9), row


@pytest.mark.parametrize(
    ("budget", "strategy", "n"),
    [
        ("1x", "self-consistency", 1),
        ("3.4x", "self-consistency", 1),
        ("3.5x", "priced-vote:price=0.01", 16),
        ("4x", "priced-vote:price=0.01", 16),  # the vote of four costs as much and was right less often
        ("100x", "priced-vote:price=0.01", 16),  # the dearer one was right less often
        ("250", "self-consistency", 1),
        ("874", "self-consistency", 1),
        ("875", "priced-vote:price=0.01", 16),
    ],
)
def test_the_best_that_a_budget_pays_for(budget: str, strategy: str, n: int) -> None:
    found = calibration().choose(PoolBudget.parse(budget))
    assert (found.strategy, found.n) == (strategy, n)


@given(
    st.lists(st.tuples(st.floats(1, 16), st.sampled_from([0.2, 0.3, 0.4])), max_size=12),
    st.floats(1, 20),
)
def test_nothing_affordable_was_right_more_often_and_nothing_as_good_was_cheaper(
    drawn: list[tuple[float, float]], most: float
) -> None:
    rows = (
        ROWS[0],
        *(CalibratedRow(f"priced-vote:price=0.0{i + 1}", 16, cost, share) for i, (cost, share) in enumerate(drawn)),
    )
    found = calibration(rows).choose(PoolBudget(traces=most))
    assert found.traces <= most + 1e-5
    for row in rows:
        if row.traces <= most:
            assert (row.accuracy, -row.traces) <= (found.accuracy, -found.traces)


def test_what_a_row_says() -> None:
    assert ROWS[1].describe() == "self-consistency was right on 30.0% for 4.0 traces a problem"
    assert ROWS[2].describe().endswith(", +6.0 points [+1.0, +11.0] to the plain vote that costs as much")
    assert str(calibration()) == "60 problems of m"


def test_what_cannot_be_is_one_sentence() -> None:
    with pytest.raises(
        LaconicError, match=rf"has {LEAST_PROBLEMS - 1} problems, and at least {LEAST_PROBLEMS} are needed"
    ):
        calibration(problems=LEAST_PROBLEMS - 1)
    assert calibration(problems=LEAST_PROBLEMS).problems == LEAST_PROBLEMS
    with pytest.raises(LaconicError, match="needs a row that costs one trace at most"):
        calibration(ROWS[1:])
    with pytest.raises(
        LaconicError, match="a budget of 249 tokens is below one trace, which takes 250 in the calibration of m"
    ):
        calibration().choose(PoolBudget.parse("249"))
    with pytest.raises(LaconicError, match="traces"):
        PoolBudget.parse("0.5x")
    with pytest.raises(LaconicError, match="accuracy"):
        CalibratedRow("self-consistency", 1, 1.0, 20)
