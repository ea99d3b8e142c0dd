"""JSON and JSON lines that others may have written, read with an error that names the place.

A file may begin with a byte order mark. What Python's own reader lets through, or fails on with an error of its own, is told
here: nesting without end, numbers of thousands of digits, and half characters (lone surrogates), which no tokenizer takes and
no UTF-8 file can hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laconic.checks import half_character
from laconic.errors import InputError, LaconicError

MOST_NESTED = 100
MARK = "\ufeff"
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class NotJSONError(InputError):
    """The message is "is not JSON"; reason: what Python says of it."""

    def __init__(self, reason: str) -> None:
        super().__init__("is not JSON")
        self.reason = reason


def parse(text: str | bytes) -> Any:
    """The value that a text of JSON holds. Raises InputError whose message follows a name, such as "is not JSON"."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise NotJSONError("not UTF-8 text") from None
    text = text.removeprefix(MARK)
    try:
        value = json.loads(text)
        nested = text.count("[") + text.count("{") > MOST_NESTED and _nested(value) > MOST_NESTED
    except json.JSONDecodeError as error:
        raise NotJSONError(error.msg) from None
    except RecursionError:
        nested = True
    except ValueError:  # Python's own limit
        raise InputError("has a number of thousands of digits; expected one that fits in 64 bits") from None
    if nested:
        raise InputError(f"is nested too deeply; expected at most {MOST_NESTED} levels")
    if _HALF.search(text):
        half = half_character(json.dumps(value, ensure_ascii=False))
        if half:
            raise InputError(f"holds a text that {half}")
    return value


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises InputError for another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises InputError, naming the file, for anything else."""
    try:
        value = parse(path.read_bytes())
    except LaconicError as error:
        reason = f" ({error.reason})" if isinstance(error, NotJSONError) else ""
        raise InputError(f"{path} {error}{reason}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def read_objects(
    path: Path, noun: str, fields: str, skip: Callable[[int, LaconicError], None] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, "Line N of PATH", object) of every line that isn't empty.

    noun, fields: what a line should hold, for the error. skip: called with a broken line's number and error; the line is then
    left out. Without it raises InputError for a line that isn't JSON (see the module for what else is wrong with one), or
    isn't an object; with or without, for text that isn't UTF-8. The caller has checked that the file exists.
    """
    try:
        lines = read_text(path).split("\n")
    except LaconicError as error:
        raise InputError(f"{error}; expected JSON lines with {fields}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {path}"
        try:
            record = _object(line, where, noun, fields)
        except LaconicError as error:
            if skip is None:
                raise
            skip(number, error)
            continue
        yield number, where, record


def _object(line: str, where: str, noun: str, fields: str) -> dict[str, Any]:
    try:
        record = parse(line)
    except NotJSONError as error:
        raise InputError(f"{where} is not JSON ({error.reason}); expected one {noun} a line") from error
    except LaconicError as error:
        raise InputError(f"{where} {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is not a JSON object; expected one with {fields}")
    return record


def _nested(value: Any) -> int:
    """How many levels of lists and objects, without recursion."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, (list, dict))]:
        depth += 1
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return depth
