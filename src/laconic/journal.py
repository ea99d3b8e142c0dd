"""A results file that survives an interruption: JSON lines, a header with the settings, then one record a line.

Records reach the disk before `append` returns. A run with other settings is refused before anything is written, so no
file ever mixes two; the header comes with the first record, so a run that is refused itself leaves nothing that would refuse
the next. A last line cut short by a crash is dropped and counted in `torn`; what stands before it is kept. A disk that fills
up leaves whole records only, and a sentence; so does a file that is removed while it is written to.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from laconic.errors import InputError, LaconicError
from laconic.files import is_still_at, open_locked, write_error
from laconic.jsonl import parse

Record = dict[str, Any]
_START = b'{"kind": "header"'


class Journal:
    """Open (or create) a results file for one run; a context manager.

    path: the file; missing directories are made. format: name and version of the records' layout, such as
    "laconic.accuracy/1". settings: what must be equal for records to belong together; plain JSON values. remember: what
    to keep in memory of each record, for files that are larger than that should be (None: all of it); a record for which it
    raises InputError counts as broken. skip_broken: go on past a broken line instead of refusing the file. may_grow: told
    the dotted key of a setting that differs, and whether one side lacks it; True if records belong together all the same,
    because each of them says what it is of. implied: settings that files of earlier versions don't name, as those had them.

    records: what the file held when opened and what was appended since, without the header. torn: bytes dropped from a
    last line cut short. broken: the other broken lines, one clause each that begins with the line's number.

    Raises InputError, naming what differs, if the file was made with another format or other settings; if it is no
    such file; if a line before the last is broken and skip_broken is not set; if another run has it open; if the path is a
    directory, a device or a pipe.
    """

    def __init__(
        self,
        path: str | Path,
        format: str,
        settings: Mapping[str, Any],
        *,
        remember: Callable[[Record], Record] | None = None,
        skip_broken: bool = False,
        may_grow: Callable[[str, bool], bool] | None = None,
        implied: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self.torn = 0
        self.broken: list[str] = []
        self._remember = remember or (lambda record: record)
        header = {"kind": "header", "format": format, "settings": json.loads(json.dumps(dict(settings)))}
        self._header: Record | None = header  # until it is written
        self._implied = dict(implied or {})
        self._gone = False
        self._new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_locked(self.path)
        try:
            self._open(header, skip_broken, may_grow)
        except BaseException:
            self.close()
            raise

    def append(self, records: Iterable[Mapping[str, Any]], sync: bool = True) -> None:
        """Write records: one write and one flush for all of them.

        sync: wait until the disk has them. Without it they outlive this process, whatever ends it, but not a loss of
        power before the next `sync`. Raises InputError if the disk is full, the file then ends with a whole record; and if
        the file was removed meanwhile, it is then put back.
        """
        new = [dict(record) for record in records]
        if not new:
            return
        try:
            self._write(new if self._header is None else [self._header, *new])
        finally:
            if os.fstat(self._file.fileno()).st_size:
                self._header = None
        self.records.extend(self._remember(record) for record in new)
        self._check_there()
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until the disk has what was appended."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Let go of the file; one that was made for this run and got no record is removed."""
        empty = not self._file.closed and not os.fstat(self._file.fileno()).st_size
        if self._new and empty and is_still_at(self._file, self.path):
            self.path.unlink()
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.records and error is None:
                self._check_there()
        finally:
            self.close()

    def _check_there(self) -> None:
        """Without this a run would go on for hours, writing into a file that has no name any more."""
        if self._gone or is_still_at(self._file, self.path):
            return
        self._gone = True
        place, number = self.path, 1
        while place.exists():
            place, number = self.path.with_name(f"{self.path.name}.saved-{number}"), number + 1
        place.parent.mkdir(parents=True, exist_ok=True)
        self._file.seek(0)
        with open(place, "xb") as copy:
            shutil.copyfileobj(self._file, copy)
        again = "it has been put back, so the same command goes on from there"
        raise InputError(
            f"{self.path} was removed while this run was writing to it; "
            + (again if place == self.path else f"another file stands there, and what it held is now in {place}")
            + ""
        )

    def _open(self, header: Record, skip_broken: bool, may_grow: Callable[[str, bool], bool] | None) -> None:
        self._file.seek(0)
        size = os.fstat(self._file.fileno()).st_size
        found, whole, other = False, True, None
        with open(self._file.fileno(), "rb", closefd=False) as reader:
            for number, line, record, problem in read_lines(reader):
                whole = line.endswith(b"\n")
                if problem and not whole:  # nothing follows, not even a line end: a write cut short
                    self.torn = len(line)
                    break
                if other is not None:
                    raise other
                if not problem and found:
                    try:
                        self.records.append(self._remember(record))
                    except LaconicError as error:
                        problem = f"is no record of its kind ({error})"
                elif not problem:
                    other = check_header(record, header, self.path, may_grow, self._implied)
                    found = True
                if problem and not (skip_broken and found):
                    raise InputError(
                        f"Line {number} of {self.path} {problem}; expected one record a line: "
                        "mend or remove that line, or name another file"
                    )
                if problem:
                    self.broken.append(f"line {number} {problem}")
        if not found:
            self._file.seek(0)
            start = self._file.read(len(_START)) or b""
            if not start.startswith(_START[: len(start)]):
                raise InputError(f"{self.path} is not a results file; nothing was changed: name another file")
        if not found or other is not None:  # nothing but a header, or not even that: there is nothing to lose
            self._file.truncate(0)
            return
        self._header = None
        if self.torn:
            self._file.truncate(size - self.torn)
        elif not whole:
            self._write_bytes(b"\n")  # complete, only its line end is missing

    def _write(self, records: list[Record]) -> None:
        self._write_bytes("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())

    def _write_bytes(self, data: bytes) -> None:
        start = os.fstat(self._file.fileno()).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except BaseException as error:
            # What reached the file of whole lines stays; the rest of the last one goes, so that no line is ever half.
            self._file.truncate(start + data.rfind(b"\n", 0, len(data) - len(left)) + 1)
            raise self._told(error) if isinstance(error, OSError) else error from None

    def _told(self, error: OSError) -> Exception:
        rest = "what is finished is in it: make room and run the same command again, which goes on from there"
        return write_error(error, self.path, rest)


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, Record, str]]:
    """(line number, line, record, what is wrong with it or "") of every line that isn't blank, one in memory at a time."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = parse(line)
        except LaconicError as error:
            yield number, line, {}, str(error)
            continue
        if isinstance(record, dict):
            yield number, line, record, ""
        else:
            yield number, line, {}, "is not a JSON object"


def read_journal(path: Path, format: str) -> tuple[Record, list[Record]]:
    """The settings and the records of a results file that nobody writes to; a last line cut short is passed over.

    Raises InputError for a file of another format, and for any other broken line.
    """
    settings: Record | None = None
    records: list[Record] = []
    with open(path, "rb") as reader:
        for number, line, record, problem in read_lines(reader):
            if problem and not line.endswith(b"\n"):
                break
            if problem:
                raise InputError(
                    f"Line {number} of {path} {problem}; expected one record a line: mend or remove that line"
                )
            if settings is not None:
                records.append(record)
                continue
            if record.get("kind") != "header" or record.get("format") != format:
                raise InputError(f"{path} does not begin as a results file of {format}; leave its directory out")
            settings = dict(record["settings"])
    if settings is None:
        raise InputError(f"{path} holds no results; leave its directory out, or run its command again")
    return settings, records


def check_header(
    found: Record,
    wanted: Record,
    path: Path,
    may_grow: Callable[[str, bool], bool] | None = None,
    implied: Mapping[str, Any] | None = None,
) -> LaconicError | None:
    """Refuse a file whose first line is not a header of this kind. Returns what is to be said of one with other settings."""
    if found.get("kind") != "header":
        raise InputError(
            f"{path} is not a results file (its first line is no header); nothing was changed: name another file"
        )
    if found.get("format") != wanted["format"]:
        raise InputError(
            f"{path} has the format {found.get('format')!r}, this run writes {wanted['format']!r}; "
            "nothing was changed: name another file"
        )
    settings = found.get("settings")
    if isinstance(settings, dict):
        settings = {**(implied or {}), **settings}
    differing = [
        (key, old, new)
        for key, old, new in differences(settings, wanted["settings"])
        if may_grow is None or not may_grow(key, _MISSING in (old, new))
    ]
    if not differing:
        return None
    listed = "; ".join(f"{key} was {_short(old)}, now {_short(new)}" for key, old, new in differing)
    return InputError(
        f"{path} was recorded with other settings ({listed}); nothing was changed: "
        "use those settings to go on with it, or name another file"
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
