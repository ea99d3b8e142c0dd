"""The run: what is started when, in which order it runs, what an interruption and a failure leave. Engines are pretended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.lab.vllm.load import ComparedEngine, RequestLoad, lineup
from laconic.lab.vllm.model import ServedModel
from laconic.lab.vllm.process import WorkerFailed
from laconic.lab.vllm.rows import rings, summarise
from laconic.lab.vllm.run import FORMAT, VLLMExperiment, failure, run_vllm

MODEL = ServedModel("pretended", "/nowhere", True, torch.float32, 1024)
LOAD = RequestLoad(requests=4, prompt=32, output=96)
CONTENDERS = lineup(["rpc", "streamingllm"], [4], interval=32, window=8, output=96)


def experiment(**changes: Any) -> VLLMExperiment:
    return VLLMExperiment(MODEL, LOAD, CONTENDERS, **{"shares": [1.0, 0.25], "repeats": 3, "vllm": "1.2", **changes})


class Engines:
    """Starts pretended engines and writes down what happens to them. speed: tokens a second by contender."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.open: list[str] = []
        self.speed = {"stock": 100.0, "rpc c=4": 250.0, "streamingllm c=4": 300.0}
        self.break_at: dict[tuple[str, float, int | None], BaseException] = {}

    def __call__(self, experiment: VLLMExperiment, contender: ComparedEngine, share: float) -> Engine:
        self.log.append(f"start {share:g} {contender.label}")
        if (contender.label, share, None) in self.break_at:
            raise self.break_at[contender.label, share, None]
        return Engine(self, contender, share)


class Engine:
    def __init__(self, engines: Engines, contender: ComparedEngine, share: float) -> None:
        self.engines, self.contender, self.share = engines, contender, share
        self.about = {"ring_bytes": None if contender.settings is None else 77}
        engines.open.append(contender.label)

    def run(self, load: RequestLoad, repeat: int) -> dict[str, Any]:
        label = self.contender.label
        self.engines.log.append(f"run {self.share:g} {label} {repeat}")
        if (label, self.share, repeat) in self.engines.break_at:
            raise self.engines.break_at[label, self.share, repeat]
        seconds = load.requests * load.output / (self.engines.speed[label] * (1 + repeat))
        figures = {
            "seconds": seconds,
            "cpu_seconds": seconds * (0.5 if label == "stock" else 0.8),
            "tokens": load.requests * load.output,
            "steps": 10 + repeat,
            "computed": 512,
            "mean_running": 4.0,
            "preemptions": repeat,
            "first_token": {"median": 0.1, "p90": 0.2 + repeat},
            "peak_blocks": 16,
        }
        return figures if label == "stock" else {**figures, "evicted": 24, "compressions": 8}

    def close(self) -> None:
        if self.contender.label in self.engines.open:
            self.engines.open.remove(self.contender.label)


def test_a_cell_is_started_whole_and_then_runs_in_an_order_that_rotates() -> None:
    engines = Engines()
    told = []
    run_vllm(experiment(), watch=lambda piece: told.append((piece.label, piece.done, piece.total)), start=engines)
    a, b, c = "stock", "rpc c=4", "streamingllm c=4"
    turns = [a, b, c], [b, c, a], [c, a, b]
    for share, part in (("1", engines.log[:12]), ("0.25", engines.log[12:])):
        assert part[:3] == [f"start {share} {label}" for label in (a, b, c)]
        assert part[3:] == [f"run {share} {label} {repeat}" for repeat, labels in enumerate(turns) for label in labels]
    assert engines.open == []
    assert told[0] == ("100 % stock, starting", 1, 18)
    assert told[-1] == ("25 % rpc c=4", 18, 18)


def test_options_differ_by_laconics_settings_alone() -> None:
    made = experiment(eager=False)
    stock, rpc = (made.options(contender, 0.25) for contender in CONTENDERS[:2])
    assert rpc.pop("additional_config") == {"laconic": CONTENDERS[1].settings}
    assert stock == rpc
    assert stock["num_gpu_blocks_override"] == 4 + 1  # 4 x 128 tokens are 16 blocks, and vLLM keeps one more for itself
    assert stock["kv_cache_memory_bytes"] == 5 * 32 * 1024
    assert stock["max_num_seqs"] == 4
    assert stock["max_model_len"] == 129
    assert stock["enforce_eager"] is False


def test_rows_are_medians_and_ratios_inside_a_repeat() -> None:
    made = experiment()
    records = run_vllm(made, start=Engines())
    rows = summarise(made, records)
    assert [(row["cache"], row["contender"]) for row in rows] == [
        (share, contender.label) for share in (1.0, 0.25) for contender in CONTENDERS
    ]
    stock, rpc = rows[:2]
    assert stock["tokens_per_second"] == pytest.approx({"median": 200, "least": 100, "most": 300})
    assert stock["to_stock"] is None
    assert stock["evicted"] is None
    assert rpc["to_stock"] == pytest.approx({"median": 2.5, "least": 2.5, "most": 2.5})
    assert rpc["to_stock_cpu"] == pytest.approx({"median": 2.5 * 0.5 / 0.8, "least": 1.5625, "most": 1.5625})
    assert (stock["cpu_share"], rpc["cpu_share"]) == pytest.approx((0.5, 0.8))
    assert rpc["tokens_per_second"]["median"] == pytest.approx(500)
    assert (rpc["steps"], rpc["preemptions"], rpc["evicted"], rpc["compressions"]) == (11, 1, 24, 8)
    assert rpc["first_token"] == pytest.approx({"median": 0.1, "p90": 1.2})
    assert (rows[3]["blocks"], rows[3]["bytes"]) == (4, 4 * 32 * 1024)
    assert all(row["failed"] is None and row["repeats"] == 3 for row in rows)
    assert rings(records) == {"stock": None, "rpc c=4": 77, "streamingllm c=4": 77}


def test_ratios_need_stock_in_the_same_repeat() -> None:
    made = experiment(shares=[1.0])
    engines = Engines()
    engines.break_at["stock", 1.0, 1] = WorkerFailed("gone")
    records = run_vllm(made, start=engines)
    records = [
        {**r, "seconds": r["seconds"] * 2} if r.get("contender") == "rpc c=4" and r.get("repeat") else r
        for r in records
    ]
    stock, rpc, _ = summarise(made, records)
    assert (stock["repeats"], stock["failed"]) == (1, "gone")
    assert rpc["repeats"] == 3
    assert rpc["to_stock"]["median"] == pytest.approx(2.5)  # of repeat 0 alone, in which rpc was not slowed down


def test_an_interruption_leaves_what_is_finished_and_the_next_run_goes_on(tmp_path: Path) -> None:
    engines = Engines()
    engines.break_at["streamingllm c=4", 0.25, 1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "s.jsonl", FORMAT, experiment().settings()) as journal:
        run_vllm(experiment(), journal, start=engines)
    assert engines.open == []
    engines = Engines()
    with Journal(tmp_path / "s.jsonl", FORMAT, experiment().settings()) as journal:
        records = run_vllm(experiment(), journal, start=engines)
    assert engines.log == [
        "start 0.25 stock",
        "start 0.25 rpc c=4",
        "start 0.25 streamingllm c=4",
        "run 0.25 streamingllm c=4 1",
        "run 0.25 stock 1",
        "run 0.25 streamingllm c=4 2",
        "run 0.25 stock 2",
        "run 0.25 rpc c=4 2",
    ]
    assert summarise(experiment(), records) == summarise(experiment(), run_vllm(experiment(), start=Engines()))


def test_nothing_is_started_where_nothing_is_left_and_repeats_may_grow(tmp_path: Path) -> None:
    engines = Engines()
    for repeats, started in ((2, 6), (2, 6), (3, 12)):
        with Journal(tmp_path / "s.jsonl", FORMAT, experiment(repeats=repeats).settings()) as journal:
            run_vllm(experiment(repeats=repeats), journal, start=engines)
        assert sum(line.startswith("start") for line in engines.log) == started
    assert sum(line.startswith("run") for line in engines.log) == 18


def test_a_refused_start_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    engines = Engines()
    engines.break_at["stock", 0.25, None] = WorkerFailed("no room for one request", refused=True)
    with Journal(tmp_path / "s.jsonl", FORMAT, experiment().settings()) as journal:
        records = run_vllm(experiment(), journal, start=engines)
    rows = {(row["cache"], row["contender"]): row for row in summarise(experiment(), records)}
    row = rows[0.25, "stock"]
    assert (row["failed"], row["refused"], row["repeats"]) == ("no room for one request", True, 0)
    assert "tokens_per_second" not in row
    assert rows[0.25, "rpc c=4"]["to_stock"] is None
    assert rows[0.25, "rpc c=4"]["repeats"] == 3
    # Once it starts, what it said before is forgotten.
    engines.break_at.clear()
    with Journal(tmp_path / "s.jsonl", FORMAT, experiment().settings()) as journal:
        records = run_vllm(experiment(), journal, start=engines)
    assert failure(experiment(), records, 0.25, "stock") is None
    assert summarise(experiment(), records)[3]["repeats"] == 3


def test_an_engine_that_dies_keeps_its_repeats_and_runs_no_more() -> None:
    engines = Engines()
    engines.break_at["rpc c=4", 1.0, 1] = WorkerFailed("killed")
    records = run_vllm(experiment(shares=[1.0]), start=engines)
    row = summarise(experiment(shares=[1.0]), records)[1]
    assert (row["repeats"], row["failed"], row["refused"]) == (1, "killed", False)
    assert row["tokens_per_second"]["median"] == pytest.approx(250)
    assert "run 1 rpc c=4 2" not in engines.log
    assert "run 1 stock 2" in engines.log
    assert engines.open == []


def test_other_settings_are_not_mixed(tmp_path: Path) -> None:
    with Journal(tmp_path / "s.jsonl", FORMAT, experiment().settings()) as journal:
        run_vllm(experiment(), journal, start=Engines())
    with pytest.raises(LaconicError, match=r"recorded with other settings \(vllm was '1.2', now '1.3'\)"):
        Journal(tmp_path / "s.jsonl", FORMAT, experiment(vllm="1.3").settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": []}, "nothing to measure"),
        ({"shares": [0.5, 0.5]}, "cache size 0.5 is asked for twice"),
        ({"shares": [0.0]}, "expected a share above 0"),
        ({"repeats": 0}, "repeats is 0; expected"),
        ({"threads": 0}, "threads is 0; expected"),
    ],
)
def test_bad_jobs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        experiment(**changes)
