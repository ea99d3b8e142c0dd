"""Where the question of a command comes from, and whether the bundled reasoner can read it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconic import checks
from laconic.errors import InputError, LaconicError
from laconic.jsonl import NotJSONError, parse

if TYPE_CHECKING:
    from laconic.problems import Problem


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model; answer: the right one, None if unknown; source: where it came from, for the summary."""

    text: str
    answer: str | None = None
    source: str = "the command line"

    def __post_init__(self) -> None:
        checks.text("the problem", self.text)
        checks.text("its answer", self.answer or "")


def read_question(path: str) -> Question:
    """The question in a file, ``-`` for standard input: its whole text, or the first record of a ``.jsonl``.

    Raises InputError for a file that is no text, is empty, or whose first record has no question.
    """
    name = "standard input" if path == "-" else path
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is no UTF-8 text; give the problem as text or as JSON lines") from None
    if not text.strip():
        raise InputError(f"{name} is empty; expected a problem")
    if not path.endswith(".jsonl"):
        return Question(text.strip(), source=name)
    try:
        record = parse(next(line for line in text.split("\n") if line.strip()))
    except NotJSONError:
        record = None
    except LaconicError as error:
        raise InputError(f"the first line of {name} {error}") from None
    if not isinstance(record, dict):
        raise InputError(
            f'the first line of {name} is no problem; expected JSON such as {{"question": "...", "answer": "..."}}'
        )
    from laconic.problems.sources import read_record

    found = read_record(f"the first line of {name}", record)
    return Question(found.question, found.answer or None, name)


def _read_bytes(path: str) -> bytes:
    if path != "-":
        if Path(path).is_char_device():  # /dev/zero has no end
            raise InputError(f"{path} is a device; expected a file, or - for standard input")
        return Path(path).read_bytes()
    buffer = getattr(sys.stdin, "buffer", None)
    return buffer.read() if buffer is not None else sys.stdin.read().encode("utf-8", "surrogatepass")


def choose_question(
    problem: str | None, file: str | None, bundled: int | None, level: int | None, small: bool
) -> Question:
    """The one question that the arguments name. Raises InputError for two of them, or none for another model."""
    named = [
        name for name, value in (("PROBLEM", problem), ("--file", file), ("--bundled", bundled)) if value is not None
    ]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} each name a problem; give one of them")
    if level is not None and named and named != ["--bundled"]:
        raise InputError(
            f"--level {level} is for problems of the bundled set, but {named[0]} names another; leave it out"
        )
    if problem is not None:
        if not problem.strip():
            raise InputError("the problem is empty; give a question, --file or --bundled")
        return Question(problem.strip())
    if file is not None:
        return read_question(file)
    if bundled is None and not small:
        raise InputError("there is no problem; give one as the argument, or --file or --bundled")
    from laconic.problems import generate

    found = generate(1, seed=bundled or 0, level=level)[0]
    return Question(found.question, found.answer, f"the bundled set ({found.id})")


def check_vocabulary(tokenizer: Any, question: Question) -> None:
    """The bundled reasoner reads a notation of its own; a question in another would be a row of unknown tokens."""
    ids = tokenizer(question.text, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputError(
            "the bundled reasoner only reads the notation that `laconic problems` prints; give such a problem, or name "
            "another model with --model"
        )


def check_problems(tokenizer: Any, problems: Iterable[Problem]) -> None:
    """`check_vocabulary` of many, naming the problem."""
    for problem in problems:
        try:
            check_vocabulary(tokenizer, Question(problem.question))
        except LaconicError as error:
            raise InputError(f"problem {problem.id}: {error}") from None
