"""The fidelity plot draws what it is given: checked on the figure's own artists, and on a file that is a picture."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from matplotlib.figure import Figure
from tests.lab.conftest import is_picture
from tests.lab.fidelity.test_table import fidelity_row, report

from laconic.errors import LaconicError
from laconic.lab.fidelity.plot import fidelity_plot
from laconic.lab.shared.figure import COLOURS, GREY

ROWS = [fidelity_row(name, c, 0.01 * c, 300 / c) for name in ("rpc", "random") for c in (2, 4)]


def test_a_line_a_policy_in_both_panels(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [*ROWS, fidelity_row("rpc", 4, 0.05, 60.0, interval=32)]
    fidelity_plot(report(rows), tmp_path / "new" / "plot.png")
    assert is_picture(tmp_path / "new" / "plot.png")
    left, right = figures[0].axes
    names = ["RPC P=16", "Random P=16", "RPC P=32"]
    assert left.get_legend_handles_labels()[1] == right.get_legend_handles_labels()[1] == names
    rpc = left.containers[0]
    assert list(numpy.asarray(rpc.lines[0].get_xdata())) == [75, 150]  # type: ignore[attr-defined]
    assert list(numpy.asarray(rpc.lines[0].get_ydata())) == pytest.approx([0.04, 0.02])  # type: ignore[attr-defined]
    low, high = rpc.lines[2][0].get_segments()[0][:, 1]  # type: ignore[attr-defined]
    assert (low, high) == (pytest.approx(0.03), pytest.approx(0.05))
    along = right.get_lines()[0]
    assert list(numpy.asarray(along.get_xdata())) == [3.5, 11.5]
    assert list(numpy.asarray(along.get_ydata())) == pytest.approx([0.0, 0.04])  # at the smallest cache


def test_caches_of_one_size_are_names_and_no_axis_of_sizes(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [fidelity_row(name, 4, kl, 75.0 + i) for i, (name, kl) in enumerate([("rpc", 0.05), ("random", 0.03)])]
    fidelity_plot(report([fidelity_row("full", None, 0.0, 300.0), *rows]), tmp_path / "plot.png")
    left, right = figures[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["full KV", "Random", "RPC"]  # nearest on top
    assert left.get_xlim() == (0, pytest.approx(1.05 * 0.06))
    assert left.get_xlabel().endswith("(every cache: 75 to 76 tokens on average, prompt included)")
    at = [list(numpy.asarray(c.lines[0].get_xydata())[0]) for c in left.containers]  # type: ignore[attr-defined]
    assert at == [pytest.approx([0.0, 0]), pytest.approx([0.03, 1]), pytest.approx([0.05, 2])]
    colours = {line.get_label(): line.get_color() for line in right.get_lines()}  # the same in both panels
    assert [c.lines[0].get_color() for c in left.containers] == [colours[n] for n in ("full KV", "Random", "RPC")]  # type: ignore[attr-defined]


def test_every_line_can_be_told_from_the_others(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [fidelity_row(f"policy{i}", 4, 0.01 * i, 75.0) for i in range(2 * len(COLOURS))]
    fidelity_plot(report([fidelity_row("full", None, 0.0, 300.0), *rows]), tmp_path / "plot.png")
    looks = [(line.get_color(), line.get_marker()) for line in figures[0].axes[1].get_lines()]
    assert looks[0][0] == GREY
    assert len(set(looks)) == len(looks) == 2 * len(COLOURS) + 1


def test_ends_that_cant_be_told_are_no_bars(tmp_path: Path) -> None:
    row = fidelity_row("rpc", 4, 0.02, 75.0)
    row["kl"]["mean"] = {"mean": 0.02, "low": None, "high": None}
    fidelity_plot(report([row]), tmp_path / "plot.png")
    assert is_picture(tmp_path / "plot.png")


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="to draw"):
        fidelity_plot(report([]), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
