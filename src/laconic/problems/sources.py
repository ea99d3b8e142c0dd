"""Problem sets by name: the bundled generator, a JSON-lines file, a data set of the Hub, or a benchmark of the field."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.errors import InputError, reason
from laconic.jsonl import read_objects
from laconic.problems.base import Problem
from laconic.problems.benchmarks import BENCHMARKS, benchmark_problems, find_benchmark
from laconic.problems.generate import generate

BUNDLED = "bundled"
HUB = "hub:"
KNOWN = f"{BUNDLED}, a file of JSON lines, {HUB}NAME, or a benchmark ({', '.join(BENCHMARKS)}; NAME:FILE for its file)"
# What data sets call the two fields, in the order of preference; compared without regard to case.
QUESTIONS = ("question", "problem", "prompt")
ANSWERS = ("answer", "final_answer", "expected_answer", "target")
IDS = ("id", "unique_id", "problem_id")


def load_problems(
    source: str = BUNDLED, count: int | None = None, seed: int = 0, level: int | None = None, unanswered: bool = False
) -> list[Problem]:
    """The problems of a source, at most `count` of them (None: 200 generated ones, or all that the source has).

    source: `bundled` (held-out problems by seed and level), the path of a JSON-lines file, `hub:NAME`,
    `hub:NAME:SPLIT` (needs `datasets`, the extra `eval`; without SPLIT: `test`, or the only split there is), or a name
    in `benchmarks.BENCHMARKS`: alone, then from the Hub, or `NAME:FILE`, then from a file as its publishers have it. A record
    of a file or a data set without such a name has a question (`question`, `problem` or `prompt`), an answer (`answer`,
    `final_answer`, `expected_answer` or `target`; of one with a worked solution before `####`, what follows that), and may have
    an `id` and a `level`. seed: of the bundled problems, and of what a benchmark shuffles. unanswered: a record may lack the
    answer, or have an empty one; its problem then has none ("").

    Raises InputError for a missing or empty file, a broken line (by its number), a record without question or answer,
    a level for a source that has none, an unknown data set or split, or as `benchmark_problems`.
    """
    checks.text("source", source, KNOWN, some=True)
    if count is not None:
        count = checks.whole("The number of problems", count, 1)
    seed = checks.seed("seed", seed)
    unanswered = checks.flag("unanswered", unanswered)
    if source == BUNDLED:
        return generate(200 if count is None else count, seed, level)
    if level is not None:
        raise InputError(f"A level was given, but only the bundled problems have levels to choose, not {source}")
    named = find_benchmark(source)
    if named is not None:
        problems = benchmark_problems(named, seed)
    else:
        problems = (
            from_hub(source[len(HUB) :], unanswered) if source.startswith(HUB) else from_jsonl(source, unanswered)
        )
    return problems if count is None else problems[:count]


def from_jsonl(path: str | Path, unanswered: bool = False) -> list[Problem]:
    """The problems of a JSON-lines file; empty lines are skipped. unanswered, and what is raised: as `load_problems`."""
    path = checks.path("path", path)
    unanswered = checks.flag("unanswered", unanswered)
    if not path.is_file():
        raise InputError(f"There is no problem file {path}; expected {KNOWN}")
    found = read_objects(path, "problem", "a question and an answer")
    records = [(where, f"line-{number}", record) for number, where, record in found]
    return _problems(records, str(path), unanswered)


def from_hub(name: str, unanswered: bool = False) -> list[Problem]:
    """The problems of a Hub data set, `NAME` or `NAME:SPLIT`. unanswered, and what is raised: as `load_problems`."""
    name, _, split = name.partition(":")
    if not name:
        raise InputError(f"{HUB} lacks the data set's name; expected something like {HUB}HuggingFaceH4/MATH-500")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            "Data sets of the Hub need the package datasets: install laconic-llm[eval], or give a JSON-lines file"
        ) from error
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # whatever the Hub, the network or the data set's format raise
        raise InputError(f"The data set {name} can't be loaded from the Hub: {reason(error)}") from error
    splits = list(found)
    chosen = split or ("test" if "test" in splits else splits[0] if len(splits) == 1 else "")
    if chosen not in splits:
        raise InputError(
            f"The data set {name} has no split {chosen or 'test'!r}; its splits: {', '.join(splits)}. "
            f"Name one as {HUB}{name}:SPLIT"
        )
    rows = ((f"Row {i} of {name}:{chosen}", f"{chosen}-{i}", row) for i, row in enumerate(found[chosen]))
    return _problems(rows, name, unanswered)


def _problems(records: Iterable[tuple[str, str, Mapping[str, Any]]], source: str, unanswered: bool) -> list[Problem]:
    problems = [_problem(where, name, record, unanswered) for where, name, record in records]
    if not problems:
        raise InputError(f"{source} holds no problems; expected at least one")
    return problems


def _problem(where: str, name: str, record: Mapping[str, Any], unanswered: bool) -> Problem:
    fields = {str(key).lower(): value for key, value in record.items()}
    question = _field(fields, QUESTIONS, where, record)
    lacks = unanswered and all(fields.get(key) is None for key in ANSWERS)
    answer = "" if lacks else _field(fields, ANSWERS, where, record).rpartition("####")[2].strip()
    if not question or not (answer or unanswered):
        raise InputError(f"{where} has an empty {'answer' if question else 'question'}; expected a text")
    own = next((fields[key] for key in IDS if fields.get(key) not in (None, "")), name)
    level = fields.get("level", 0)
    return Problem(str(own), question, answer, level if checks.is_whole(level) and level >= 0 else 0)


def read_record(where: str, record: Mapping[str, Any]) -> Problem:
    """One record of a file, as `load_problems` reads it; it may lack an answer. where: how the record is called in an error."""
    return _problem(where, where, record, True)


def _field(fields: Mapping[str, Any], names: tuple[str, ...], where: str, record: Mapping[str, Any]) -> str:
    for name in names:
        value = fields.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value).strip()
    raise InputError(f"{where} has no {names[0]}; expected one of {', '.join(names)} among its fields {sorted(record)}")
