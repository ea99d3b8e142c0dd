"""Results become tables with every figure in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from laconic.lab.shared.results import accuracy_table, analysis_tables, estimate_table, throughput_table
from laconic.lab.traces.analysis import analyse
from laconic.lab.traces.reading import WrittenTrace


def accuracy_row(label: str, mean: float, difference: bool = True) -> dict:
    return {
        "label": label,
        "family": label.split()[0],
        "policy": label,
        "ratio": None,
        "problems": 50,
        "samples": 2,
        "accuracy": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1},
        "difference": {"mean": -0.05, "low": -0.1, "high": 0.02} if difference else None,
        "peak_kv_tokens": 1234,
        "mean_peak_kv_tokens": 700.0,
        "mean_kv_tokens": 321.4,
        "mean_length": 456.7,
        "unanswered": 0.015,
        "truncated": 0.01,
        "tokens_per_second": 987.6,
    }


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


def test_accuracy_rows() -> None:
    rows = [accuracy_row("full", 0.7, False), accuracy_row("rpc c=4", 0.65)]
    table = accuracy_table({"rows": rows, "settings": {"model": {"name": "bundled"}}})
    assert "bundled: 50 problems x 2 samples" in table.title
    assert list(table.rows[0]) == ["full KV", "70.0 [60.0, 80.0]", "–", "321", "1,234", "457", "1.5", "988"]
    assert table.rows[1][0] == "rpc c=4"
    assert table.rows[1][2] == "-5.0 [-10.0, +2.0]"


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


def test_analysis_tables_read_what_json_made_of_them() -> None:
    groups = json.loads(json.dumps(analyse([WrittenTrace(tuple([1, 2] * 60))], lengths=[64])))
    entropy, redundancy = analysis_tables({"groups": groups})
    assert list(entropy.rows[0][:3]) == ["all", "64", "1"]
    assert entropy.rows[0][3] == "1.00 / 6.00"
    assert redundancy.rows[0][:4] == ["all", "1", "120", "5.0"]
    assert redundancy.rows[0][4].startswith("80.0 [")
    assert "not with published" in redundancy.notes[0]


@pytest.mark.parametrize(
    ("problems", "said"),
    [
        ([1], ["over problems (1).", "One problem tells nothing of others: its interval is all that is possible."]),
        ([4, 4], ["over problems (4)."]),
        ([4, 9], ["over problems (4 to 9)."]),
        ([4, None], ["over traces: what names no problem counts as one of its own."]),
        (["old"], ["over traces."]),
    ],
)
def test_a_redundancy_says_what_its_interval_is_over(problems: list, said: list[str]) -> None:
    (group,) = analyse([WrittenTrace(tuple([1, 2] * 60))], lengths=[64])
    groups = [group | {"problems": count} for count in problems]
    if problems == ["old"]:
        del groups[0]["problems"]
    found = analysis_tables({"groups": groups})[1].notes[1:]
    assert list(found) == [f"In brackets: 95 % intervals {said[0]}", *said[1:]]


def test_no_length_reached_is_said() -> None:
    groups = analyse([WrittenTrace((1, 2, 3))], lengths=[64])
    entropy, redundancy = analysis_tables({"groups": groups})
    assert entropy.rows == []
    assert "No trace" in entropy.notes[0]
    assert redundancy.rows[0][4] == "–"
