"""A results file that survives an interruption: JSON lines, a header with the settings, then one record a line.

Records reach the disk before `append` returns. A run with other settings is refused before anything is written, so no
file ever mixes two. A last line cut short by a crash is dropped and counted in `torn`; what stands before it is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from laconic.errors import LaconicError

try:
    import fcntl
except ImportError:  # not on Windows: two runs on one file are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]
_START = b'{"kind": "header"'


class Journal:
    """Open (or create) a results file for one run; a context manager.

    path: the file; missing directories are made. format: name and version of the records' layout, such as
    "laconic.accuracy/1". settings: what must be equal for records to belong together; plain JSON values.

    records: what the file held when opened, without the header. torn: bytes dropped from a last line cut short.

    Raises LaconicError, naming what differs, if the file was made with another format or other settings; if it is no
    such file; if a line before the last is broken; if another run has it open.
    """

    def __init__(self, path: str | Path, format: str, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self.torn = 0
        header = {"kind": "header", "format": format, "settings": json.loads(json.dumps(dict(settings)))}
        if self.path.is_dir():
            raise LaconicError(f"The results file {self.path} is a directory; expected a file to write, name another.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115 (closed by __exit__)
        try:
            self._lock()
            self._open(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records and wait until the disk has them: one flush for all of them."""
        new = [dict(record) for record in records]
        if not new:
            return
        self._write(new)
        self.records.extend(new)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LaconicError(
                f"The results file {self.path} is in use by another run; wait for it, or name another file."
            ) from error

    def _open(self, header: Record) -> None:
        self._file.seek(0)
        data = self._file.read()
        lines, self.torn = split_lines(data, self.path)
        if not lines:
            if not data.startswith(_START[: len(data)]):
                raise LaconicError(f"{self.path} is not a results file; nothing was changed: name another file.")
            self._file.truncate(0)
            self._write([header])
            return
        check_header(lines[0], header, self.path)
        self.records = lines[1:]
        if self.torn:
            self._file.truncate(len(data) - self.torn)
        elif not data.endswith(b"\n"):
            self._file.write(b"\n")  # complete, only its line end is missing

    def _write(self, records: list[Record]) -> None:
        self._file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def split_lines(data: bytes, path: Path) -> tuple[list[Record], int]:
    """The records of a file, and how many bytes at its end are a line cut short.

    Raises LaconicError with the line's number for a broken line anywhere else.
    """
    records: list[Record] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        last = number == len(lines)  # nothing follows, not even a line end
        try:
            record = json.loads(line)
        except ValueError as error:  # broken JSON, or a character cut in two
            if last:
                return records, len(line)
            raise LaconicError(
                f"Line {number} of {path} is not JSON; expected one record a line: "
                "mend or remove that line, or name another file."
            ) from error
        if not isinstance(record, dict):
            raise LaconicError(f"Line {number} of {path} is not a JSON object; expected one record a line.")
        records.append(record)
    return records, 0


def check_header(found: Record, wanted: Record, path: Path) -> None:
    """Refuse a file whose first line is not the header of this very run, saying what differs."""
    if found.get("kind") != "header":
        raise LaconicError(
            f"{path} is not a results file (its first line is no header); nothing was changed: name another file."
        )
    if found.get("format") != wanted["format"]:
        raise LaconicError(
            f"{path} has the format {found.get('format')!r}, this run writes {wanted['format']!r}; "
            "nothing was changed: name another file."
        )
    differing = differences(found.get("settings"), wanted["settings"])
    if differing:
        told = "; ".join(f"{key} was {_short(old)}, now {_short(new)}" for key, old, new in differing)
        raise LaconicError(
            f"{path} was recorded with other settings ({told}); nothing was changed: "
            "use those settings to go on with it, or name another file."
        )


class _Missing:
    def __repr__(self) -> str:
        return "not set"


_MISSING = _Missing()


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}" if name else str(key)
            found += differences(old.get(key, _MISSING), new.get(key, _MISSING), inner)
        return found
    return [] if old == new and type(old) is type(new) else [(name or "settings", old, new)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
