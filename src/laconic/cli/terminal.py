"""Standard output and standard error made safe for a command: closed ones, readers that went away, narrow encodings.

What a terminal's encoding can't show is shown by what comes nearest. Where nobody reads standard error any more, or it can't
be written, the command goes on in silence: what it says there is no result. Standard output is: a reader that went away
(`laconic policies | head`) ends the command, which is no error; one that can't be written (a full disk) is one.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from typing import Any, TextIO

from laconic.errors import InputError

ERRORS = "laconic.nearest"
# One character for one: a table's columns and a gauge keep their widths.
NEAREST = str.maketrans("·•…–—−━─│┃✓✗×→←≤≥≈Δ±“”‘’", "...---=-||+xx><<>~D~\"\"''")


class ReaderGone(BaseException):
    """Nobody reads standard output any more. Not an Exception: nothing on the way is to take it for a failure."""


def prepare() -> None:
    """For the process's whole life, once, before anything is printed."""
    codecs.register_error(ERRORS, _nearest)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _safe(sys.stdout, 1)  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = _safe(sys.stderr, 2)  # type: ignore[assignment, misc]


def flush() -> None:
    """Raises as writing to standard output does; nothing is then left for Python to flush when it ends."""
    if sys.stdout is not None:
        sys.stdout.flush()


def can_show(stream: Any, text: str) -> bool:
    """Whether a stream's encoding has all characters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class _Stream(io.FileIO):
    """The file descriptor of a standard stream. What can't be written goes nowhere, after it has been told once."""

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == 1:
                if isinstance(error, BrokenPipeError):
                    raise ReaderGone from None
                raise InputError(f"standard output can't be written: {error.strerror}") from error
        return len(data)


def _safe(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # closed by whoever started this (`>&-`): the next file that is opened must not become it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        return open(number, "w", encoding="utf-8", errors=ERRORS, closefd=False)
    raw = getattr(stream, "buffer", None)
    unbuffered = type(raw) is io.FileIO  # python -u
    raw = getattr(raw, "raw", raw)
    if type(raw) is not io.FileIO or not isinstance(stream, io.TextIOWrapper):  # a Windows console has its own
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors=ERRORS)  # type: ignore[attr-defined]
        return stream
    encoding, lines, name, fd = stream.encoding, stream.line_buffering, stream.name, raw.fileno()
    stream.detach()
    mine = _Stream(fd, "w", closefd=False)
    mine.name = name
    return io.TextIOWrapper(
        mine if unbuffered else io.BufferedWriter(mine),
        encoding=encoding,
        errors=ERRORS,
        line_buffering=lines or number == 2,
        write_through=unbuffered,
    )


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for character in error.object[error.start : error.end]:
        near = character.translate(NEAREST)
        if near == character:
            near = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()[:1] or "?"
        found.append(near)
    return "".join(found), error.end
