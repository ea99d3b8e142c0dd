"""The throughput tables have every figure in its place."""

from __future__ import annotations

from typing import Any

from laconic.lab.throughput.table import estimate_table, throughput_table


def speed_row(cell: str, method: str, failed: str | None = None) -> dict:
    row = {
        "cell": cell,
        "shape": "tiny-kv",
        "batch": 4,
        "prompt": 64,
        "length": 4096,
        "mode": "at",
        "method": method,
        "failed": failed,
    }
    if failed:
        return row
    return {
        **row,
        "tokens_per_second": {"median": 123.4, "least": 100.0, "most": 150.0},
        "step_ms": {"median": 32.41, "least": 30.0, "most": 40.0},
        "to_full": 2.5,
        "predicted": 3.0,
        "of_predicted": 2.5 / 3,
        "bytes_per_step": 3 * 2**20,
        "bandwidth_share": 0.61,
        "peak_bytes": 2**30,
        "live_bytes": None if method == "generate" else 2**20,
    }


SPEED: dict[str, Any] = {
    "settings": {"device": "cpu", "threads": 2, "dtype": "float32", "repeats": 5},
    "machine": {"cpu": "A CPU"},
    "bandwidth": {"copy": 2**33, "read": 2**34},
    "rows": [speed_row("one", "generate"), speed_row("one", "rpc:ratio=4"), speed_row("two", "full", "out of memory")],
    "estimates": [
        {"shape": "s", "batch": 8, "method": m, "length": n, "tokens_per_second": 1000.0, "to_full": 1.5}
        for m, n in (("full", 4096), ("full", 8192), ("rpc:ratio=4", 8192))
    ],
}


def test_throughput_rows_under_their_cells() -> None:
    table = throughput_table(SPEED)
    assert table.title == "Decoding speed on A CPU, 2 threads, float32"
    assert [row[0] for row in table.rows] == [
        "one",
        "  plain generate",
        "  rpc:ratio=4",
        "two",
        "  full KV: failed",
    ]
    assert "full KV, two: out of memory" in table.notes  # may be a sentence, so it is no cell
    assert list(table.rows[2][1:]) == [
        "123.4",
        "100.0-150.0",
        "32.41",
        "2.50x",
        "3.00x",
        "3.00 MiB",
        "61",
        "1.00 GiB",
        "1.00 MiB",
    ]
    assert table.rows[1][-1] == "–"
    assert any("16.00 GiB/s" in note for note in table.notes)


def test_a_gpu_is_named() -> None:
    settings = {**SPEED["settings"], "device": "Some GPU", "threads": None}
    assert throughput_table({**SPEED, "settings": settings}).title == "Decoding speed on Some GPU, float32"


def test_estimates_say_so() -> None:
    table = estimate_table(SPEED)
    assert [list(row) for row in table.rows] == [
        ["s", "8", "full KV", "1,000 (1.50x)", "1,000 (1.50x)"],
        ["s", "8", "rpc:ratio=4", "–", "1,000 (1.50x)"],
    ]
    assert "stimated" in table.title + table.notes[0]
