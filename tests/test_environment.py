"""Results say what they were measured on, and nothing about where it stands."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from laconic import environment as env


def test_machine_and_versions_are_there_and_are_json() -> None:
    found = json.loads(json.dumps(env.environment(["laconic", "bench"])))
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gib"] > 0
    assert {"laconic", "python", "torch", "transformers"} <= set(found["versions"])
    assert found["command"] == "laconic bench"
    assert found["date"].endswith("Z")


def test_no_host_user_or_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["/somewhere/bin/laconic", "bench", "--out", str(tmp_path / "out"), "--model=/data/models/seven b", "x"]
    text = json.dumps(env.environment(argv))
    assert env.command(argv) == "laconic bench --out out '--model=seven b' x"
    assert str(tmp_path) not in text
    assert "/somewhere" not in text
    assert socket.gethostname() not in text


def test_a_script_is_told_as_python_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["benchmarks/accuracy-ONE", "--out", str(tmp_path / "out"), "--to=/elsewhere/x"]
    found = env.script_environment(tmp_path / "benchmarks" / "pool.py", argv)
    assert found["command"] == "python benchmarks/pool.py benchmarks/accuracy-ONE --out out --to=x"
    assert set(found) == set(env.environment(["laconic"]))


def test_available_memory_is_some_of_the_total() -> None:
    assert 0 < env.available_memory() <= env.total_memory()


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (
            "rpc;learned:/a/b/one.safetensors,ratio=8;learned:file=/c/two",
            "rpc;learned:one.safetensors,ratio=8;learned:file=two",
        ),
        ("--policy=learned:/a/b/one.safetensors", "--policy=learned:one.safetensors"),
        ("http://host/v1", "http://host/v1"),
        ("hub:openai/gsm8k", "hub:openai/gsm8k"),
    ],
)
def test_directories_inside_of_specs_are_hidden_too(word: str, shown: str) -> None:
    assert env.hide_directories(word) == shown
