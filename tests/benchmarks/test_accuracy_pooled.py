"""benchmarks/accuracy_pooled.py: several recorded runs as one table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accuracy_pooled.py"


def recorded(place: Path, digest: str, count: int, difference: tuple[float, float], temperature: float = 0.7) -> Path:
    """A run of full KV and one policy whose difference has this mean and half-width."""
    mean, half = difference
    interval = {"mean": mean, "low": mean - half, "high": mean + half}
    common: dict[str, Any] = {"to_others": {}, "mean_kv_tokens": 100, "difference": None}
    rows = [
        {"label": "full", "accuracy": {"mean": 0.5}, **common},
        {"label": "rpc c=4", "accuracy": {"mean": 0.5 + mean}, **common, "difference": interval},
    ]
    sampling = {"temperature": temperature, "seed": count}
    settings = {"model": {}, "engine": {}, "sampling": sampling, "problems": {"digest": digest, "count": count}}
    place.mkdir()
    told = {"format": "laconic.accuracy/2", "settings": settings, "rows": rows}
    (place / "results.json").write_text(json.dumps(told), encoding="utf-8")
    return place


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


def test_two_equal_runs_have_the_interval_of_twice_the_problems(tmp_path: Path) -> None:
    places = [recorded(tmp_path / name, name, 100, (-0.1, 0.04)) for name in ("one", "other")]
    done = run(*places, "--to", "full", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (row,) = [
        each for each in json.loads((tmp_path / "out/results.json").read_text())["rows"] if each["label"] != "full"
    ]
    assert row["problems"] == 200
    assert row["to full"]["mean"] == pytest.approx(-0.1)
    assert row["to full"]["high"] - row["to full"]["mean"] == pytest.approx(0.04 / 2**0.5)


def test_a_run_of_more_problems_weighs_more(tmp_path: Path) -> None:
    places = [
        recorded(tmp_path / "one", "one", 300, (-0.1, 0.04)),
        recorded(tmp_path / "other", "other", 100, (0.1, 0.04)),
    ]
    run(*places, "--to", "full", "--out", tmp_path / "out")
    (row,) = [
        each for each in json.loads((tmp_path / "out/results.json").read_text())["rows"] if each["label"] != "full"
    ]
    assert row["to full"]["mean"] == pytest.approx(-0.05)
    assert row["accuracy"] == pytest.approx(0.45)


def test_runs_that_cannot_be_one_table_are_refused_in_a_sentence(tmp_path: Path) -> None:
    one = recorded(tmp_path / "one", "same", 100, (0, 0.1))
    same = recorded(tmp_path / "same", "same", 100, (0, 0.1))
    warmer = recorded(tmp_path / "warmer", "other", 100, (0, 0.1), temperature=1)
    for other, word in ((same, "other problems"), (warmer, "temperature"), (tmp_path / "none", "can't be read")):
        done = run(one, other, "--out", tmp_path / "out")
        assert done.returncode == 1
        assert word in done.stderr
        assert "Traceback" not in done.stderr


def test_a_policy_is_known_by_its_settings_and_not_by_what_it_was_called(tmp_path: Path) -> None:
    """`learned` without a word on its fading had none in older runs; since then its specs say what it has."""
    specs = {
        "one": ("learned c=4", "selector ab in learned:interval=64,ratio=4,window=16"),
        "other": ("learned:fading=0 c=4", "selector cd in learned:interval=64,ratio=4,window=16,fading=0.0"),
        "third": ("learned c=4", "selector cd in learned:interval=64,ratio=4,window=16,fading=1.0"),
    }
    places = []
    for name, (label, spec) in specs.items():
        place = recorded(tmp_path / name, name, 100, (-0.1, 0.04))
        told = json.loads((place / "results.json").read_text())
        told["rows"][1]["label"] = label
        told["settings"]["policies"] = {"full": "full", label: spec}
        (place / "results.json").write_text(json.dumps(told))
        places.append(place)
    done = run(*places, "--to", "full", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert {row["label"]: row["runs"] for row in rows} == {
        "full": 3,
        "learned fading=0 c=4": 2,
        "learned fading=1 c=4": 1,
    }


def learned(place: Path, specs: dict[str, str]) -> Path:
    found = json.loads((recorded(place, place.name, 100, (0.1, 0.04)) / "results.json").read_text())
    found["settings"]["policies"] = specs
    found["rows"] = [{**found["rows"][1], "label": label} for label in specs] + [found["rows"][0]]
    (place / "results.json").write_text(json.dumps(found))
    return place


def test_rows_that_would_have_one_name_are_refused_and_selectors_are_told(tmp_path: Path) -> None:
    spec = "selector {} in learned:{}interval=64,ratio=4,window=16,fading=0.0"
    twice = learned(tmp_path / "t", {"a": spec.format("1a", ""), "b": spec.format("1a", "")})
    done = run(twice, "--to", "full", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "rows of one run mean the same policy" in done.stderr
    files = learned(tmp_path / "f", {"a": spec.format("1a", ""), "b": spec.format("2b", "other.safetensors,")})
    again = learned(tmp_path / "g", {"a": spec.format("3c", "")})
    assert run(files, again, "--to", "full", "--out", tmp_path / "out").returncode == 0
    rows = {row["label"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]}
    assert rows["learned fading=0 c=4"]["selectors"] == ["1a", "3c"]
    assert rows["learned other.safetensors fading=0 c=4"]["selectors"] == ["2b"]
    assert "Each run had a selector of its own" in (tmp_path / "out/table.md").read_text()
