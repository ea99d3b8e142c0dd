"""What vLLM's processes are started with: their variables, and a file for what they print, which keeps it out of our output.

Where a start fails, its reason is looked up in that file (`failures`).
"""

from __future__ import annotations

import contextlib
import logging
import os
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
"""Variables of vLLM's processes, where the user's environment does not set them otherwise."""

EAGER = {"TORCH_COMPILE_DISABLE": "1"}
"""Besides, where vLLM is told to compile nothing: some of its small functions would be all the same, for half a minute."""


@contextlib.contextmanager
def vllm_environment(eager: bool) -> Iterator[None]:
    """With ENVIRONMENT where nothing else is set; put back at the end, and what vLLM itself adds meanwhile goes too.

    eager: whether vLLM is told to compile nothing.
    """
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
def redirect_output(log: BinaryIO) -> Iterator[None]:
    """This process's stdout and stderr, and for good those of the processes started inside, go to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    # File descriptors, not sys.stdout: a child process inherits these.
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


def silence_logger() -> None:
    """vLLM's logger in this process is silent, unless the user's environment sets its level: failures are told by ours."""
    if "VLLM_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("vllm").setLevel(logging.CRITICAL)
