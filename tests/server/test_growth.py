"""How a vote grew, in few points."""

from __future__ import annotations

from itertools import pairwise

import pytest

from laconic.server.growth import Growth, Point


def point(place: int) -> Point:
    return Point(float(place), place * 10, 0, 1, 0)


@pytest.mark.parametrize("came", [0, 1, 2, 8, 9, 10, 100, 1000, 1023, 1024])
def test_points_are_few_even_and_end_with_the_latest(came: int) -> None:
    growth = Growth(most=8)
    for place in range(came):
        growth.add(point(place))
    points = growth.points
    assert len(points) <= 9
    assert points[:1] == [point(0)][:came]
    assert points[-1:] == ([point(came - 1)] if came else [])
    steps = {after.seconds - before.seconds for before, after in pairwise(points[:-1])}
    assert len(steps) <= 1
    assert came < 8 or len(points) >= 4


def test_few_are_all_kept() -> None:
    growth = Growth(most=8)
    for place in range(8):
        growth.add(point(place))
    assert growth.points == [point(place) for place in range(8)]
