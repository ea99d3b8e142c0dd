"""Why vLLM failed, in one sentence, and of which kind: what the user can mend, what died, or a fault of ours.

vLLM's processes tell of their end in their output only, so the latest error there is looked up.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from laconic.errors import EngineError, InputError, LaconicError

_ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Exception|Interrupt)): (\S.*)")
_FRAME = re.compile(r'File "([^"]+)", line \d+')
# Errors that only say that another process has failed.
_HOLLOW = ("Engine core initialization failed", "WorkerProc initialization failed", "cancelled")
_SEARCHED = 1 << 20  # bytes of the log's end
_HOME = str(Path(__file__).parents[3]) + os.sep  # where laconic lies

_MENDABLE = frozenset(
    {
        "InputError",
        "ImportError",
        "MemoryError",
        "ModuleNotFoundError",
        "NotImplementedError",
        "OSError",
        "FileNotFoundError",
        "OutOfMemoryError",
        "TypeError",
        "VLLMClientError",
        "VLLMValidationError",
        "ValidationError",
        "ValueError",
    }
)
"""Classes by which vLLM and torch refuse a model, an argument or too little memory: another choice may do."""


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error in the output of vLLM's processes."""

    kind: str
    """Its class, without the module."""
    reason: str
    """Its message, on one line."""
    by_laconic: bool
    """Whether the line that raised it is laconic's."""


def start_error(error: Exception, log: BinaryIO, model: str) -> LaconicError | None:
    """What to raise for an error that ended vLLM's start.

    InputError where vLLM refused the model, an argument or the memory; EngineError where it died otherwise. None: `error`
    itself, which is a sentence already or a fault of ours.
    """
    if isinstance(error, LaconicError) or is_fault(error):
        return None
    logged = last_logged_error(log) if _is_hollow(error) else None
    if logged is None:
        mendable = any(cls.__name__ in _MENDABLE for cls in type(error).__mro__)
    else:
        mendable = logged.kind in _MENDABLE and (logged.kind == "InputError" or not logged.by_laconic)
    return (InputError if mendable else EngineError)(f"vLLM can't run {model}: {failure_reason(error, log)}")


def failure_reason(error: BaseException, log: BinaryIO) -> str:
    """Why vLLM failed, in one sentence: its own words, from the log where the error itself only points there."""
    details = getattr(error, "errors", None)  # pydantic's, whose text is many lines
    if callable(details):
        with contextlib.suppress(LookupError, TypeError):  # somebody else's `errors`, of another form
            first = details()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _on_one_line(
                f"{where}: {first['msg']}" if where else str(first["msg"]).removeprefix("Value error, ")
            )
    if not _is_hollow(error):
        return _on_one_line(str(error))
    logged = last_logged_error(log)
    return logged.reason if logged is not None else _on_one_line(str(error).strip() or type(error).__name__)


def last_logged_error(log: BinaryIO) -> LoggedError | None:
    """The latest error that the log tells a reason of; None: there is none."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _SEARCHED))
    text = log.read().decode(errors="replace")
    log.seek(0, os.SEEK_END)
    found = [match for match in _ERROR.finditer(text) if not any(hollow in match[2] for hollow in _HOLLOW)]
    if not found:
        return None
    frames = _FRAME.findall(text[: found[-1].start()])
    return LoggedError(found[-1][1], _on_one_line(found[-1][2]), bool(frames) and frames[-1].startswith(_HOME))


def is_fault(error: BaseException) -> bool:
    """Whether this is a fault of ours, which keeps its traceback: raised by laconic's own code rather than by what it called,
    and no sentence of laconic's or vLLM's. vLLM runs laconic's hooks inside its own calls."""
    if isinstance(error, LaconicError) or any(
        cls.__module__.partition(".")[0] == "vllm" for cls in type(error).__mro__
    ):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename.startswith(_HOME)


def _is_hollow(error: BaseException) -> bool:
    """Whether the error says no more than that the log tells why."""
    said = str(error).strip()
    return not said or "(above)" in said or any(hollow in said for hollow in _HOLLOW)


def _on_one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
