"""Traces to look at: from a JSON-lines file, grouped by what made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.errors import InputError, LaconicError
from laconic.jsonl import read_objects
from laconic.traces import MAX_TOKEN_ID

PROBLEMS = ("problem", "question")  # the field that says which problem a trace is of; the first present counts
GROUPS = ("row", "policy", "group")  # the field that says which policy or model a trace is of; the first present counts
ALL = "all"

Tokenize = Callable[[str], Sequence[int]]
Detokenize = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class WrittenTrace:
    """One generation. token_ids: without the prompt. text: empty where only ids are known. group: what made it. problem:
    what it solves, None where nobody says."""

    token_ids: tuple[int, ...]
    text: str = ""
    group: str = ALL
    problem: str | None = None


def read_traces(
    path: str | Path,
    tokenize: Tokenize | None = None,
    detokenize: Detokenize | None = None,
    skip: Callable[[str], None] | None = None,
) -> list[WrittenTrace]:
    """The traces of a JSON-lines file: records with `token_ids`, or with `text` (which then needs `tokenize`).

    A field `row`, `policy` or `group` groups them; `problem` or `question` says which problem each is of. Results files of
    `bench accuracy --keep-tokens` are read as they are: their other kinds of record are passed over. detokenize: gives the
    text of traces that have only ids. skip: is told a clause on every line that is broken or no trace, beginning with its
    number; the line is then passed over.

    Raises InputError for a missing file, one without a trace, texts without `tokenize`; without `skip` also for a broken
    line (by its number), or a record that is no trace.
    """
    path = checks.path("path", path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; expected JSON lines with token_ids or text")
    broken: list[str] = []

    def passed(number: int, error: LaconicError) -> None:
        reason = str(error).removeprefix(f"Line {number} of {path} ").rstrip(".")
        broken.append(f"line {number} {reason}")
        assert skip is not None
        skip(broken[-1])

    traces = []
    for number, where, record in read_objects(path, "trace", "token_ids or text", passed if skip else None):
        if record.get("kind", "trace") != "trace":
            continue
        try:
            traces.append(_trace(record, where, tokenize, detokenize))
        except NoTokenizer:  # not the line's fault
            raise
        except LaconicError as error:
            if skip is None:
                raise
            passed(number, error)
    if not traces:
        why = f" ({'; '.join(broken[:3])})" if broken else ""
        raise InputError(f"{path} holds no traces{why}; expected records with token_ids or text")
    return traces


class NoTokenizer(InputError):
    """A trace is text alone, and nothing says how it is cut into tokens."""


def _trace(
    record: dict[str, Any], where: str, tokenize: Tokenize | None, detokenize: Detokenize | None
) -> WrittenTrace:
    group = next((str(record[name]) for name in GROUPS if record.get(name) is not None), ALL)
    text = record.get("text", "")
    if not isinstance(text, str):
        raise InputError(f"{where} has a text that is no string")
    ids = record.get("token_ids")
    if ids is None:
        if not text:
            raise InputError(
                f"{where} has neither token_ids nor text; bench accuracy writes token_ids with --keep-tokens"
            )
        if tokenize is None:
            raise NoTokenizer(f"{where} has text but no token_ids; say with --tokenizer how it is cut into tokens")
        ids = tokenize(text)
    if not isinstance(ids, Sequence) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{where} has token_ids that are no list of whole numbers")
    if ids and not 0 <= min(ids) <= max(ids) <= MAX_TOKEN_ID:
        raise InputError(f"{where} has token_ids out of range; expected 0 to {MAX_TOKEN_ID}")
    if not text and detokenize is not None:
        text = detokenize(ids)
    problem = next((str(record[name]) for name in PROBLEMS if record.get(name) is not None), None)
    return WrittenTrace(tuple(ids), text, group, problem)
