"""How fast memory is and how much was used, measured: the roof over decoding, whose every step reads weights and KV."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from laconic.environment import available_memory

CPU_BYTES = 256 * 2**20
GPU_BYTES = 2**30
REPEATS = 7


class Bandwidth(NamedTuple):
    """Bytes a second: of a large copy (read and written bytes both count) and of a matrix times a vector (read)."""

    copy: float
    read: float

    @property
    def roof(self) -> float:
        """The larger: the most that memory was seen to deliver. A copy alone is slower where a write reads first."""
        return max(self.copy, self.read)


def measure_bandwidth(device: torch.device, size: int | None = None, repeats: int = REPEATS) -> Bandwidth:
    """The memory bandwidth of a device, median of `repeats`. size: bytes of the buffers, far beyond any cache."""
    size = size or (GPU_BYTES if device.type == "cuda" else CPU_BYTES)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    columns = 4096
    source = torch.ones(max(1, size // dtype.itemsize // columns), columns, dtype=dtype, device=device)
    target = torch.empty_like(source)
    vector = torch.ones(columns, dtype=dtype, device=device)
    size = source.numel() * source.element_size()
    copy = _median_seconds(lambda: target.copy_(source), device, repeats)
    read = _median_seconds(lambda: torch.mv(source, vector), device, repeats)
    return Bandwidth(2 * size / copy, size / read)


def _median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])  # the first ones touch pages and pick kernels


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU has nothing pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory in use since `start`: what torch allocated on a GPU, or this process's resident set on a CPU.

    The resident set is of the whole process, so it includes Python, torch and the weights. None where the system offers
    no way to reset its high-water mark (anything but Linux).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.works = True

    def start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is resident now
        except OSError:
            self.works = False

    def read(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status("VmHWM") if self.works else None


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def release(device: torch.device) -> None:
    """Give freed memory back, so that the next measurement does not count it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # glibc keeps what it got otherwise


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's, or the CPU allocator's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
