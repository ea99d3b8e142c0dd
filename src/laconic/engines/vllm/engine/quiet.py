"""Starting vLLM without its output in ours: what its processes print goes to a file, where a failure's reason is found."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO

from laconic.engines.vllm.plugin.interrupts import STARTER

ENVIRONMENT = {
    # A forked process would inherit the parent's threads half way, and may hang in the first matrix product.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What vLLM's processes are started with, where the user's environment does not say otherwise."""

_ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Exception|Interrupt)): (\S.*)")
_HOLLOW = ("Engine core initialization failed", "WorkerProc initialization failed", "cancelled")
_MOST = 1 << 20  # of the log's end is searched


EAGER = {"TORCH_COMPILE_DISABLE": "1"}
"""Besides, where vLLM is told to compile nothing: some of its small functions would be all the same, for half a minute."""


@contextlib.contextmanager
def environment(eager: bool) -> Iterator[None]:
    """With ENVIRONMENT where nothing else is set; put back at the end, and what vLLM itself adds meanwhile goes too."""
    before = dict(os.environ)
    os.environ[STARTER] = str(os.getpid())
    for name, value in (ENVIRONMENT | EAGER if eager else ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def output_into(log: BinaryIO) -> Iterator[None]:
    """This process's stdout and stderr, and for good those of the processes started inside, go to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(fd, os.dup(fd)) for fd in (1, 2)]
    try:
        for fd, _ in kept:
            os.dup2(log.fileno(), fd)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, copy in kept:
            os.dup2(copy, fd)
            os.close(copy)


def hush() -> None:
    """vLLM's logger in this process is silent, unless the user's environment sets its level: failures are told by ours."""
    if "VLLM_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("vllm").setLevel(logging.CRITICAL)


def reason(error: BaseException, log: BinaryIO) -> str:
    """Why vLLM failed, in one sentence: its own words, from the log where the error itself only points there."""
    details = getattr(error, "errors", None)  # pydantic's, whose text is many lines
    if callable(details):
        with contextlib.suppress(Exception):
            first = details()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _plain(f"{where}: {first['msg']}" if where else str(first["msg"]).removeprefix("Value error, "))
    said = str(error).strip()
    if said and not any(hollow in said for hollow in _HOLLOW) and "(above)" not in said:
        return _plain(said)
    return last_error(log) or _plain(said or type(error).__name__)


def last_error(log: BinaryIO) -> str:
    """The latest error that the log tells a reason of; empty if none."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _MOST))
    text = log.read().decode(errors="replace")
    log.seek(0, os.SEEK_END)
    found = [match for match in _ERROR.finditer(text) if not any(hollow in match[2] for hollow in _HOLLOW)]
    return _plain(found[-1][2]) if found else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
