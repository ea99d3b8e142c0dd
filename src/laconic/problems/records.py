"""Records of a published table: a file of JSON lines, a JSON array, CSV or Parquet, or a data set of the Hub."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.errors import InputError, LaconicError, reason
from laconic.jsonl import MARK, NotJSONError, parse, read_objects, read_text

Located = tuple[str, Mapping[str, Any]]
"""Where a record stands, as a sentence begins ("Line 3 of FILE"), and the record."""
FORMS = "JSON lines, a JSON array of objects, .csv or .parquet"


def file_records(path: Path) -> Iterator[Located]:
    """The records of a file, by its suffix for CSV and Parquet, else by its first character for a JSON array or JSON lines.

    Raises InputError for a file that does not exist, isn't of its form, or needs the package pyarrow where that is missing.
    """
    if not path.is_file():
        raise InputError(f"There is no problem file {path}; expected {FORMS}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix == ".csv":
        return _csv(path)
    with open(path, "rb") as file:
        start = file.read(4096).removeprefix(MARK.encode()).lstrip()
    if start.startswith(b"["):
        return _array(path)
    return ((where, record) for _, where, record in read_objects(path, "problem", "the publishers' columns"))


def hub_records(name: str, config: str, split: str) -> tuple[list[str], Any]:
    """(names of the columns, the data set) of a split on the Hub.

    Raises ImportError without the package datasets, and InputError with nothing but the reason for whatever the Hub, the
    network or the data set's format raise.
    """
    datasets = importlib.import_module("datasets")
    try:
        found = datasets.load_dataset(name, config, split=split) if config else datasets.load_dataset(name, split=split)
    except Exception as error:
        raise InputError(reason(error)) from error
    return list(found.column_names), found


def _array(path: Path) -> Iterator[Located]:
    try:
        found = parse(read_text(path))
    except LaconicError as error:
        why = f" ({error.reason})" if isinstance(error, NotJSONError) else ""
        raise InputError(f"{path} {error}{why}; expected {FORMS}") from None
    for number, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise InputError(f"Item {number} of {path} is not a JSON object; expected one with the publishers' columns")
        yield f"Item {number} of {path}", record


def _csv(path: Path) -> Iterator[Located]:
    try:
        for number, record in enumerate(csv.DictReader(io.StringIO(read_text(path)), strict=True), start=1):
            yield f"Row {number} of {path}", {name: value for name, value in record.items() if name is not None}
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({reason(error)}); expected {FORMS}") from error


def _parquet(path: Path) -> Iterator[Located]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            f"{path} is Parquet, which needs the package pyarrow: install laconic-llm[eval], or give JSON lines"
        ) from error
    try:
        rows: Sequence[Mapping[str, Any]] = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises kinds of its own
        raise InputError(f"{path} can't be read as Parquet: {reason(error)}") from error
    for number, record in enumerate(rows, start=1):
        yield f"Row {number} of {path}", record
