"""The accuracy plot draws what it is given: checked on the figure's own artists, and on a file that is a picture."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from tests.lab.conftest import is_picture, rectangles

from laconic.errors import LaconicError
from laconic.lab.accuracy.plot import accuracy_plot


def row(family: str, ratio: int | None, mean: float, held: float) -> dict:
    return {
        "label": family if ratio is None else f"{family} c={ratio}",
        "family": family,
        "problems": 50,
        "samples": 1,
        "accuracy": {"mean": mean, "low": mean - 0.05, "high": mean + 0.08},
        "mean_kv_tokens": held,
    }


ACCURACY = {
    "rows": [row("full", None, 0.7, 250.0)]
    + [row(family, c, 0.7 - 0.05 * c, 250 / c) for family in ("rpc", "h2o", "random") for c in (2, 4, 8)]
}


def test_accuracy_has_a_line_a_policy_and_a_band(tmp_path: Path, figures: list[Figure]) -> None:
    accuracy_plot(ACCURACY, tmp_path / "new" / "plot.png")
    assert is_picture(tmp_path / "new" / "plot.png")
    (axes,) = figures[0].axes
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == sorted(["full KV (250 tokens)", "RPC", "H2O", "Random"])
    rpc = next(c for c in axes.containers if c.get_label() == "RPC")
    assert isinstance(rpc, ErrorbarContainer)
    assert list(numpy.asarray(rpc.lines[0].get_xdata())) == [250 / 8, 250 / 4, 250 / 2]
    assert list(numpy.asarray(rpc.lines[0].get_ydata())) == pytest.approx([30.0, 50.0, 60.0])
    low, high = rpc.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (pytest.approx(25.0), pytest.approx(38.0))  # 30 less 5, 30 and 8
    left, right = axes.get_xlim()
    assert left < 250 / 8
    assert right > 250 / 2
    assert axes.get_ylim() == (0, pytest.approx(83.0))
    band = rectangles(axes)[0].get_bbox()
    assert (band.y0, band.y1) == (pytest.approx(65.0), pytest.approx(78.0))


def test_caches_of_one_size_are_names_and_no_axis_of_sizes(tmp_path: Path, figures: list[Figure]) -> None:
    """No distance along the page between marks can be read as one held less: it is accuracy, or the order."""
    rows = [
        row("full", None, 0.7, 250.0),
        *(
            row(name, 4, mean, 170.0 + i)
            for i, (name, mean) in enumerate([("rpc", 0.4), ("learned", 0.6), ("random", 0.5)])
        ),
    ]
    rows[2]["policy"] = "learned:interval=64,ratio=4,window=16"
    accuracy_plot({"rows": rows}, tmp_path / "plot.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["learned fading=0", "Random", "RPC"]
    assert axes.get_ylim() == (2.5, -0.5)  # the first on top
    assert axes.get_xlim() == (0, pytest.approx(83.0))
    assert axes.get_xlabel() == "pass@1, % (every cache: 170 to 172 tokens on average, prompt included)"
    drawn = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    at = [(float(x), float(y)) for c in drawn for x, y in numpy.asarray(c.lines[0].get_xydata())]
    assert at == [(pytest.approx(60.0), 0), (pytest.approx(50.0), 1), (pytest.approx(40.0), 2)]
    low, high = drawn[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == (pytest.approx(55.0), pytest.approx(68.0))
    line = next(line for line in axes.get_lines() if line.get_label() == "full KV (250 tokens)")
    assert list(numpy.asarray(line.get_xdata())) == pytest.approx([70.0, 70.0])
    band = rectangles(axes)[0].get_bbox()
    assert (band.x0, band.x1) == (pytest.approx(65.0), pytest.approx(78.0))


@pytest.mark.parametrize("rows", [[row("full", None, 0.7, 250.0)], [row("rpc", 4, 0.7, 250.0)]])
def test_one_row_is_drawn(tmp_path: Path, rows: list[dict]) -> None:
    accuracy_plot({"rows": rows}, tmp_path / "plot.png")
    assert is_picture(tmp_path / "plot.png")


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="to draw"):
        accuracy_plot({"rows": []}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
