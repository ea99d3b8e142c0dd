"""The plain vote of equal cost, against all orders of few traces."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from laconic.lab.parallel import equal_cost
from laconic.lab.parallel.equal_cost import PlainVotes, difference, plain_votes
from laconic.prune.voting import Tally


def single(classes: list[int | None], right_class: int | None, tokens: float) -> dict[str, Any]:
    return {
        "classes": classes,
        "right": [float(c is not None and c == right_class) for c in classes],
        "generated": tokens,
        "confidences": [1.0, 3.0, 2.0, 2.5],
    }


RECORDS = [
    single([0, 1, 1, None], 1, 100.0),
    single([0, 1, 2, 0], 2, 300.0),
    single([None, None, None, 0], 0, 50.0),
    single([None] * 4, None, 10.0),
]


def of_all_orders(record: dict[str, Any], k: int, by_confidence: bool) -> float:
    """The share of orders in which the first k traces' vote is right, as the strategy votes."""
    total = []
    for order in permutations(range(4)):
        tally = Tally()
        for place, i in enumerate(order[:k]):
            if record["classes"][i] is not None:
                tie = record["confidences"][i] if by_confidence else 0.0
                tally.add(place, str(record["classes"][i]), tie=tie)
        votes = tally.votes()
        total.append(record["right"][record["classes"].index(int(votes[0].answer))] if votes else 0.0)
    return sum(total) / len(total)


@pytest.mark.parametrize("by_confidence", [False, True])
def test_shares_are_those_of_all_orders(monkeypatch: pytest.MonkeyPatch, by_confidence: bool) -> None:
    monkeypatch.setattr(equal_cost, "ORDERS", 20_000)
    found = plain_votes(RECORDS, by_confidence)
    assert found is not None
    for record, shares in zip(RECORDS, found.right, strict=True):
        assert shares == pytest.approx([of_all_orders(record, k, by_confidence) for k in range(1, 5)], abs=0.015)
    assert found.tokens == pytest.approx([115.0 * k for k in range(1, 5)])
    assert found.right[2][3] == 1  # all four: the only answer there is
    assert found.right[3] == (0.0,) * 4


def test_the_same_orders_in_every_run() -> None:
    assert plain_votes(RECORDS) == plain_votes(RECORDS)


def test_between_two_votes_and_beyond_the_ends() -> None:
    plain = PlainVotes((100.0, 200.0, 300.0), ((0.0, 0.5, 1.0), (1.0, 1.0, 0.0)))
    assert plain.at(200) == [0.5, 1.0]
    assert plain.at(225) == pytest.approx([0.625, 0.75])
    assert plain.at(10) == [0.0, 1.0]
    assert plain.at(5000) == [1.0, 0.0]
    assert difference([[1.0], [1.0]], plain, 200).mean == pytest.approx(0.25)


@pytest.mark.parametrize(("lacks", "by_confidence"), [("classes", False), ("classes", True), ("confidences", True)])
def test_a_run_that_did_not_note_what_it_takes_has_none(lacks: str, by_confidence: bool) -> None:
    old = [{key: value for key, value in record.items() if key != lacks} for record in RECORDS]
    assert plain_votes([*RECORDS[:2], *old[2:]], by_confidence) is None
    assert (plain_votes(old) is None) == (lacks == "classes")


def agreeing(classes: list[int | None], modes: set[int | None]) -> dict[str, Any]:
    return single(classes, None, 100.0) | {"agrees": [float(each in modes) for each in classes]}


def test_how_often_votes_are_the_mode_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_cost, "ORDERS", 20_000)
    records = [agreeing([0, 1, 1, None], {1}), agreeing([0, 1, 0, 1], {0, 1}), agreeing([None] * 4, {None})]
    found = plain_votes(records, what="agrees")
    assert found is not None
    as_right = [record | {"right": record["agrees"]} for record in records[:2]]
    for record, shares in zip(as_right, found.right, strict=False):
        assert shares == pytest.approx([of_all_orders(record, k, False) for k in range(1, 5)], abs=0.015)
    assert found.right[0][3] == found.right[1][3] == 1
    assert found.right[2] == (1.0,) * 4, "no answer is what all of them give"
    assert plain_votes(RECORDS, what="agrees") is None
