"""Plots are drawn of what they are given: checked on the figure's own artists, and on a file that is a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from laconic.errors import LaconicError
from laconic.lab.shared import figure as plots
from laconic.lab.shared.figure import accuracy_plot, analysis_plot, available, throughput_plot
from laconic.lab.traces.analysis import analyse
from laconic.lab.traces.reading import WrittenTrace


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *args, **kwargs) -> None:
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


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


def rectangles(axes: Axes) -> list[Rectangle]:
    """The bars and bands of a panel, which has no other patches."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(found) == len(axes.patches)
    return found


def is_picture(path: Path) -> bool:
    pixels = imread(path)
    return pixels.ndim == 3 and pixels.std() > 0.01


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


def speed(shape: str, batch: int, length: int, method: str, median: float, predicted: float) -> dict:
    return {
        "cell": f"{shape} {batch} {length}",
        "shape": shape,
        "batch": batch,
        "length": length,
        "mode": "at",
        "method": method,
        "failed": None,
        "tokens_per_second": {"median": median, "least": median - 1, "most": median + 2},
        "predicted": predicted,
    }


def test_throughput_has_a_panel_a_batch_and_ticks_where_bytes_predict(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [
        speed("tiny-kv", batch, length, method, {"generate": 8.0, "full": 10.0, "rpc": 25.0}[method], predicted)
        for batch in (1, 4)
        for length in (1024, 4096)
        for method, predicted in (("generate", 1.0), ("full", 1.0), ("rpc", 3.0))
    ]
    rows.append({**speed("tiny-kv", 4, 8192, "full", 1.0, 1.0), "failed": "out of memory"})
    throughput_plot({"rows": rows}, tmp_path / "plot.png")
    assert is_picture(tmp_path / "plot.png")
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ["tiny-kv, batch 1", "tiny-kv, batch 4"]
    bars = [patch.get_height() for patch in rectangles(panels[0]) if patch.get_height() > 0]
    assert bars == [8.0, 8.0, 10.0, 10.0, 25.0, 25.0]
    ticks = {
        round(segment[0][1], 6)
        for lines in panels[0].collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
        if segment[0][1] == segment[1][1]
    }
    assert ticks == {10.0, 30.0}  # full KV's median, and three times that
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["at 1,024", "at 4,096"]


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
    for draw, report in (
        (accuracy_plot, {"rows": []}),
        (throughput_plot, {"rows": [{"failed": "out of memory"}]}),
        (analysis_plot, {"groups": []}),
    ):
        with pytest.raises(LaconicError, match="to draw"):
            draw(report, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="can't be written"):
        accuracy_plot(ACCURACY, tmp_path / "plot.xyz")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available()
    for name in [name for name in sys.modules if name == "matplotlib" or name.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LaconicError, match=r"laconic\[plots\]"):
        accuracy_plot(ACCURACY, tmp_path / "plot.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not plots.available()
