from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import laconic.assets
from laconic.compress import RPC, FullKV, Random


@pytest.fixture
def small(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny random model in the bundled one's place: what the demo says is then known, and quick."""
    monkeypatch.setattr(laconic.assets, "reasoner_path", lambda: tiny)
    return tiny


def test_json_has_a_row_a_policy_at_equal_cache_size(invoke: Any, small: Path) -> None:
    result = invoke("demo", "--problems", 2, "--samples", 2, "--json", env={"OMP_NUM_THREADS": "1"})
    assert result.exit_code == 0, result.stderr
    out = json.loads(result.stdout)
    policies = [FullKV(), RPC(interval=128, window=32), Random(interval=128, window=32)]
    assert [row["policy"] for row in out["rows"]] == [policy.spec() for policy in policies]
    assert all((row["problems"], row["samples"]) == (2, 2) for row in out["rows"])
    # 3 layers x 2 KV heads x 8 wide x keys and values x 4 bytes
    assert out["bytes_per_kv_token"] == 3 * 2 * 8 * 2 * 4


def test_the_table_says_n_and_names_its_intervals(invoke: Any, small: Path) -> None:
    result = invoke("demo", "--problems", 3, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.stderr
    assert "n = 3 problems x 1" in result.stdout
    for name in ("full KV", "rpc c=4", "random c=4", "accuracy, %", "KV bytes, peak", "tokens per second"):
        assert name in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_bad_values(invoke: Any, small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "ratio is 0.5" in invoke("demo", "--ratio", 0.5).stderr
    assert invoke("demo", "--problems", 0).exit_code == 2
    monkeypatch.setattr(laconic.assets, "reasoner_path", lambda: tmp_path / "gone")
    result = invoke("demo")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "there is no model at" in result.stderr


def test_the_bundled_model_keeps_to_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from laconic.cli.common import one_thread

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one_thread()
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    one_thread()
    assert asked == [1]
