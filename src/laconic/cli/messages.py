"""What is said on stderr: how an error or a warning reads, and the exit codes that go with it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from laconic.errors import LaconicWarning

BAD_INPUT = 2
INTERRUPTED = 130


def print_to_stderr(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def sentence(error: BaseException) -> str:
    """An error or a warning as one line, without a full stop: the system's errors with the path they are about, others as
    their message says."""
    if isinstance(error, (FileExistsError, NotADirectoryError)) and error.filename is not None:
        return f"{error.filename} can't be made a directory, as a file is in the way; name another place"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{where}"
    if isinstance(error, MemoryError):
        return "out of memory: use a smaller model, fewer traces or fewer new tokens"
    said = " ".join(str(error).split()) or type(error).__name__
    return said if said.endswith("..") else said.removesuffix(".")


@contextmanager
def print_warnings() -> Iterator[None]:
    """Our own warnings become lines on stderr, each told once; others stay as they are."""
    told: set[str] = set()
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, LaconicWarning):
            others(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            print_to_stderr(f"warning: {sentence(message) if isinstance(message, Warning) else message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", LaconicWarning)
        warnings.showwarning = show
        yield


def size(count: int) -> str:
    """Bytes for people: 1,023 B, 1.5 KiB, 12.0 MiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count:,} B" if unit == "B" else f"{value:,.1f} {unit}"


def share(interval: tuple[float, float, float] | None, problems: int) -> str:
    """A share of so many problems with its interval. None: nothing tells which are right."""
    if interval is None:
        return "none, without reference answers"
    mean, low, high = interval
    if problems == 1:
        return f"{mean:.1%} (one problem has no interval)"
    return f"{mean:.1%} (95 % interval {low:.1%} to {high:.1%})"
