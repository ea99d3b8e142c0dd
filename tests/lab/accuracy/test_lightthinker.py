"""`bench accuracy` and `think` with the policy `lightthinker`, on a tiny model that was hardly trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.lightthinker.recipe import BRIEF
from training.lightthinker.train import Tuner
from training.reasoner.export import export
from training.reasoner.model import Shape, Student


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """(plain, fine-tuned)"""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("models")
    export(Student(Shape(width=32, layers=2, heads=2, kv_heads=1, head_width=16, hidden=32)), place / "plain", 1.0)
    tuner = Tuner(replace(BRIEF, steps=2), place / "plain", place)
    tuner.run()
    tuner.export(place / "tuned")
    torch.set_num_threads(threads)
    return place / "plain", place / "tuned"


CASE = ("--shapes", "tiny-kv", "--lengths", "64")
BENCH = ("bench", "accuracy", "--problems", "3", "--level", "2", "--max-new-tokens", "150", "--batch", "3")


def test_accuracy_at_its_own_mean_cache(folders, tmp_path, invoke) -> None:
    out = tmp_path / "out"
    command = (*BENCH, "--model", str(folders[1]), "--policies", "lightthinker", "--out", str(out))
    assert invoke(*command).exit_code == 0
    report = json.loads((out / "results.json").read_text())
    (row,) = report["rows"]
    traces = [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]
    traces = [record for record in traces if record.get("kind") == "trace"]
    assert (row["label"], row["policy"], row["difference"], row["ratio"]) == (
        "lightthinker",
        "lightthinker",
        None,
        None,
    )
    assert row["mean_length"] == sum(record["length"] for record in traces) / 3
    assert row["mean_fed"] == sum(record.get("fed", 0) for record in traces) / 3
    assert row["mean_kv_tokens"] == pytest.approx(sum(record["mean_kv_tokens"] for record in traces) / 3)
    table = (out / "table.md").read_text()
    assert ("tokens a trace that nobody drew" in table) == (row["mean_fed"] > 0)
    named = (*BENCH, "--model", str(folders[1]), "--policies", "full,lightthinker", "--out", str(tmp_path / "both"))
    assert invoke(*named).exit_code == 0
    both = json.loads((tmp_path / "both" / "results.json").read_text())["rows"]
    assert [row["label"] for row in both] == ["full", "lightthinker"]
    assert both[1]["difference"] is not None


def test_a_model_without_tokens_of_thoughts_is_refused_before_anything_runs(folders, tmp_path, invoke) -> None:
    out = tmp_path / "out"
    found = invoke(*BENCH, "--model", str(folders[0]), "--policies", "rpc;lightthinker", "--out", str(out))
    assert found.exit_code == 2
    assert "has no lightthinker.json: policy lightthinker runs on a model that was fine-tuned for it" in found.stderr
    assert not (out / "results.json").exists()


def test_think_shows_what_is_held(folders, tmp_path, invoke) -> None:
    page = tmp_path / "page.html"
    question = "given d=2 j=2 ; m:d m-j m>. ; start *>m ; find m ?"
    command = ("think", question, "--model", str(folders[1]), "--policy", "lightthinker", "--max-new-tokens", "200")
    found = invoke(*command, "--html", str(page), "--json")
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert told["policy"] == "lightthinker"
    assert page.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("plan", "bundled", "--policies", "lightthinker"), "no count of tokens tells: only the hf engine runs it"),
        (
            ("bench", "throughput", *CASE, "--policies", "lightthinker"),
            "which a timed run, whose tokens mean nothing, can't",
        ),
        (("bench", "fidelity", "--policies", "lightthinker"), "which a recorded trace that is fed as it stands can't"),
        (
            ("bench", "fidelity", "--policies", "lightthinker", "--schedule", "own"),
            "which a recorded trace that is fed as it stands can't",
        ),
    ],
)
def test_other_commands_refuse_it(command, says: str, tmp_path, invoke) -> None:
    out = () if command[0] == "plan" else ("--out", str(tmp_path / "out"))
    found = invoke(*command, *out)
    assert found.exit_code == 2
    assert says in found.stderr
