"""Labels keep out of each other's way, off the marks and inside the axes, and lead back to where they belong."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from laconic.lab.parallel.labels import FONT, LEADER, Label, place


@pytest.fixture
def axes():
    figure = Figure(figsize=(5, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots()
    found.set_xlim(0, 1)
    found.set_ylim(0, 1)
    return found


def boxes(axes) -> dict[str, Bbox]:
    axes.figure.canvas.draw()
    return {text.get_text(): Text.get_window_extent(text) for text in axes.texts}


@pytest.mark.parametrize("corner", [(0.5, 0.5), (0.01, 0.02), (0.99, 0.98)])
def test_many_names_of_nearly_one_place(axes, corner: tuple[float, float]) -> None:
    x, y = corner
    marks = [(x + 0.004 * (i % 3), y - 0.004 * (i // 3)) for i in range(9)]
    place(axes, [Label(*mark, f"a name {i}", "#000000") for i, mark in enumerate(marks)], marks)
    found = boxes(axes)
    assert len(found) == 9
    for (one, a), (other, b) in combinations(found.items(), 2):
        assert not a.overlaps(b), (one, other)
    for name, box in found.items():
        assert axes.bbox.contains(box.x0, box.y0), name
        assert axes.bbox.contains(box.x1, box.y1), name
        assert not any(box.contains(*axes.transData.transform(mark)) for mark in marks), name


def test_a_lone_name_stands_at_its_mark_and_needs_no_line(axes) -> None:
    place(axes, [Label(0.5, 0.5, "alone", "#123456")], [(0.5, 0.5)])
    (text,) = axes.texts
    assert text.arrow_patch is None
    assert text.get_color() == "#123456"
    assert text.get_fontsize() == FONT
    box, (x, y) = boxes(axes)["alone"], axes.transData.transform((0.5, 0.5))
    away = max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) * 72 / 100
    assert 3 < away < LEADER


def test_a_name_far_from_its_mark_has_a_line_to_it(axes) -> None:
    marks = [(0.5 + 0.03 * i, 0.5 + 0.03 * j) for i in range(-3, 4) for j in range(-3, 4)]
    place(axes, [Label(0.5, 0.5, "in the middle of many", "#000000")], marks)
    (text,) = axes.texts
    assert text.arrow_patch is not None
    assert not any(boxes(axes)[text.get_text()].contains(*axes.transData.transform(mark)) for mark in marks)
