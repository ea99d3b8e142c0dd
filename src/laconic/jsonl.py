"""JSON lines of objects, read with an error that names the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laconic.errors import LaconicError


def read_objects(path: Path, noun: str, fields: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, "Line N of PATH", object) of every line that isn't empty.

    noun, fields: what a line should hold, for the error. Raises LaconicError for text that isn't UTF-8, a line that isn't
    JSON, or isn't an object. The caller has checked that the file exists.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LaconicError(f"{path} is not UTF-8 text; expected JSON lines with {fields}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {path}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise LaconicError(f"{where} is not JSON ({error.msg}); expected one {noun} a line.") from error
        if not isinstance(record, dict):
            raise LaconicError(f"{where} is not a JSON object; expected one with {fields}.")
        yield number, where, record
