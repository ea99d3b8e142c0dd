from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.reference.selectors import selector_for

import laconic.assets
from laconic.cli import demo as module
from laconic.compress import RPC, FullKV, Random
from laconic.engines.hf import load
from laconic.judges.encoder import PairEncoder
from laconic.judges.input_spec import EncoderInputSpec
from laconic.judges.network import EncoderConfig
from laconic.problems import generate
from laconic.selectors import place_of, write_selector


@pytest.fixture
def small(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny random model in the bundled one's place: what the demo says is then known, and quick."""
    monkeypatch.setattr(laconic.assets, "reasoner_path", lambda: tiny)
    return tiny


def test_json_has_a_row_a_policy_at_equal_cache_size(invoke: Any, small: Path) -> None:
    result = invoke("demo", "--problems", 2, "--n", 2, "--json", env={"OMP_NUM_THREADS": "1"})
    assert result.exit_code == 0, result.stderr
    out = json.loads(result.stdout)
    policies = [FullKV(), RPC(interval=128, window=32), Random(interval=128, window=32)]
    assert [row["policy"] for row in out["rows"]] == [policy.spec() for policy in policies]
    assert all((row["problems"], row["samples"]) == (2, 2) for row in out["rows"])
    # 3 layers x 2 KV heads x 8 wide x keys and values x 4 bytes
    assert out["bytes_per_kv_token"] == 3 * 2 * 8 * 2 * 4


def test_a_selector_of_the_model_stands_first(
    invoke: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    made = selector_for(load(small)[0])
    write_selector(place_of(made.fingerprint), made)
    result = invoke("demo", "--problems", 2, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split("accuracy")[0].split() == ["full", "KV", "learned", "c=4", "rpc", "c=4", "random", "c=4"]
    assert "one trace under learned c=4" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_figures_are_those_of_the_accuracy_experiment(invoke: Any, small: Path) -> None:
    from laconic.cli.common import choose_sampling
    from laconic.engines.hf import HFEngine
    from laconic.lab.accuracy.run import run_accuracy
    from laconic.lab.shared.policies import compared_policies

    said = json.loads(invoke("demo", "--problems", 3, "--n", 2, "--seed", 5, "--json").stdout)["rows"]
    model, tokenizer = load(small)
    rows = run_accuracy(
        generate(3, seed=5),
        compared_policies(("rpc", "random"), (4,), interval=128, window=32),
        lambda policy: HFEngine(model, tokenizer, policy=policy, max_batch=2),
        samples=2,
        sampling=choose_sampling(model, seed=5),
    )
    experiment = json.loads(json.dumps([row.to_json() for row in rows]))
    for row in experiment:
        del row["to_random"], row["to_others"], row["mean_fed"]  # the demo's table has no room for them
    for row in said + experiment:
        assert row.pop("tokens_per_second") > 0
    assert said == experiment
    assert [row["difference"] is None for row in said] == [True, False, False]


def test_the_table_says_n_and_names_its_intervals(invoke: Any, small: Path) -> None:
    result = invoke("demo", "--problems", 3, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.stderr
    assert "n = 3 problems x 1" in result.stdout
    for name in ("full KV", "rpc c=4", "random c=4", "accuracy, %", "KV bytes, peak", "tokens/s"):
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


@pytest.fixture
def judged(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model with a judge beside it, as the bundled one has it."""
    (tmp_path / "judge").mkdir()
    PairEncoder(EncoderInputSpec("tokens:8"), EncoderConfig(vocabulary=43, tokens=8)).save(tmp_path / "judge")
    shutil.copytree(small, tmp_path / "reasoner")
    monkeypatch.setattr(laconic.assets, "reasoner_path", lambda: tmp_path / "reasoner")
    monkeypatch.setattr(module, "TRACES", 5)
    return tmp_path


def test_with_a_judge_the_demo_ends_with_a_problem_solved_by_many_traces(invoke: Any, judged: Path) -> None:
    result = invoke("demo", "--problems", 1, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.stderr
    end = result.stdout.partition("The first problem by 5 traces")[2]
    assert "no answer (it is " in end
    assert re.search(r"traces +5: ", end)
    assert re.search(r"tokens +[0-9,]+ generated \+ 0 judged", end)


def test_json_has_the_verdict_too(invoke: Any, judged: Path) -> None:
    out = json.loads(invoke("demo", "--problems", 1, "--json").stdout)
    problem = generate(1, seed=0)[0]
    assert (out["solve"]["problem"], out["solve"]["gold"]) == (problem.question, problem.answer)
    assert (out["solve"]["strategy"], out["solve"]["n"], out["solve"]["judge"]) == ("deepprune", 5, "bundled")
    assert out["solve"]["policy"] == RPC(interval=128, window=32).spec()


def test_without_a_judge_it_does_not(invoke: Any, small: Path) -> None:
    result = invoke("demo", "--problems", 1)
    assert result.exit_code == 0
    assert result.stdout
    assert "by 64 traces" not in result.stdout
