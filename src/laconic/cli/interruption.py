"""Ctrl-C: what the one line says that a command ends with. A command tells what it keeps as soon as it knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

NOTHING = "nothing is kept; the same command begins anew"

_kept: Callable[[], str] | None = None


def if_interrupted(kept: str | Callable[[], str] | None) -> None:
    """From now on an interruption is told with this clause; a function is asked at that moment, None is nothing to tell."""
    global _kept
    _kept = (lambda: kept) if isinstance(kept, str) else kept


def resumed(*files: Path, what: str = "what is finished") -> Callable[[], str]:
    """The clause of a command that goes on with these files; a file that holds no more than its header counts as none."""

    def say() -> str:
        there = [str(path) for path in files if _begun(path)]
        if not there:
            return "nothing was finished yet; the same command begins anew"
        return f"{what} is in {' and '.join(there)}, and the same command goes on from there"

    return say


def describe() -> str:
    """The line."""
    return "interrupted" if _kept is None else f"interrupted; {_kept()}"


def _begun(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    if path.suffix == ".pt":
        return True
    with open(path, "rb") as file:
        return bool(file.readline() and file.readline())
