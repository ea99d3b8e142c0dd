"""The throughput plot draws what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from tests.lab.conftest import is_picture, rectangles

from laconic.errors import LaconicError
from laconic.lab.throughput.plot import throughput_plot


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


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="to draw"):
        throughput_plot({"rows": [{"failed": "out of memory"}]}, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
