"""The tables of judges: every figure in its column."""

from __future__ import annotations

from typing import Any

from laconic.lab.judges.table import ablation_table, folds_table, judges_table, training_table


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.05}


def row(**more: Any) -> dict[str, Any]:
    return {
        "judge": "probe", "set": "test", "excerpt": "tokens:56", "pairs": 4800, "auroc": figure(0.8), "tnr": figure(0.6),
        "within": figure(0.7), "ece": 0.0614, "tokens_per_pair": 2.25, "pairs_per_second": 1234.5, "to_first": None,
    } | more  # fmt: skip


def test_judges() -> None:
    later = row(judge="facts", to_first={"value": -0.05, "low": -0.08, "high": 0.01}, pairs_per_second=None)
    table = judges_table({"rows": [row(), later]})
    assert table.titles[3:5] == ["pairs", "AUROC"]
    first, second = table.rows
    same = ["4,800", "80.0 [70.0, 85.0]"]
    assert first == [
        "probe",
        "test",
        "tokens:56",
        *same,
        "–",
        "70.0 [60.0, 75.0]",
        "60.0 [50.0, 65.0]",
        "0.061",
        "2.2",
        "1,234",
    ]
    assert second[:6] == ["facts", "test", "tokens:56", *same, "-5.0 [-8.0, +1.0]"]
    assert second[-1] == "–"
    assert "facts" in table.markdown()


def test_an_ablation_is_a_row_a_training_and_four_columns_an_excerpt() -> None:
    rows = [
        {
            "excerpt": excerpt, "variant": variant, "auroc": figure(a), "tnr": figure(t), "within": figure(0.6),
            "to_first": None if variant == "plain" else {"value": 0.1, "low": 0.05, "high": 0.15},
        }
        for excerpt, variant, a, t in (
            ("tokens:5", "plain", 0.7, 0.3), ("tokens:5", "both", 0.8, 0.4),
            ("words:2", "plain", 0.75, 0.35), ("words:2", "both", 0.85, 0.45),
        )
    ]  # fmt: skip
    table = ablation_table({"rows": rows})
    assert table.titles == [
        "training",
        *(
            f"{kind} {name}"
            for kind in ("tokens:5", "words:2")
            for name in ("AUROC", "to plain", "within", "TNR@FNR.2")
        ),
    ]
    assert [cells[0] for cells in table.rows] == ["plain", "both"]
    assert [cell.split()[0] for cell in table.rows[1][1:]] == [
        *("80.0", "+10.0", "60.0", "40.0"), *("85.0", "+10.0", "60.0", "45.0"),
    ]  # fmt: skip
    assert table.rows[0][2] == "–"


def test_a_crosswise_training() -> None:
    told = {"auroc": figure(0.9), "within": figure(0.8), "tnr": figure(0.7), "ece": 0.0312, "brier": 0.11}
    fold = {"parts": {"train": {"problems": 6}, "test": {"problems": 2}}, "test": told}
    record = {"excerpt": "tokens:5", "folds": [fold, fold], "test": {**told, "problems": 4}}
    table = folds_table(record)
    assert [cells[:3] for cells in table.rows] == [["1", "6", "2"], ["2", "6", "2"], ["all", "–", "4"]]
    assert table.rows[2][3:] == ["90.0 [80.0, 95.0]", "80.0 [70.0, 85.0]", "70.0 [60.0, 75.0]"]
    assert "ECE 0.031" in table.notes[1]


def test_a_training() -> None:
    record = {
        "excerpt": "tokens:5",
        "parts": {"train": {"problems": 9, "pairs": 1080, "same": 0.625}},
        "test": {"auroc": figure(0.9), "within": figure(0.8), "tnr": figure(0.7), "ece": 0.0312, "brier": 0.11},
        "best_step": 40,
        "looks": [{"of": 80}],
    }
    table = training_table(record)
    assert table.rows == [["train", "9", "1,080", "62.5"]]
    assert "AUROC 90.0 [80.0, 95.0]" in table.notes[0]
    assert "after step 40 of 80" in table.notes[1]
