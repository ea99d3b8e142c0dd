"""The fidelity tables have every figure in its place."""

from __future__ import annotations

from typing import Any

from laconic.lab.fidelity.table import fidelity_tables, names_of


def interval(mean: float, half: float = 0.01) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def fidelity_row(family: str, ratio: int | None, kl: float, held: float, **changes: Any) -> dict[str, Any]:
    bins = [("0-7", 0, 7, 0.0), ("8-15", 8, 15, kl)]
    row = {
        "label": f"{family} c={ratio} P=16 R=8",
        "family": family,
        "policy": family,
        "ratio": ratio,
        "interval": 16 if ratio else None,
        "window": 8 if ratio else None,
        "traces": 4,
        "problems": 4,
        "tokens": 1234,
        "kl": {name: interval(kl * share) for name, share in (("mean", 1), ("median", 0.1), ("p90", 2), ("p99", 9))},
        "agreement": interval(0.95),
        "change": interval(-0.02, 0.005),
        "differences": {"rpc": {name: interval(0.004) for name in ("kl", "agreement", "change")}},
        "to_others": {},
        "mean_kv_tokens": held,
        "peak_kv_tokens": 99,
        "by_position": [
            {"name": name, "low": low, "high": high, "tokens": 30, "kl": interval(value), "agreement": interval(0.9)}
            for name, low, high, value in bins
        ],
        "by_distance": [
            {"name": name, "low": low, "high": low, "tokens": 30, "kl": interval(kl), "agreement": interval(0.9)}
            for name, low in (("before", 0), ("1", 1))
        ],
    }
    return row | changes


def report(rows: list[dict[str, Any]], schedule: str = "common") -> dict[str, Any]:
    return {"rows": rows, "settings": {"model": {"name": "tiny"}, "schedule": schedule}}


def test_rows_and_bins() -> None:
    full = fidelity_row("full", None, 0.0, 200.0, differences={}, change={"mean": 0.0, "low": None, "high": None})
    full["kl"]["mean"] = {"mean": 0.0, "low": None, "high": None}
    rows = [full, fidelity_row("rpc", 4, 0.0512, 123.4), fidelity_row("random:aggregation=group", 4, 1.5, 123.4)]
    policies, by_distance, by_position = fidelity_tables(report(rows))
    assert policies.title == "KL(full KV || policy) of tiny: 4 traces, 1,234 tokens, ratio 4, interval 16, window 8"
    assert list(policies.rows[0][:5]) == ["full KV", "0", "–", "–", "0"]
    assert list(policies.rows[1]) == [
        "RPC",
        "0.0512 [0.0412, 0.0612]",
        "–",
        "+0.00400 [-0.00600, +0.0140]",
        "0.00512",
        "0.102",
        "0.461",
        "95.0 [94.0, 96.0]",
        "-0.0200 [-0.0250, -0.0150]",
        "123",
        "99",
    ]
    assert policies.rows[2][0] == "Random aggregation=group"
    assert by_distance.titles == ["policy", "before", "1"]
    assert by_position.titles == ["policy", "0-7", "8-15"]
    assert list(by_position.rows[1]) == ["RPC", "0", "0.0512"]
    assert any("RPC's schedule" in note for note in policies.notes)
    assert "own schedule" in str(fidelity_tables(report(rows, "own"))[0].notes)


def test_every_pair_on_one_schedule_has_its_difference() -> None:
    rows = [fidelity_row(name, 4, kl, 9) for name, kl in (("rpc", 0.2), ("learned", 0.1), ("rkv", 0.3))]
    rows += [fidelity_row("rpc", 2, 0.1, 9), fidelity_row("rkv", 2, 0.1, 9)]
    for row in rows:
        row["to_others"] = {
            other["label"]: interval(row["kl"]["mean"]["mean"] - other["kl"]["mean"]["mean"])
            for other in rows
            if other is not row and other["ratio"] == row["ratio"]
        }
    _, pairs, *bins = fidelity_tables(report(rows))
    assert len(bins) == 2, "two policies alone have no table of pairs"
    assert pairs.titles == ["policy", *(f"{name} c=4 P=16 R=8" for name in ("learned", "rpc", "rkv"))]
    assert [row[0] for row in pairs.rows] == pairs.titles[1:]
    assert list(pairs.rows[0][1:]) == ["–", "-0.100 [-0.110, -0.0900]", "-0.200 [-0.210, -0.190]"]


def test_names_say_what_differs() -> None:
    two = [fidelity_row("rpc", 2, 0.1, 9), fidelity_row("rpc", 4, 0.1, 9)]
    assert names_of(two) == ["RPC c=2", "RPC c=4"]
    three = [*two, fidelity_row("rpc", 4, 0.1, 9, interval=32), fidelity_row("full", None, 0.0, 9)]
    assert names_of(three) == ["RPC c=2 P=16", "RPC c=4 P=16", "RPC c=4 P=32", "full KV"]
