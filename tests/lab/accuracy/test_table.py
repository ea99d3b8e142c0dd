"""The accuracy table has every figure in its place."""

from __future__ import annotations

from laconic.lab.accuracy.table import accuracy_table, accuracy_tables


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


def test_accuracy_rows() -> None:
    rows = [accuracy_row("full", 0.7, False), accuracy_row("rpc c=4", 0.65)]
    table = accuracy_table({"rows": rows, "settings": {"model": {"name": "bundled"}}})
    assert "bundled: 50 problems x 2 samples" in table.title
    assert list(table.rows[0]) == ["full KV", "70.0 [60.0, 80.0]", "–", "321", "1,234", "457", "1.5", "988"]
    assert table.rows[1][0] == "rpc c=4"
    assert table.rows[1][2] == "-5.0 [-10.0, +2.0]"


def test_differences_to_random_stand_where_it_ran() -> None:
    rows = [accuracy_row("full", 0.7, False), accuracy_row("rpc c=4", 0.65), accuracy_row("random c=4", 0.6)]
    rows[1]["to_random"] = {"mean": 0.05, "low": -0.02, "high": 0.12}
    rows[2]["to_random"] = None
    table = accuracy_table({"rows": rows, "settings": {"model": {"name": "bundled"}}})
    assert [title for title, *_ in table.columns][:4] == [
        "policy",
        "pass@1, %",
        "to full KV, points",
        "to random, points",
    ]
    assert [row[3] for row in table.rows] == ["–", "+5.0 [-2.0, +12.0]", "–"]


def test_policies_of_one_cache_size_stand_against_one_another() -> None:
    labels = ["rpc c=4", "learned c=4", "random c=4", "rpc c=8", "random c=8"]
    rows = [accuracy_row("full", 0.7, False)]
    for place, label in enumerate(labels):
        row = accuracy_row(label, 0.6 + place / 100)
        mine = [other for other in labels if other.endswith(label[-1]) and other != label]
        row["to_others"] = {other: {"mean": 0.01 * place, "low": -0.1, "high": 0.1} for other in mine}
        rows.append(row)
    tables = accuracy_tables({"rows": rows, "settings": {"model": {"name": "bundled"}}})
    assert len(tables) == 2  # two policies at c = 8 have it in the first table
    pairs = tables[1]
    assert pairs.titles == ["policy", "random c=4", "learned c=4", "rpc c=4"]
    assert list(pairs.rows[0]) == ["random c=4", "–", "+2.0 [-10.0, +10.0]", "+2.0 [-10.0, +10.0]"]
    assert list(pairs.rows[2]) == ["rpc c=4", "+0.0 [-10.0, +10.0]", "+0.0 [-10.0, +10.0]", "–"]
    assert len(accuracy_tables({"rows": [accuracy_row("full", 0.7)], "settings": {"model": {"name": "bundled"}}})) == 1
