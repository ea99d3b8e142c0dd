"""Files that a run writes: refused before the work where they can't be, held by one run at a time, replaced whole.

A disk that fills up is told in a sentence, and leaves what stood there before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from laconic.errors import InputError, LaconicError

try:
    import fcntl
except ImportError:  # not on Windows: two runs on one file are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = ".lock"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular(path: Path, what: str = "") -> None:
    """Refuse what stands at a path and is no regular file: a pipe would wait for a reader, a device swallow or never end.

    what: what is written, for the message.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            purpose = f" for {what}" if what else " to write"
            raise InputError(f"{path} is {kind}; expected the name of a file{purpose}")


def open_locked(path: Path) -> IO[bytes]:
    """The file at a path, made if need be, for reading and appending, unbuffered, and nobody else's until it is closed.

    Raises InputError for one that another run has open, or that is no regular file.
    """
    while True:
        check_regular(path)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 (the caller's to close)
        try:
            _lock(file, path)
            if is_still_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # removed by the run that had it until now


def is_still_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        raise InputError(f"{path} is in use by another run; wait for it, or name another") from error


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """One run at a time in a directory, which is made if need be. Raises InputError where another run works in it."""
    new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    try:
        file = open_locked(path)
    except LaconicError as error:
        raise InputError(str(error).replace(str(path), str(directory))) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_still_at(file, path):
                path.unlink()
            if new:  # and nothing came of it: a directory that is not empty stays
                directory.rmdir()
        file.close()


def write_text(path: Path, text: str) -> None:
    """The file's new text, in UTF-8; see `replace_file`."""
    replace_file(path, lambda new: new.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """A file written whole or not at all: `write` is given another name in the same directory, which then takes its place.

    Missing directories are made. Raises InputError for a path that holds no regular file, and for a full disk.
    """
    path = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    check_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if path.exists() and not os.access(path.parent, os.W_OK):  # no room for another name: as best it can be done
        with name_write_errors(path):
            write(path)
        return
    new = path.with_name(f".{path.stem[:100]}.{os.getpid()}.new{path.suffix}")
    try:
        with name_write_errors(path):
            write(new)
            if path.exists():
                os.chmod(new, stat.S_IMODE(path.stat().st_mode))
            os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def name_write_errors(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Around what writes a file or a directory: a full disk becomes a sentence, another error of the system names the path.

    others: what libraries raise in place of the system's error (torch a RuntimeError); told with their first line.
    """
    try:
        yield
    except OSError as error:
        raise write_error(error, path) from error
    except others as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} can't be written ({reason[:200]}); most often there is no room left: make room and run the same "
            "command again"
        ) from error


def write_error(error: OSError, path: Path, rest: str = "make room and run the same command again") -> Exception:
    """A full disk as a sentence; any other error with the path it is about."""
    if error.errno in NO_ROOM:
        return InputError(f"There is no room left to write {path} ({error.strerror}); {rest}")
    if error.errno is None:
        return error
    return OSError(error.errno, error.strerror, str(path))
