"""Cells chosen by name, and run: each command in a process of its own, one after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from laconic.errors import InputError
from laconic.journal import read_journal
from laconic.lab.accuracy import run as accuracy
from laconic.lab.accuracy.rows import BASELINE
from laconic.lab.paper.cells import AccuracyCell, Cell, Paper
from laconic.lab.paper.commands import Command, RunChoices, commands, lacking, shown
from laconic.lab.paper.found import RESULTS

INTERRUPTED = 130
PATIENCE = 30.0  # seconds that an interrupted command has to write down what is finished


def select_cells(paper: Paper, patterns: Sequence[str]) -> list[Cell]:
    """The cells that match one of the patterns, in the paper's order. Raises InputError for a pattern that none matches."""
    for pattern in patterns:
        if not any(fnmatchcase(cell.name, pattern) for cell in paper.cells):
            raise InputError(
                f"{paper.title} has no cell {pattern}; expected a name or a pattern as `laconic bench paper {paper.name}` "
                f"lists them, such as {paper.cells[0].name}"
            )
    return [cell for cell in paper.cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)]


def full_length(cell: Cell, how: RunChoices) -> float | None:
    """Full KV's mean generated length where a cell's results lie; None before it ran to its end (short traces end first), and
    for cells without such results."""
    path = how.out / cell.place / RESULTS["accuracy"]
    finished = path.with_name("results.json").is_file()
    if not isinstance(cell, AccuracyCell) or cell.benchmark.harness or not path.is_file() or not finished:
        return None
    _, records = read_journal(path, accuracy.FORMAT)
    lengths = [record["length"] for record in records if record["kind"] == "trace" and record["row"] == BASELINE]
    return sum(lengths) / len(lengths) if lengths else None


def runnable(
    paper: Paper, cells: Sequence[Cell], named: Sequence[str], how: RunChoices, tell: Callable[[str], None]
) -> list[Cell]:
    """Those of the cells that have a command; tell: is told of each that hasn't.

    Raises InputError for a cell that is named itself and has none, and where none is left.
    """
    lacks = {
        cell.name: why
        for cell in cells
        if _full_of(paper, cell) is None and (why := lacking(cell, how, full_length(cell, how)))
    }
    for name, why in lacks.items():
        if name in named or len(lacks) == len(cells):
            raise InputError(f"{name} can't be run: {why}")
    for name, why in lacks.items():
        tell(f"{name} is left out: {why}")
    return [cell for cell in cells if cell.name not in lacks]


def run_cells(
    paper: Paper, cells: Sequence[Cell], how: RunChoices, tell: Callable[[str], None], call: Callable[[Command], int]
) -> None:
    """Run the commands of these cells. tell: is given each as it is typed. call: runs one and returns its exit code.

    A budget that follows full KV's length has full KV run first, where that isn't known. Raises InputError for a command that
    fails, KeyboardInterrupt for one that was interrupted.
    """
    for cell in cells:
        if lacking(cell, how, full_length(cell, how)) and (first := _full_of(paper, cell)) is not None:
            _run(first, commands(first, how), tell, call)
        _run(cell, commands(cell, how, full_length(cell, how)), tell, call)


def _full_of(paper: Paper, cell: Cell) -> Cell | None:
    """The cell of full KV whose mean length sets this one's budget, where laconic measures it itself."""
    if not isinstance(cell, AccuracyCell) or cell.share is None or cell.benchmark.harness:
        return None
    return next(other for other in paper.cells if other.place == cell.place and other.name.endswith(f"/{BASELINE}"))


def _run(cell: Cell, found: Sequence[Command], tell: Callable[[str], None], call: Callable[[Command], int]) -> None:
    for command in found:
        tell(f"{cell.name}: {shown(command)}")
        code = call(command)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise InputError(
                f"{cell.name}: its command ended with exit code {code} and said why above; what it finished is kept, and the "
                "same command goes on from there"
            )


def call_command(command: Command) -> int:
    """Run a command with this Python; what it prints goes to stderr. Returns its exit code."""
    words = ["-m", *command] if command[0] == "laconic" else command[1:]
    process = subprocess.Popen([sys.executable, *words], stdout=2)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal has told the command as well
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
