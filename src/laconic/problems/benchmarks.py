r"""The benchmarks of the field by name: which data set, how it is put to a model, and what the right answer is.

docs/benchmarks.md has the table, and for every prompt whose convention it is. A prompt is the user's message; nothing stands
in a system message. Placeholders in braces are filled in one pass, so that a question may hold braces of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from laconic.errors import InputError, LaconicError
from laconic.problems.base import Problem
from laconic.problems.records import Located, file_records, hub_records

LETTERS = "ABCD"
BOXED = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
CHOICES = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
    "\n\n{question}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}"
)
CODE = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests.\n\nQuestion: {question}\n\n{program}"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within delimiters.\n"
    "```python\n{starter}\n```\n\n"
)
WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the inputs, "
    "runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
DIFFICULTIES = {"easy": 1, "medium": 2, "hard": 3}

_PLACE = re.compile(r"\{([A-Za-z]+)\}")


class PublishedRow:
    """One record as its publishers have it; names of columns are compared without regard to case."""

    def __init__(self, where: str, record: Mapping[str, Any]) -> None:
        self.where = where
        self._fields = {str(name).lower(): value for name, value in record.items()}

    def text(self, *names: str) -> str:
        """The first of these columns that there is, stripped. Raises InputError where it is empty or no text or number."""
        name = next(name for name in names if name.lower() in self._fields)
        value = self._fields[name.lower()]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
            raise InputError(
                f"{self.where} has a value of the type {type(value).__name__} as its {name}; expected a text"
            )
        if value is None or not str(value).strip():
            raise InputError(f"{self.where} has an empty {name}; expected a text")
        return str(value).strip()

    def may_have(self, *names: str) -> Any:
        """The first of these columns that holds something, as it came; None without one."""
        return next((v for name in names if (v := self._fields.get(name.lower())) not in (None, "")), None)


class AskedProblem(NamedTuple):
    """What becomes of a record."""

    question: str
    answer: str
    """"" where no reference answer can tell whether a text is right."""
    level: int = 0
    meta: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark."""

    name: str
    dataset: str
    """Its data set on the Hub."""
    config: str
    """"" for the only one there is."""
    split: str
    columns: tuple[tuple[str, ...], ...]
    """What a record needs: the publishers' own name of each column, then the names that others' copies give it."""
    prompt: str
    """What a run's settings say of how problems were asked, with the places of a record in braces."""
    read: Callable[[PublishedRow, int], AskedProblem]
    """From a record and a seed. Raises InputError for one that can't be of this benchmark."""
    ids: tuple[str, ...] = ()
    most: int = 0
    """Problems there are, where larger sets have the same columns; 0: any number."""
    shuffled: bool = False
    """Whether the seed changes what is asked."""
    harness: str = ""
    """What scores it, where no reference answer can; "" where one does."""


class BenchmarkSource(NamedTuple):
    """What `--source NAME` or `--source NAME:FILE` names."""

    benchmark: Benchmark
    file: Path | None = None
    """None: the data set of the Hub."""


def find_benchmark(source: str) -> BenchmarkSource | None:
    """The benchmark that a source names; None for any other. What exists as a file is that file, whatever it is called.

    Raises InputError for a name with a colon and no file after it.
    """
    name, colon, file = source.partition(":")
    if name not in BENCHMARKS or Path(source).is_file():
        return None
    if colon and not file:
        raise InputError(f"{source} lacks the file; expected {name} for the Hub's data set, or {name}:FILE")
    return BenchmarkSource(BENCHMARKS[name], Path(file) if file else None)


def benchmark_problems(source: BenchmarkSource, seed: int = 0) -> list[Problem]:
    """All problems of a benchmark, in its publishers' order. seed: of what is shuffled (choices), problem by problem.

    Raises InputError without the network or the package datasets; for columns or answers that are not this benchmark's, naming
    those expected and found; for a file as `records.file_records`; for more problems than there are, or none.
    """
    benchmark, path = source
    if path is None:
        place, records = _from_hub(benchmark)
    else:
        place, records = str(path), _checked(benchmark, file_records(path))
    problems = []
    for number, (where, record) in enumerate(records):
        row = PublishedRow(where, record)
        asked = benchmark.read(row, seed)
        own = row.may_have(*benchmark.ids)
        name = f"{benchmark.name}-{number}" if own is None else str(own).strip()
        problems.append(Problem(name, asked.question, asked.answer, asked.level, asked.meta))
    if not problems:
        raise InputError(f"{place} holds no problems; expected those of {benchmark.name}")
    if benchmark.most and len(problems) > benchmark.most:
        raise InputError(
            f"{place} holds {len(problems):,} problems, but {benchmark.name} has {benchmark.most}; expected those alone, not a "
            "larger set of the same form"
        )
    return problems


def _from_hub(benchmark: Benchmark) -> tuple[str, Iterable[Located]]:
    name, file = benchmark.name, f"its publishers' file as {benchmark.name}:FILE"
    try:
        columns, found = hub_records(benchmark.dataset, benchmark.config, benchmark.split)
    except ImportError as error:
        raise InputError(
            f"{name} comes from the Hub by the package datasets, which isn't installed: install laconic-llm[eval], or give "
            f"{file}"
        ) from error
    except LaconicError as error:
        raise InputError(
            f"{name} can't be loaded from the Hub ({benchmark.dataset}: {error}); that needs the network and laconic-llm[eval]"
            f", without them give {file}"
        ) from error
    if lacking := _lacking(benchmark, columns):
        raise InputError(
            f"The data set {benchmark.dataset} on the Hub has other columns than it had: expected "
            f"{_listed(_firsts(benchmark))}, found {_listed(sorted(columns))}, which lack {_listed(lacking)}; give {file}"
        )
    # Some hold megabytes of tests in columns that nothing here reads.
    read = {name.lower() for names in (*benchmark.columns, benchmark.ids, EXTRAS) for name in names}
    found = found.select_columns([column for column in columns if column.lower() in read])
    place = f"{benchmark.dataset}:{benchmark.split}"
    return place, ((f"Row {number} of {place}", record) for number, record in enumerate(found))


def _checked(benchmark: Benchmark, records: Iterable[Located]) -> Iterable[Located]:
    for where, record in records:
        if _lacking(benchmark, record):
            others = [other.name for other in BENCHMARKS.values() if not _lacking(other, record)]
            fits = f"; they would be those of {' or '.join(others)}" if others else ""
            raise InputError(
                f"{where} is not of {benchmark.name}: expected the columns {_listed(_firsts(benchmark))}, found "
                f"{_listed(sorted(map(str, record))) or 'none'}{fits}"
            )
        yield where, record


def _lacking(benchmark: Benchmark, columns: Iterable[Any]) -> list[str]:
    """The columns that a benchmark needs and that aren't there, as their publishers call them."""
    there = {str(column).lower() for column in columns}
    return [names[0] for names in benchmark.columns if not any(name.lower() in there for name in names)]


def _firsts(benchmark: Benchmark) -> list[str]:
    return [names[0] for names in benchmark.columns]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


# ---- how a record is put, and what its answer is ------------------------------------------------------------------------


def filled(template: str, **values: str) -> str:
    """A prompt's places filled in one pass."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def ask_boxed(question: str) -> str:
    """A question of mathematics; one that ends in the instruction already, as in copies that were made for a harness, gets no
    second one."""
    instruction = BOXED.removeprefix("{question}").strip()
    return filled(BOXED, question=question.removesuffix(instruction).rstrip())


def _aime(year: int) -> Callable[[PublishedRow, int], AskedProblem]:
    def read(row: PublishedRow, seed: int) -> AskedProblem:
        told = row.may_have("year")
        if told is not None and str(told).strip() != str(year):
            raise InputError(
                f"{row.where} is of the year {told}; expected {year}: aime24 and aime25 are sets of their own"
            )
        answer = row.text("answer")
        if not re.fullmatch(r"\d{1,3}(\.0+)?", answer):
            raise InputError(
                f"{row.where} has the answer {answer[:40]!r}; expected a whole number from 0 to 999, as AIME has"
            )
        return AskedProblem(ask_boxed(row.text(*_QUESTION)), str(int(float(answer))))

    return read


def _gpqa(row: PublishedRow, seed: int) -> AskedProblem:
    question, right = row.text("Question"), row.text("Correct Answer")
    choices = [right, *(row.text(f"Incorrect Answer {number}") for number in (1, 2, 3))]
    order = shuffled_order(question, len(choices), seed)
    places = dict(zip(LETTERS, (choices[index] for index in order), strict=True))
    asked = filled(CHOICES, question=question, **places)
    return AskedProblem(asked, LETTERS[order.index(0)], meta={"subject": str(row.may_have("High-level domain") or "")})


def shuffled_order(question: str, count: int, seed: int) -> list[int]:
    """The numbers below count in an order that depends on the seed and the question alone, not on other questions."""

    def key(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{index}/{question}".encode(), digest_size=16).digest()

    return sorted(range(count), key=key)


def _math500(row: PublishedRow, seed: int) -> AskedProblem:
    level = row.may_have("level")
    number = re.fullmatch(r"(?:Level )?([1-5])", str(level).strip())
    return AskedProblem(
        ask_boxed(row.text(*_QUESTION)),
        row.text("answer"),
        int(number[1]) if number else 0,
        {"subject": str(row.may_have("subject") or "")},
    )


def _gsm8k(row: PublishedRow, seed: int) -> AskedProblem:
    """The gold is what follows ####, without the commas of thousands; copies have it alone."""
    solution = row.text("answer")
    answer = solution.rpartition("####")[2].strip().replace(",", "")
    if not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        raise InputError(f"{row.where} has the answer {solution[-40:]!r}; expected one that ends in #### and a number")
    return AskedProblem(ask_boxed(row.text("question")), answer)


def _ifeval(row: PublishedRow, seed: int) -> AskedProblem:
    return AskedProblem(row.text("prompt"), "")


def _livecodebench(row: PublishedRow, seed: int) -> AskedProblem:
    starter = str(row.may_have("starter_code") or "")
    program = filled(WITH_STARTER, starter=starter) if starter.strip() else WITHOUT_STARTER
    difficulty = str(row.may_have("difficulty") or "").lower()
    asked = filled(CODE, question=row.text("question_content"), program=program)
    date = str(row.may_have("contest_date") or "")
    return AskedProblem(asked, "", DIFFICULTIES.get(difficulty, 0), {"difficulty": difficulty, "contest_date": date})


_QUESTION = ("problem", "question", "prompt")
EXTRAS = ("year", "High-level domain", "starter_code", "difficulty", "contest_date")
"""Columns that are read where they are there."""
_MATHS = (_QUESTION, ("answer",))

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("aime24", "HuggingFaceH4/aime_2024", "", "train", _MATHS, BOXED, _aime(2024), ids=("id",), most=30),
        Benchmark("aime25", "math-ai/aime25", "", "test", _MATHS, BOXED, _aime(2025), ids=("id",), most=30),
        Benchmark(
            "gpqa-diamond",
            "Idavidrein/gpqa",
            "gpqa_diamond",
            "train",
            (
                ("Question",),
                ("Correct Answer",),
                ("Incorrect Answer 1",),
                ("Incorrect Answer 2",),
                ("Incorrect Answer 3",),
            ),
            CHOICES,
            _gpqa,
            ids=("Record ID",),
            most=198,
            shuffled=True,
        ),
        Benchmark(
            "math500",
            "HuggingFaceH4/MATH-500",
            "",
            "test",
            (*_MATHS, ("subject",), ("level",)),
            BOXED,
            _math500,
            ids=("unique_id", "id"),
            most=500,
        ),
        Benchmark("gsm8k", "openai/gsm8k", "main", "test", (("question",), ("answer",)), BOXED, _gsm8k, ids=("id",)),
        Benchmark(
            "ifeval",
            "google/IFEval",
            "",
            "train",
            (("prompt",), ("instruction_id_list",), ("kwargs",)),
            "{question}",
            _ifeval,
            ids=("key",),
            harness="lm-eval's task ifeval, which `python -m laconic.lab.lm_eval` runs",
        ),
        Benchmark(
            "livecodebench",
            "lighteval/code_generation_lite",
            "release_v5",
            "test",
            (("question_content",), ("question_id",), ("starter_code",)),
            filled(CODE, program=f"{WITH_STARTER.rstrip()}\n| {WITHOUT_STARTER.rstrip()}"),
            _livecodebench,
            ids=("question_id",),
            harness="lighteval's task lcb:codegeneration_release_v5, which can ask `laconic serve`",
        ),
    )
}
