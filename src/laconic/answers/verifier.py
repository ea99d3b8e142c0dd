"""``python -m laconic.answers.verifier``: the other end of `laconic.answers.worker`. Imports math-verify; no torch.

Reads JSON lines ``[cpu_seconds, a, b]``, writes for each ``1``, ``0``, or ``?`` (it failed). Says ``ready`` first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_BYTES = 4 << 30  # of address space


def main() -> None:
    # What a library prints must not end up among the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable()
    _limit_memory()
    try:
        agree = _load()
    except ImportError as error:
        replies.write(f"{error}\n".encode())
        return
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        seconds, a, b = json.loads(line)
        _limit_time(seconds)
        try:
            reply = b"1\n" if agree(a, b) else b"0\n"
        except Exception:
            reply = b"?\n"
        _limit_time(0)
        replies.write(reply)


def _load() -> Callable[[str, str], bool]:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy.core.random import seed

    # units: ours, see units.py. No other ways to find an answer than the box around it: from a formula that it can't parse,
    # math-verify would take the last number.
    config = LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="all"),
    )

    @lru_cache(maxsize=1024)
    def read(answer: str) -> list[Any]:
        return parse(rf"\boxed{{{answer}}}", [config], parsing_timeout=None)

    def says(a: str, b: str) -> bool:
        # "1 < x < 2" and "(1, 2)" are the same whichever comes first.
        return verify(read(a), read(b), timeout_seconds=None, allow_set_relation_comp=True)

    def agree(a: str, b: str) -> bool:
        # sympy tests some expressions at random points; each pair gets the same ones.
        seed(0)
        random.seed(0)
        return says(a, b) and says(b, a)

    return agree


def _limit_time(seconds: float) -> None:
    """The kernel ends this process after that much computing, in C code too. 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
