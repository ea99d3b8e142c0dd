"""The vLLM table says what a row has and what it lacks; the plot is drawn of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import imread

from laconic.errors import LaconicError
from laconic.lab.vllm.plot import vllm_plot
from laconic.lab.vllm.table import name_of, vllm_table


def row(cache: float, contender: str, speed: float | None, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cache": cache,
        "blocks": round(800 * cache),
        "bytes": round(800 * cache) * 32768,
        "contender": contender,
        "family": contender.partition(" ")[0],
        "policy": contender,
        "repeats": 5 if speed else 0,
        "failed": None,
        "refused": False,
    }
    if speed:
        found |= {
            "tokens_per_second": {"median": speed, "least": speed - 50, "most": speed + 70},
            "to_stock": None if contender == "stock" else {"median": speed / 1000, "least": 1.0, "most": 2.0},
            "cpu_share": 0.987,
            "steps": 1234.0,
            "mean_running": 9.876,
            "preemptions": 12.0,
            "first_token": {"median": 0.123, "p90": 4.567},
            "peak_blocks": 198.0,
            "memory": 198 * 32768 + 2**20,
            "evicted": None if contender == "stock" else 16128.0,
            "compressions": None if contender == "stock" else 168.0,
        }
    return found | changes


REPORT: dict[str, Any] = {
    "machine": {"cpu": "A processor", "gpus": []},
    "settings": {
        "vllm": "1.2.3",
        "model": {"name": "tiny-steps", "dtype": "float32"},
        "requests": 24,
        "prompt": 32,
        "output": 1000,
        "block": 32,
        "threads": 1,
        "repeats": 5,
        "demand_blocks": 800,
        "contenders": {"stock": "stock", "rpc c=4": "rpc:interval=128,ratio=4,window=32", "rkv c=4": "rkv:budget=153"},
    },
    "rings": {"stock": None, "rpc c=4": 2**20, "rkv c=4": 0},
    "rows": [
        row(1.0, "stock", 1000.0),
        row(1.0, "rpc c=4", 1500.0),
        row(1.0, "rkv c=4", 900.0, repeats=3, failed="the engine's process was ended by SIGKILL"),
        row(0.25, "stock", None, failed="not one request fits", refused=True),
        row(0.25, "rpc c=4", 1400.0, to_stock=None),
        row(0.25, "rkv c=4", None, failed="it broke"),
    ],
}


def test_the_table_has_every_cell_and_every_reason() -> None:
    table = vllm_table(REPORT)
    first = [cells[0] for cells in table.rows]
    assert first == [
        "100 %: 800 blocks, 25.00 MiB",
        "  stock vLLM",
        "  RPC c=4",
        "  R-KV c=4 (3 of 5 repeats)",
        "25 %: 200 blocks, 6.25 MiB",
        "  stock vLLM: refused",
        "  RPC c=4",
        "  R-KV c=4: failed",
    ]
    assert table.rows[2][1:] == [
        "1,500", "1,450-1,570", "1.50x", "99", "1,234", "9.9", "12", "0.12 / 4.57", "198", "7.19 MiB", "168", "16,128"
    ]  # fmt: skip
    assert table.rows[1][3] == table.rows[1][11] == table.rows[6][3] == "–"
    text = table.markdown()
    assert "R-KV c=4 at 100 %: the engine's process was ended by SIGKILL" in text
    assert "stock vLLM at 25 %: not one request fits" in text
    assert "R-KV c=4 at 25 %: it broke" in text
    assert "RPC c=4: rpc:interval=128,ratio=4,window=32; 1.00 MiB of latest queries beside the KV cache." in text
    own = {**REPORT, "selectors": {"stock": 0, "rpc c=4": 0, "rkv c=4": 3 * 2**18}}
    assert "0 B of latest queries and 768.00 KiB of a selector beside the KV cache." in vllm_table(own).markdown()
    assert "24 requests of 32 + 1,000 tokens at once, A processor, 1 thread" in table.title
    assert "full KV takes 800 blocks of 32 tokens" in text


def test_a_gpu_is_what_is_named_where_there_is_one() -> None:
    machine = {"cpu": "A processor", "gpus": [{"name": "A card", "memory_gib": 80}]}
    assert "A card" in vllm_table({**REPORT, "machine": machine}).title


def test_the_plot_has_a_line_a_contender_and_only_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *a: Any, **k: Any) -> None:
        saved.append(self)
        save(self, *a, **k)

    monkeypatch.setattr(Figure, "savefig", savefig)
    vllm_plot(REPORT, tmp_path / "plot.png")
    assert imread(tmp_path / "plot.png").std() > 0.01
    (axes,) = saved[0].axes
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert len(bars) == len(axes.containers)
    lines = {c.get_label(): numpy.asarray(c.lines[0].get_xydata()).tolist() for c in bars}
    assert lines == {
        "stock vLLM": [[100, 1000]],
        "RPC c=4": [[25, 1400], [100, 1500]],
        "R-KV c=4": [[100, 900]],
    }
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["25", "100"]


def test_nothing_measured_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match="no measured rows"):
        vllm_plot({**REPORT, "rows": REPORT["rows"][3:4]}, tmp_path / "plot.png")


def test_names_for_people() -> None:
    assert name_of("stock") == "stock vLLM"
    assert name_of("rpc c=2.5") == "RPC c=2.5"
    assert name_of("streamingllm:budget=40,buffer=8") == "StreamingLLM budget=40,buffer=8"
    assert name_of("mine c=4") == "mine c=4"
