"""The throughput run: order, resumption, failures; rows and estimates against what a known machine would give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laconic.compress import Proportional
from laconic.engines.hf import shapes
from laconic.engines.hf.shapes import Shape
from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.lab.shared.progress import Progress
from laconic.lab.throughput import run as throughput
from laconic.lab.throughput.decoding import DecodingCase, TimedSample
from laconic.lab.throughput.memory import Bandwidth
from laconic.lab.throughput.presets import PRESETS, cells_of, get_preset
from laconic.lab.throughput.rows import estimate_whole, estimates, summarise
from laconic.lab.throughput.run import FORMAT, ThroughputExperiment, run_throughput, schedule_of

CPU = torch.device("cpu")
RPC = "rpc:interval=64,ratio=4,window=16"
METHODS = ("generate", "full", RPC)
ROOF = Bandwidth(copy=8e9, read=1e10)
SHAPE = Shape(
    "small",
    "llama",
    "",
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
)
CELLS = (DecodingCase("small", 2, 8, 200, "at", 64), DecodingCase("small", 4, 8, 300))
# What one step takes on a machine without noise: a fixed part, and one that goes by the tokens attended.
FIXED, PER_TOKEN, COMPRESS = 1e-3, 1e-5, 0.02


class Machine:
    """Stands in for `decode`: exact times from the schedule, and a list of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.too_big: set[tuple[str, str]] = set()
        self.crash_at: int | None = None

    def __call__(self, model, method: str, cell: DecodingCase, seed: int = 0) -> TimedSample:
        if self.crash_at is not None and len(self.asked) == self.crash_at:
            raise KeyboardInterrupt
        self.asked.append((cell.key, method, seed))
        if (cell.key, method) in self.too_big:
            raise torch.OutOfMemoryError("CUDA out of memory")
        schedule = schedule_of(method)
        attended, seconds, rounds = 0, 0.0, 0
        for token in range(cell.start + 1, cell.end + 1):
            held = schedule.physical(token - 1, cell.prompt) + 1
            attended += held * cell.batch
            seconds += FIXED + PER_TOKEN * held
            if schedule.rounds(token) > schedule.rounds(token - 1):
                seconds += COMPRESS
                rounds += 1
        seconds *= 1 + 0.3 * seed  # a machine that slows down from repeat to repeat
        return TimedSample(
            seconds, cell.timed, cell.timed * cell.batch, 0.0, rounds, COMPRESS * (1 + 0.3 * seed), 7, attended, 5, 6
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(throughput, "decode", made)
    monkeypatch.setattr(throughput, "release", lambda device: None)  # nothing is held, and collecting garbage is slow
    monkeypatch.setitem(shapes.SHAPES, "small", SHAPE)
    return made


def experiment(repeats: int = 3, cells=CELLS, methods=METHODS) -> ThroughputExperiment:
    return ThroughputExperiment(cells, methods, torch.float32, CPU, repeats)


def test_methods_are_interleaved_in_rotating_order(machine: Machine) -> None:
    heard: list[Progress] = []
    run_throughput(experiment(), bandwidth=ROOF, watch=heard.append)
    first = CELLS[0].key
    assert machine.asked[:9] == [
        *((first, method, 0) for method in ("generate", "full", RPC)),
        *((first, method, 1) for method in ("full", RPC, "generate")),
        *((first, method, 2) for method in (RPC, "generate", "full")),
    ]
    assert len(machine.asked) == 18
    assert [piece.done for piece in heard] == list(range(1, 19))


def test_a_run_cut_short_goes_on_and_ends_the_same(machine: Machine, tmp_path: Path) -> None:
    whole = summarise(experiment(), run_throughput(experiment(), bandwidth=ROOF))
    asked, machine.asked = machine.asked, []
    path = tmp_path / "samples.jsonl"
    machine.crash_at = 7
    with pytest.raises(KeyboardInterrupt), Journal(path, FORMAT, experiment().settings()) as journal:
        run_throughput(experiment(), journal, bandwidth=ROOF)
    machine.crash_at = None
    with Journal(path, FORMAT, experiment().settings()) as journal:
        rows = summarise(experiment(), run_throughput(experiment(), journal, bandwidth=Bandwidth(1.0, 1.0)))
    assert machine.asked == asked  # each piece once
    assert rows == whole  # the bandwidth too is the one measured first


def test_another_machine_does_not_go_on_with_samples(machine: Machine, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "samples.jsonl"
    with Journal(path, FORMAT, experiment(1).settings()) as journal:
        run_throughput(experiment(1), journal, bandwidth=ROOF)
    monkeypatch.setattr("laconic.lab.throughput.run.machine", lambda: {"cpu": "another"})
    with pytest.raises(LaconicError, match="cpu was"):
        Journal(path, FORMAT, experiment(3).settings())


def test_more_repeats_may_follow_and_other_methods_may_not(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with Journal(path, FORMAT, experiment(1).settings()) as journal:
        run_throughput(experiment(1), journal, bandwidth=ROOF)
    with Journal(path, FORMAT, experiment(3).settings()) as journal:
        rows = summarise(experiment(3), run_throughput(experiment(3), journal, bandwidth=ROOF))
    assert {row["repeats"] for row in rows} == {3}
    assert len(machine.asked) == 18
    with pytest.raises(LaconicError, match="methods was"):
        Journal(path, FORMAT, experiment(methods=("full",)).settings())


def test_ratios_are_taken_inside_a_repeat(machine: Machine) -> None:
    """The machine slows by 30 % a repeat, which no ratio shows."""
    rows = {
        (row["cell"], row["method"]): row
        for row in summarise(experiment(), run_throughput(experiment(), bandwidth=ROOF))
    }
    for cell in CELLS:
        for method in METHODS:
            row = rows[cell.key, method]
            quick, slow = (Machine()(None, m, cell).seconds for m in ("full", method))
            assert row["to_full"] == pytest.approx(quick / slow)
            assert row["to_full_range"] == [pytest.approx(quick / slow)] * 2
            assert row["tokens_per_second"]["median"] == pytest.approx(cell.timed * cell.batch / slow / 1.3)
            assert row["tokens_per_second"]["most"] == pytest.approx(cell.timed * cell.batch / slow)
            assert row["step_ms"]["median"] == pytest.approx(1300 * slow / cell.timed)
            assert row["peak_bytes"] == 7


def test_bytes_are_weights_and_the_tokens_attended(machine: Machine) -> None:
    records = run_throughput(experiment(), bandwidth=ROOF)
    rows = {(row["cell"], row["method"]): row for row in summarise(experiment(), records)}
    weights = 4 * (64 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32) + 32)  # a table, two layers, norms
    per_token = 2 * 2 * 2 * 8 * 4
    for cell in CELLS:
        read = {}
        for method in METHODS:
            row = rows[cell.key, method]
            attended = sum(
                schedule_of(method).physical(t - 1, cell.prompt) + 1 for t in range(cell.start + 1, cell.end + 1)
            )
            read[method] = weights + cell.batch * per_token * attended / cell.timed
            assert row["bytes_per_step"] == pytest.approx(read[method])
            assert row["predicted"] == pytest.approx(read["full"] / read[method] if "full" in read else 1.0)
            assert row["of_predicted"] == pytest.approx(row["to_full"] / row["predicted"])
            seconds = row["step_ms"]["median"] / 1000
            assert row["bandwidth_share"] == pytest.approx(read[method] / seconds / 1e10)
            held = schedule_of(method).physical(cell.end, cell.prompt)
            assert row["expected_live_bytes"] == held * cell.batch * per_token


def test_out_of_memory_is_a_row_and_not_an_end(machine: Machine) -> None:
    machine.too_big = {(CELLS[0].key, "full")}
    rows = {
        (row["cell"], row["method"]): row
        for row in summarise(experiment(), run_throughput(experiment(), bandwidth=ROOF))
    }
    assert rows[CELLS[0].key, "full"]["failed"] == "out of memory"
    assert machine.asked.count((CELLS[0].key, "full", 0)) == 1
    assert not any(asked[:2] == (CELLS[0].key, "full") and asked[2] > 0 for asked in machine.asked)  # not tried again
    other = rows[CELLS[0].key, RPC]
    assert other["failed"] is None
    assert other["to_full"] is None  # nothing to compare with, and it says so
    assert other["tokens_per_second"]["median"] > 0
    assert rows[CELLS[1].key, "full"]["failed"] is None


def test_what_cannot_fit_is_not_started(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the system would kill the process: weights and caches are weighed before."""
    monkeypatch.setattr(throughput, "free_memory", lambda device: 250_000)
    cells = (DecodingCase("small", 2, 8, 200, "at", 64), DecodingCase("small", 400, 8, 300))
    rows = {
        (r["cell"], r["method"]): r
        for r in summarise(experiment(1, cells), run_throughput(experiment(1, cells), bandwidth=ROOF))
    }
    assert rows[cells[0].key, "full"]["failed"] is None
    assert rows[cells[1].key, "full"]["failed"].startswith("out of memory: 0.0 GiB of KV, 0.0 GiB free")
    assert {key for key, _, _ in machine.asked} == {cells[0].key}
    monkeypatch.setattr(throughput, "free_memory", lambda device: 1000)
    machine.asked.clear()
    none = summarise(experiment(1), run_throughput(experiment(1), bandwidth=ROOF))
    assert all(row["failed"].startswith("does not fit") for row in none)
    assert machine.asked == []


def test_other_errors_are_not_hidden(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(throughput, "decode", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_throughput(experiment(1), bandwidth=ROOF)


def test_whole_runs_are_estimated_right_where_time_is_linear(machine: Machine) -> None:
    """On a machine whose steps go by the tokens attended, windows tell a whole run's time within a per cent."""
    windows = tuple(DecodingCase("small", 2, 8, length, "at", 64) for length in (16, 500, 1000))
    asked = experiment(1, windows)
    records = run_throughput(asked, bandwidth=ROOF)
    for method in METHODS:
        for length in (700, 1000):
            row = estimate_whole(asked, records, "small", 2, method, length)
            whole = Machine()(None, method, DecodingCase("small", 2, 8, length))
            assert row is not None
            assert row["estimated"] is True
            assert row["tokens_per_second"] == pytest.approx(whole.tokens / whole.seconds, rel=0.01)
    table = estimates(asked, records, (700, 1000))
    full = next(row for row in table if row["method"] == "full" and row["length"] == 700)
    rpc = next(row for row in table if row["method"] == RPC and row["length"] == 700)
    assert rpc["to_full"] == pytest.approx(rpc["tokens_per_second"] / full["tokens_per_second"])


def test_no_estimate_without_windows_to_stand_on(machine: Machine) -> None:
    one = (DecodingCase("small", 2, 8, 500, "at", 64),)
    records = run_throughput(experiment(1, one), bandwidth=ROOF)
    assert estimate_whole(experiment(1, one), records, "small", 2, "full", 500) is None
    # A window that ran out of memory on the way: the whole run would have too.
    windows = tuple(DecodingCase("small", 2, 8, length, "at", 64) for length in (16, 200, 400, 1000))
    machine.too_big = {(windows[2].key, "full")}
    asked = experiment(1, windows)
    records = run_throughput(asked, bandwidth=ROOF)
    assert estimate_whole(asked, records, "small", 2, "full", 1000) is None
    assert estimate_whole(asked, records, "small", 2, "full", 300) is not None
    # Compressions that no window took in.
    short = tuple(DecodingCase("small", 2, 8, length, "at", 8) for length in (16, 90))
    asked = experiment(1, short)
    records = run_throughput(asked, bandwidth=ROOF)
    assert estimate_whole(asked, records, "small", 2, RPC, 1000) is None


def test_presets_are_runs_that_can_be_made() -> None:
    for preset in PRESETS.values():
        made = ThroughputExperiment(preset.cells, preset.methods, torch.float32, CPU, preset.repeats)
        assert "full" in preset.methods
        assert made.repeats >= 5
        assert get_preset(preset.name) is preset
    paper = PRESETS["rpc-paper"]
    assert paper.gpu
    assert {cell.batch for cell in paper.cells if cell.shape == "r1-distill-qwen-7b"} == {8, 16, 32}
    # Every window of the paper's lengths takes in exactly one compression of each interval.
    for cell in paper.cells:
        for method in paper.methods[2:]:
            schedule = schedule_of(method)
            assert schedule.rounds(cell.end) - schedule.rounds(cell.start) == (1 if cell.length > 128 else 0)
    # The KV-bound preset times a whole interval, so the sawtooth is taken at its mean.
    for cell in PRESETS["cpu-kv"].cells:
        for method in PRESETS["cpu-kv"].methods[1:]:
            schedule = schedule_of(method)
            assert isinstance(schedule, Proportional)
            assert cell.steps == schedule.interval


def test_a_preset_runs_on_some_of_its_shapes() -> None:
    paper = PRESETS["rpc-paper"]
    small = paper.only(["r1-distill-qwen-7b"])
    assert {cell.shape for cell in small.cells} == {"r1-distill-qwen-7b"}
    assert len(small.cells) == 15
    assert paper.only([]) is paper
    with pytest.raises(LaconicError, match="its shapes: r1-distill-qwen-7b, qwq-32b"):
        paper.only(["tiny-kv"])


def test_cells_are_shapes_times_batches_times_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "small", SHAPE)
    made = cells_of(["small", "tiny-kv"], [1, 2], 8, [100], [50, 60], 7)
    assert len(made) == 12
    assert made[0] == DecodingCase("small", 1, 8, 100)
    assert made[2] == DecodingCase("small", 1, 8, 60, "at", 7)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: get_preset("fastest"), "rpc-paper, cpu-kv, cpu-policies, cpu-weights, cpu-parity"),
        (lambda: cells_of(["big"], [1], 8, [10], [], 4), "'big' is unknown"),
        (lambda: cells_of(["tiny-kv"], [1], 8, [], [], 4), "nothing to run"),
        (lambda: cells_of(["tiny-kv"], [], 8, [10], [], 4), "nothing to run"),
        (lambda: ThroughputExperiment(CELLS, ("full", "fast"), torch.float32, CPU), "'fast' is unknown"),
        (lambda: ThroughputExperiment(CELLS, ("full",), torch.float32, CPU), "'small' is unknown"),
        (lambda: ThroughputExperiment(CELLS, ("full", "hindsight"), torch.float32, CPU), "only a recorded trace tells"),
        (lambda: ThroughputExperiment((), ("full",), torch.float32, CPU), "nothing to measure"),
        (
            lambda: ThroughputExperiment(PRESETS["cpu-kv"].cells, ("full", "full"), torch.float32, CPU),
            "method full is asked for twice",
        ),
        (
            lambda: ThroughputExperiment(PRESETS["cpu-kv"].cells * 2, ("full",), torch.float32, CPU),
            "is asked for twice",
        ),
        (lambda: ThroughputExperiment(PRESETS["cpu-kv"].cells, ("full",), torch.float32, CPU, 0), "repeats is 0"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word):
        call()
