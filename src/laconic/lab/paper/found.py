"""Result directories of a paper's cells, from any number of machines: found by their places, and checked to belong together."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconic.errors import InputError
from laconic.journal import Record, differences, read_journal
from laconic.lab.paper.cells import Paper, TracesCell

RESULTS = {"accuracy": "traces.jsonl", "speed": "samples.jsonl", "votes": "results.jsonl", "judge": "results.json"}
"""By the first part of a place, the file that holds what was found there."""
CELL_PARTS = 4  # of the name of a cell that a harness scores: accuracy/MODEL/BENCHMARK/METHOD


@dataclass(slots=True)
class FoundResults:
    """What one directory holds. place: of the cell, or of the cells, that it is of."""

    directory: Path
    place: str
    settings: Record = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)


def find_score_files(roots: Sequence[Path], names: Collection[str]) -> dict[str, list[Path]]:
    """Files of results that a harness wrote below the places of cells of these names, by the name; each file once."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        for path in sorted(root.rglob("results_*.json")):
            own = path.resolve()
            within = {"/".join(own.parts[at : at + CELL_PARTS]) for at in range(len(own.parts) - CELL_PARTS)}
            for name in within & set(names):
                if own not in [other.resolve() for other in found.get(name, [])]:
                    found.setdefault(name, []).append(path)
    return found


def find_results(roots: Sequence[Path], paper: Paper, names: Collection[str] = ()) -> dict[str, list[Path]]:
    """The directories of results below the roots (or they themselves), by the cells' places; each directory once. names: of
    the cells that a harness scores, whose files (`find_score_files`) are results too.

    Raises InputError for a root that isn't there or holds no results, or results that lie in no cell's place.
    """
    places = {cell.place for cell in paper.cells if not isinstance(cell, TracesCell)}
    found: dict[str, list[Path]] = {}
    for root in roots:
        if not root.is_dir():
            raise InputError(
                f"There is no directory of results {root}; expected one that bench paper's commands filled"
            )
        directories = [path for path in sorted(_directories(root)) if set(RESULTS.values()) & set(os.listdir(path))]
        mine = len(find_score_files([root], names))
        for directory in directories:
            *_, kind, name, last = ("", "", "", *directory.resolve().parts)
            if RESULTS.get(kind) is None or not (directory / RESULTS[kind]).is_file():
                continue  # a table of merged results, say
            place = f"{kind}/{name}" if kind == "judge" else f"{kind}/{name}/{last}"
            if place not in places:
                raise InputError(
                    f"{directory} is in no place of {paper.title}'s cells; expected directories such as "
                    f"{min(places)}, as `laconic bench paper {paper.name}` names them"
                )
            mine += 1
            if directory.resolve() not in [other.resolve() for other in found.get(place, [])]:
                found.setdefault(place, []).append(directory)
        if not mine:
            raise InputError(
                f"{root} holds no results of {paper.title}; expected directories such as {min(places)} below it, as "
                f"`laconic bench paper {paper.name}` names them"
            )
    return found


def _directories(root: Path) -> list[Path]:
    return [root, *(path for path in root.rglob("*") if path.is_dir())]


def read_results(directory: Path, place: str, format: str) -> FoundResults:
    """A directory's journal. Raises InputError as `read_journal`."""
    settings, records = read_journal(directory / RESULTS[place.partition("/")[0]], format)
    return FoundResults(directory, place, settings, records)


def check_alike(
    found: Sequence[FoundResults], may_differ: Callable[[str], bool], implied: Mapping[str, Any] | None = None
) -> None:
    """InputError that names the settings in which two directories differ. may_differ: told the dotted key of one."""
    for other in found[1:]:
        first = found[0]
        mine, theirs = ({**(implied or {}), **each.settings} for each in (first, other))
        told = [
            f"{key} is {_short(old)} in the one and {_short(new)} in the other"
            for key, old, new in differences(mine, theirs)
            if not may_differ(key)
        ]
        if told:
            raise InputError(
                f"{first.directory} and {other.directory} can't be merged, as their settings differ: {'; '.join(told)}; leave "
                "one of them out, or run it again with the other's settings"
            )


def check_once(directories: Sequence[Path], name: str) -> Path:
    """The only directory of a cell that is measured in one piece. Raises InputError for several."""
    if len(directories) > 1:
        listed = " and ".join(map(str, directories))
        raise InputError(f"{listed} both hold {name}, which is measured in one piece; leave all but one out")
    return directories[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
