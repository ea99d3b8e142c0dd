"""The plot of an analysis draws what it is given."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from matplotlib.figure import Figure
from tests.lab.conftest import is_picture, rectangles

from laconic.errors import LaconicError
from laconic.lab.analyze.plot import analysis_plot
from laconic.lab.analyze.reading import WrittenTrace
from laconic.lab.analyze.run import analyse


def test_analysis_draws_entropy_and_redundancy(tmp_path: Path, figures: list[Figure]) -> None:
    traces = [WrittenTrace(tuple([1, 2, 3] * 100), group="full"), WrittenTrace(tuple(range(300)), group="rpc:ratio=4")]
    groups = analyse(traces, lengths=[64, 128])
    analysis_plot({"groups": groups}, tmp_path / "plot.png")
    assert is_picture(tmp_path / "plot.png")
    left, right = figures[0].axes
    lines = [line for line in left.get_lines() if numpy.size(line.get_xdata())]
    assert len(lines) == 6  # two groups, three orders
    assert list(numpy.asarray(lines[0].get_xdata())) == [64, 128]
    assert list(numpy.asarray(lines[0].get_ydata())) == pytest.approx(
        [point["bits"][1] for point in groups[0]["entropy"]]
    )
    assert [label.get_text() for label in right.get_xticklabels()] == ["full KV", "RPC\nratio=4"]
    heights = [patch.get_height() for patch in rectangles(right)]
    assert heights == pytest.approx([100 * group["redundancy"]["mean"] for group in groups])


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="to draw"):
        analysis_plot({"groups": []}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
