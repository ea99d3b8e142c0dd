"""The tables of judges: every figure in its column."""

from __future__ import annotations

from typing import Any

from laconic.lab.judges.table import ablation_table, judges_table, training_table


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.05}


def row(**more: Any) -> dict[str, Any]:
    return {
        "judge": "probe", "set": "test", "excerpt": "tokens:56", "pairs": 4800, "auroc": figure(0.8), "tnr": figure(0.6),
        "ece": 0.0614, "tokens_per_pair": 2.25, "pairs_per_second": 1234.5, "to_first": None,
    } | more  # fmt: skip


def test_judges() -> None:
    later = row(judge="facts", to_first={"value": -0.05, "low": -0.08, "high": 0.01}, pairs_per_second=None)
    table = judges_table({"rows": [row(), later]})
    assert table.titles[3:5] == ["pairs", "AUROC"]
    first, second = table.rows
    same = ["4,800", "80.0 [70.0, 85.0]"]
    assert first == ["probe", "test", "tokens:56", *same, "–", "60.0 [50.0, 65.0]", "0.061", "2.2", "1,234"]
    assert second[:6] == ["facts", "test", "tokens:56", *same, "-5.0 [-8.0, +1.0]"]
    assert second[-1] == "–"
    assert "facts" in table.markdown()


def test_an_ablation_is_a_row_a_training_and_two_columns_an_excerpt() -> None:
    rows = [
        {"excerpt": excerpt, "variant": variant, "auroc": figure(a), "tnr": figure(t)}
        for excerpt, variant, a, t in (
            ("tokens:5", "plain", 0.7, 0.3), ("tokens:5", "both", 0.8, 0.4),
            ("words:2", "plain", 0.75, 0.35), ("words:2", "both", 0.85, 0.45),
        )
    ]  # fmt: skip
    table = ablation_table({"rows": rows})
    assert table.titles == [
        "training", "tokens:5 AUROC", "tokens:5 TNR@FNR.2", "words:2 AUROC", "words:2 TNR@FNR.2",
    ]  # fmt: skip
    assert [cells[0] for cells in table.rows] == ["plain", "both"]
    assert [cell.split()[0] for cell in table.rows[1][1:]] == ["80.0", "40.0", "85.0", "45.0"]


def test_a_training() -> None:
    record = {
        "excerpt": "tokens:5",
        "parts": {"train": {"problems": 9, "pairs": 1080, "same": 0.625}},
        "test": {"auroc": figure(0.9), "tnr": figure(0.7), "ece": 0.0312, "brier": 0.11},
        "best_step": 40,
        "looks": [{"of": 80}],
    }
    table = training_table(record)
    assert table.rows == [["train", "9", "1,080", "62.5"]]
    assert "AUROC 90.0 [80.0, 95.0]" in table.notes[0]
    assert "after step 40 of 80" in table.notes[1]
