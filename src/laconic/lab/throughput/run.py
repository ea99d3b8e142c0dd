"""Tokens a second of policies against full KV and plain `generate`, and against what bytes predict. Interleaved,
resumable.

In every repeat each method decodes the same cell once, in an order that rotates, in one process; ratios are taken
inside a repeat, so that a machine that slows down slows both sides. Nothing of one method is in memory while another
runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from laconic import checks
from laconic.compress.registry import parse
from laconic.compress.schedule import Never, Schedule
from laconic.engines.hf.shapes import SHAPES, Shape, build, get_shape, kv_bytes_per_token, parameter_count, weight_bytes
from laconic.engines.requests import check_goes_by_counts, check_looks_back
from laconic.environment import machine
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.shared.progress import Progress, Watcher
from laconic.lab.throughput.decoding import GENERATE, DecodingCase, TimedSample, decode
from laconic.lab.throughput.memory import Bandwidth, free_memory, is_out_of_memory, measure_bandwidth, release

FORMAT = "laconic.throughput/1"
FULL = "full"
METHODS = (GENERATE, FULL)
REPEATS = 5


@dataclass(frozen=True)
class ThroughputExperiment:
    """Cells x methods x repeats on one device. methods: `generate` and policy specs; `full` is what ratios refer to.

    Raises InputError for no cells or methods, one twice, an unknown policy, shape or setting, or repeats < 1.
    """

    cells: Sequence[DecodingCase]
    methods: Sequence[str]
    dtype: torch.dtype
    device: torch.device
    repeats: int = REPEATS

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.instances("cells", self.cells, DecodingCase, "a DecodingCase")
        checks.texts("methods", self.methods, "specs of policies")
        checks.instance("dtype", self.dtype, torch.dtype, "a torch.dtype")
        checks.instance("device", self.device, torch.device, "a torch.device")
        if not self.cells or not self.methods:
            raise InputError("There is nothing to measure: expected at least one cell and one method")
        checks.whole("repeats", self.repeats, 1)
        for what, names in (("method", list(self.methods)), ("cell", [cell.key for cell in self.cells])):
            twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
            if twice is not None:
                raise InputError(f"The {what} {twice} is asked for twice; expected each once")
        for method in self.methods:
            if method != GENERATE:
                check_looks_back(parse(method))
                check_goes_by_counts(parse(method), "a timed run, whose tokens mean nothing,")
        for cell in self.cells:
            get_shape(cell.shape)

    def settings(self) -> dict[str, Any]:
        """What records must agree on to be compared, for `Journal`. Repeats may grow; the device may not change."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        cpu = {"cpu": machine()["cpu"]} if self.device.type == "cpu" else {}
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": name,
            **cpu,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "methods": list(self.methods),
            "cells": [cell.key for cell in self.cells],
        }


def schedule_of(method: str) -> Schedule:
    """The schedule of a method; plain generate never compresses. Raises InputError for an unknown policy."""
    return Never() if method == GENERATE else parse(method).schedule


def run_throughput(
    experiment: ThroughputExperiment,
    journal: Journal | None = None,
    watch: Watcher | None = None,
    build_model: Callable[[Shape, torch.dtype, torch.device], PreTrainedModel] = build,
    bandwidth: Bandwidth | None = None,
) -> list[Record]:
    """Measure what the journal lacks, and return all records: kinds `bandwidth`, `weights`, `sample`, `failed`.

    A cell that runs out of memory, or does not fit to begin with, gives a `failed` record that says so, and the run
    goes on. bandwidth: the device's, if it is known already.
    """
    records: list[Record] = list(journal.records) if journal else []

    def note(**record: Any) -> None:
        if journal:
            journal.append([record])
        records.append(record)

    if not any(record["kind"] == "bandwidth" for record in records):
        found = bandwidth or measure_bandwidth(experiment.device)
        note(kind="bandwidth", copy=found.copy, read=found.read)
    total = len(experiment.cells) * len(experiment.methods) * experiment.repeats
    count = 0
    for name in dict.fromkeys(cell.shape for cell in experiment.cells):
        cells = [cell for cell in experiment.cells if cell.shape == name]
        count = _run_shape(experiment, name, cells, records, note, watch, build_model, count, total)
    return records


def _run_shape(
    experiment: ThroughputExperiment,
    name: str,
    cells: Sequence[DecodingCase],
    records: list[Record],
    note: Callable[..., None],
    watch: Watcher | None,
    build_model: Callable[[Shape, torch.dtype, torch.device], PreTrainedModel],
    count: int,
    total: int,
) -> int:
    """All cells of one shape: the model is built once, and only if something is left to measure."""
    shape = SHAPES[name]
    model: PreTrainedModel | None = None
    reason = ""
    for cell in cells:
        for repeat in range(experiment.repeats):
            # The order rotates, so that no method always runs after the same other one.
            turn = repeat % len(experiment.methods)
            for method in [*experiment.methods[turn:], *experiment.methods[:turn]]:
                count += 1
                if _done(records, cell, method, repeat):
                    continue
                if watch:
                    watch(Progress(f"{cell.key}, {method}", count, total))
                if model is None and not reason:
                    reason = _too_large(shape, experiment)
                    if not reason:
                        model, reason = _build(shape, experiment, build_model)
                    if model is not None and not any(r["kind"] == "weights" and r["shape"] == name for r in records):
                        note(
                            kind="weights",
                            shape=name,
                            weight_bytes=weight_bytes(model),
                            kv_bytes_per_token=kv_bytes_per_token(model.config, experiment.dtype),
                        )
                why = reason or _will_not_fit(shape, cell, method, experiment)
                outcome = why if why or model is None else _measure(model, cell, method, repeat, experiment.device)
                if isinstance(outcome, TimedSample):
                    note(kind="sample", cell=cell.key, method=method, repeat=repeat, **dataclasses.asdict(outcome))
                else:
                    note(kind="failed", cell=cell.key, method=method, reason=outcome)
    del model
    release(experiment.device)
    return count


def _done(records: Sequence[Record], cell: DecodingCase, method: str, repeat: int) -> bool:
    return any(
        record["kind"] in ("sample", "failed")
        and record["cell"] == cell.key
        and record["method"] == method
        and record.get("repeat", repeat) == repeat  # what failed once is not tried again
        for record in records
    )


def _measure(
    model: PreTrainedModel, cell: DecodingCase, method: str, repeat: int, device: torch.device
) -> TimedSample | str:
    release(device)
    try:
        return decode(model, method, cell, seed=repeat)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release(device)
    return "out of memory"


def _build(
    shape: Shape,
    experiment: ThroughputExperiment,
    build_model: Callable[[Shape, torch.dtype, torch.device], PreTrainedModel],
) -> tuple[PreTrainedModel | None, str]:
    try:
        return build_model(shape, experiment.dtype, experiment.device), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None, "out of memory: the weights alone"


def _too_large(shape: Shape, experiment: ThroughputExperiment) -> str:
    """Why the weights can't even be made here; empty if they can."""
    need, free = parameter_count(shape) * experiment.dtype.itemsize, free_memory(experiment.device)
    return f"does not fit: {_gib(need)} of weights, {_gib(free)} free" if need > free else ""


def _will_not_fit(shape: Shape, cell: DecodingCase, method: str, experiment: ThroughputExperiment) -> str:
    """On a CPU the system kills a process that takes too much, so a cell that can't fit is not started."""
    if experiment.device.type != "cpu":
        return ""
    held = schedule_of(method).peak(cell.end, cell.prompt) * cell.batch
    need, free = held * kv_bytes_per_token(shape.config(), experiment.dtype), free_memory(experiment.device)
    return f"out of memory: {_gib(need)} of KV, {_gib(free)} free" if need > 0.9 * free else ""


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def expected_bytes(cell: DecodingCase, method: str, weights: int, per_token: int) -> tuple[float, int]:
    """(bytes that an average timed step reads, KV bytes held after the last one), by the schedule's arithmetic.

    A step reads all weights once, and the KV that every row attends to.
    """
    schedule = schedule_of(method)
    attended = schedule.total(cell.end, cell.prompt) - schedule.total(cell.start, cell.prompt)
    live = schedule.physical(cell.end, cell.prompt) * cell.batch * per_token
    return weights + cell.batch * per_token * attended / cell.timed, live


def by_cell(experiment: ThroughputExperiment, records: Sequence[Record]) -> Mapping[tuple[str, str], list[Record]]:
    """The samples and failures of every (cell, method), in order of repeats."""
    found: dict[tuple[str, str], list[Record]] = {(c.key, m): [] for c in experiment.cells for m in experiment.methods}
    for record in records:
        if record["kind"] in ("sample", "failed") and (record["cell"], record["method"]) in found:
            found[record["cell"], record["method"]].append(record)
    for samples in found.values():
        samples.sort(key=lambda record: record.get("repeat", -1))
    return found
