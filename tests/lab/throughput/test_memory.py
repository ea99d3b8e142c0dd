"""Bandwidth and peak memory are measured, and near what is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laconic.lab.throughput.memory import PeakMemory, free_memory, is_out_of_memory, measure_bandwidth, release

CPU = torch.device("cpu")


def test_bandwidth_is_of_this_machine() -> None:
    found = measure_bandwidth(CPU, size=32 * 2**20, repeats=3)
    assert 1e8 < found.copy < 1e13
    assert 1e8 < found.read < 1e13
    assert found.roof == max(found)


def test_the_peak_is_of_the_time_since_start() -> None:
    """A tensor made and freed before does not count; one made and freed since then does, to a few MiB.

    Where the system can't reset its high-water mark there is no figure at all, rather than a wrong one.
    """
    size = 64 * 2**20
    meter = PeakMemory(CPU)
    before = torch.ones(size // 4)
    del before
    release(CPU)
    meter.start()
    at_rest = meter.read()
    if not Path("/proc/self/clear_refs").exists():
        assert at_rest is None
        return
    work = torch.ones(size // 4)
    del work
    release(CPU)
    peak = meter.read()
    assert at_rest is not None
    assert peak is not None
    assert peak - at_rest == pytest.approx(size, abs=8 * 2**20)


def test_errors_that_mean_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_free_memory_is_some() -> None:
    assert free_memory(CPU) > 2**20
