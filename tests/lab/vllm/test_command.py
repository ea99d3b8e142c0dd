"""`laconic bench vllm` from the command line, without vLLM: files, resumption, exit codes, and sentences for bad input.

tests/bench/test_live_vllm_bench.py runs it with vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.reference.selectors import random_selector

from laconic import selectors
from laconic.assets import reasoner_path
from laconic.engines.hf.stored import checkpoint_fingerprint
from laconic.lab.vllm import process as vllm_process
from laconic.lab.vllm import run as vllm_speed
from laconic.lab.vllm.process import WorkerFailed
from laconic.selectors import place_of, write_selector


class Engine:
    def __init__(self, options: dict[str, Any], *_: Any) -> None:
        self.options = options
        self.compresses = "additional_config" in options
        learned = self.compresses and options["additional_config"]["laconic"]["policy"] == "learned"
        self.about = {"ring_bytes": 512 if self.compresses else None, "selector_bytes": 100 if learned else 0}

    def run(self, load: Any, repeat: int) -> dict[str, Any]:
        counts = {"evicted": 24, "compressions": 8} if self.compresses else {}
        return {
            "seconds": 2.0 if self.compresses else 4.0,
            "cpu_seconds": 1.0,
            "tokens": load.requests * load.output,
            "steps": 10,
            "computed": 512,
            "mean_running": 4.0,
            "preemptions": 0,
            "first_token": {"median": 0.1, "p90": 0.2},
            "peak_blocks": self.options["num_gpu_blocks_override"] - 1,
            **counts,
        }

    def close(self) -> None:
        pass


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every engine that the command starts."""
    found: list[dict[str, Any]] = []

    def start(options: dict[str, Any], *rest: Any) -> Engine:
        found.append(options)
        return Engine(options, *rest)

    monkeypatch.setattr(vllm_speed, "Worker", start)
    monkeypatch.setattr(vllm_process, "check_installed", lambda: None)
    return found


SMALL = ["--requests", 4, "--output", 96, "-p", "rpc", "--interval", 32, "--window", 8, "--cache", "100,25", "-r", 2]


def test_it_writes_all_it_says_and_goes_on_from_it(invoke, started, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("bench", "vllm", *SMALL, "-o", out)
    assert done.exit_code == 0, done.output
    assert "RPC c=4" in done.stdout
    assert {path.name for path in out.iterdir()} == {"samples.jsonl", "results.json", "table.md", "plot.png"}
    report = json.loads((out / "results.json").read_text())
    assert report["settings"]["demand_blocks"] == 16
    assert [(row["cache"], row["contender"]) for row in report["rows"]] == [
        (1.0, "stock"), (1.0, "rpc c=4"), (0.25, "stock"), (0.25, "rpc c=4"),
    ]  # fmt: skip
    assert report["rows"][3]["to_stock"]["median"] == pytest.approx(2.0)
    assert report["rows"][3]["peak_blocks"] == 4
    assert {"machine", "versions", "command"} <= set(report)
    assert len(started) == 4
    assert started[0]["model"] == started[1]["model"]
    assert not Path(started[0]["model"]).exists()  # the shape's directory is gone with the command
    lines = (out / "samples.jsonl").read_text()
    again = invoke("bench", "vllm", *SMALL, "-o", out, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["rows"] == report["rows"]
    assert len(started) == 4
    assert (out / "samples.jsonl").read_text() == lines
    assert "8 runs found" in again.stderr


def test_the_models_own_selector_is_looked_up_first(
    invoke, started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here by its fingerprint, so that a missing one is told at once; each engine finds and checks it anew."""
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(selectors, "SHIPPED", tmp_path / "shipped")
    arguments = ["bench", "vllm", *SMALL, "-p", "rpc,learned", "-m", "bundled", "-o", tmp_path / "out"]
    missing = invoke(*arguments)
    assert missing.exit_code == 2
    assert "there is no selector for this model yet" in missing.stderr
    assert started == []
    place = place_of(checkpoint_fingerprint(str(reasoner_path())))
    write_selector(place, random_selector())
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    own = [options["additional_config"]["laconic"] for options in started if "additional_config" in options]
    assert [one["policy"] for one in own] == ["rpc", "learned"] * 2
    assert own[1]["file"] is None
    assert started[0]["model"] == str(reasoner_path())
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["settings"]["model"]["name"] == "bundled"
    assert report["selectors"] == {"stock": 0, "rpc c=4": 0, "learned c=4": 100}
    per_block = report["rows"][0]["bytes"] // report["rows"][0]["blocks"]
    assert [row["memory"] - row["peak_blocks"] * per_block for row in report["rows"][:3]] == [0, 512, 612]
    assert str(tmp_path) not in (tmp_path / "out" / "table.md").read_text()


def test_a_refused_cell_is_a_row_and_no_error(invoke, started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(options: dict[str, Any], *rest: Any) -> Engine:
        if "additional_config" not in options and options["num_gpu_blocks_override"] == 5:
            raise WorkerFailed("not one request fits", refused=True)
        return Engine(options, *rest)

    monkeypatch.setattr(vllm_speed, "Worker", start)
    done = invoke("bench", "vllm", *SMALL, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    assert "stock vLLM at 25 %: not one request fits" in done.stdout


@pytest.mark.parametrize("refused", [True, False])
def test_a_contender_that_never_runs_is_an_error_after_the_table(
    invoke, started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: bool
) -> None:
    def start(options: dict[str, Any], *rest: Any) -> Engine:
        if "additional_config" in options:
            raise WorkerFailed("it won't", refused)
        return Engine(options, *rest)

    monkeypatch.setattr(vllm_speed, "Worker", start)
    done = invoke("bench", "vllm", *SMALL, "-o", tmp_path)
    assert done.exit_code == 2
    assert "error: RPC c=4 at 100 % of demand did not finish (it won't); what is finished is in" in done.stderr
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "rcp"], "rcp"),
        (["-p", "h2o"], "policy h2o can't run inside vLLM"),
        (["-p", "learned"], "can't be told: those of a shape are random; name one: learned:FILE"),
        (["-p", "learned:/no/such"], "there is no selector file /no/such"),
        (["-p", "full"], "nothing to compare stock vLLM with"),
        (["--cache", "0"], "expected a share above 0"),
        (["--cache", "100,-5"], "expected a share above 0"),
        (["--cache", "half"], "--cache has 'half'"),
        (["--cache", ""], "at least one cache size"),
        (["--output", "0"], "output is 0; expected"),
        (["--requests", "0"], "requests is 0; expected"),
        (["--prompt", "0"], "prompt is 0; expected"),
        (["--block-size", "0"], "block is 0; expected"),
        (["--repeats", "0"], "repeats is 0; expected"),
        (["--threads", "0"], "threads is 0; expected"),
        (["--ratios", "0.5"], "ratio is 0.5; expected"),
        (["--shape", "tiny"], "The shape 'tiny' is unknown"),
        (["--shape", "tiny-kv", "--model", "x"], "give one of them"),
        (["--model", "/no/such/place"], "can't be read"),
        (["--dtype", "int4"], "The number format is 'int4'"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(
    invoke, started, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = invoke("bench", "vllm", *arguments, "-o", tmp_path / "out")
    assert done.exit_code == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert started == []
    assert not (tmp_path / "out").exists()


def test_without_vllm_it_says_what_to_install(invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process.importlib.util, "find_spec", lambda name: None)
    done = invoke("bench", "vllm", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "vLLM is not installed beside laconic" in done.stderr
    assert not (tmp_path / "out").exists()
