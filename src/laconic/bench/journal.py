"""A results file that survives an interruption: JSON lines, a header with the settings, then one record a line.

Records reach the disk before `append` returns. A run with other settings is refused before anything is written, so no
file ever mixes two. A last line cut short by a crash is dropped and counted in `torn`; what stands before it is kept. A
disk that fills up leaves whole records only, and a sentence.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from laconic.errors import LaconicError

try:
    import fcntl
except ImportError:  # not on Windows: two runs on one file are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]
_START = b'{"kind": "header"'
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """Open (or create) a results file for one run; a context manager.

    path: the file; missing directories are made. format: name and version of the records' layout, such as
    "laconic.accuracy/1". settings: what must be equal for records to belong together; plain JSON values. remember: what
    to keep in memory of each record, for files that are larger than that should be (None: all of it); a record for which it
    raises LaconicError counts as broken. skip_broken: go on past a broken line instead of refusing the file.

    records: what the file held when opened and what was appended since, without the header. torn: bytes dropped from a
    last line cut short. broken: the other broken lines, one clause each that begins with the line's number.

    Raises LaconicError, naming what differs, if the file was made with another format or other settings; if it is no
    such file; if a line before the last is broken and skip_broken is not set; if another run has it open.
    """

    def __init__(
        self,
        path: str | Path,
        format: str,
        settings: Mapping[str, Any],
        *,
        remember: Callable[[Record], Record] | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self.torn = 0
        self.broken: list[str] = []
        self._remember = remember or (lambda record: record)
        header = {"kind": "header", "format": format, "settings": json.loads(json.dumps(dict(settings)))}
        if self.path.is_dir():
            raise LaconicError(f"The results file {self.path} is a directory; expected a file to write, name another.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 (closed by __exit__)
        try:
            self._lock()
            self._open(header, skip_broken)
        except BaseException:
            self._file.close()
            raise

    def append(self, records: Iterable[Mapping[str, Any]], sync: bool = True) -> None:
        """Write records: one write and one flush for all of them.

        sync: wait until the disk has them. Without it they outlive this process, whatever ends it, but not a loss of
        power before the next `sync`. Raises LaconicError if the disk is full; the file then ends with a whole record.
        """
        new = [dict(record) for record in records]
        if not new:
            return
        self._write(new)
        self.records.extend(self._remember(record) for record in new)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Wait until the disk has what was appended."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._told(error) from error

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

    def _open(self, header: Record, skip_broken: bool) -> None:
        self._file.seek(0)
        size = os.fstat(self._file.fileno()).st_size
        found, whole = False, True
        with open(self._file.fileno(), "rb", closefd=False) as reader:
            for number, line, record, problem in read_lines(reader):
                whole = line.endswith(b"\n")
                if problem and not whole:  # nothing follows, not even a line end: a write cut short
                    self.torn = len(line)
                    break
                if not problem and found:
                    try:
                        self.records.append(self._remember(record))
                    except LaconicError as error:
                        problem = f"is no record of its kind ({error})"
                elif not problem:
                    check_header(record, header, self.path)
                    found = True
                if problem and not (skip_broken and found):
                    raise LaconicError(
                        f"Line {number} of {self.path} {problem}; expected one record a line: "
                        "mend or remove that line, or name another file."
                    )
                if problem:
                    self.broken.append(f"line {number} {problem}")
        if not found:
            self._file.seek(0)
            start = self._file.read(len(_START)) or b""
            if not start.startswith(_START[: len(start)]):
                raise LaconicError(f"{self.path} is not a results file; nothing was changed: name another file.")
            self._file.truncate(0)
            self._write([header])
            self.sync()
        elif self.torn:
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
        """A full disk as a sentence; any other error with the path it is about."""
        if error.errno in _NO_ROOM:
            return LaconicError(
                f"There is no room left to write {self.path} ({error.strerror}); what is finished is in it: make room and "
                "run the same command again, which goes on from there."
            )
        return OSError(error.errno, error.strerror, str(self.path))


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes, Record, str]]:
    """(line number, line, record, what is wrong with it or "") of every line that isn't blank, one in memory at a time."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:  # broken JSON, or a character cut in two
            yield number, line, {}, "is not JSON"
            continue
        if isinstance(record, dict):
            yield number, line, record, ""
        else:
            yield number, line, {}, "is not a JSON object"


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
