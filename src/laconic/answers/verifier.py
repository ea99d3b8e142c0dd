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
    from math_verify import LatexExtractionConfig, grader, parse, parser, verify
    from sympy import I, S
    from sympy.core.random import seed

    numeric_eq = grader.sympy_numeric_eq

    def close(a: Any, b: Any, *rounding: int) -> bool:
        return bool(numeric_eq(a, b, *rounding)) and _near(a, b)

    # math-verify calls all numbers below 10^-15 equal, and a float's neighbours to 6 decimals, however small they are.
    grader.sympy_numeric_eq = close
    # It takes i for a number that isn't real where it stands alone ("\\sqrt{3}i"), for a real one elsewhere ("2i"), and with
    # it every other letter. Here all letters are real, and i is the imaginary unit.
    parser.should_treat_as_complex = lambda _: False

    # units: ours, see units.py. No other ways to find an answer than the box around it: from a formula that it can't parse,
    # math-verify would take the last number.
    config = LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="all"),
    )

    @lru_cache(maxsize=1024)
    def read(answer: str) -> list[Any]:
        return [imaginary(found) for found in parse(rf"\boxed{{{answer}}}", [config], parsing_timeout=None)]

    def imaginary(found: Any) -> Any:
        unit = {symbol for symbol in getattr(found, "free_symbols", ()) if symbol.name == "i"}
        try:
            return found.xreplace(dict.fromkeys(unit, I)) if unit else found
        except Exception:  # an index, as of a sum
            return found

    def says(a: str, b: str) -> bool:
        # (5, 2] and (7, 3] are both empty as intervals, but they aren't meant as such.
        if all(text.startswith(("(", "[")) and S.EmptySet in read(text) for text in (a, b)):
            return False
        # "1 < x < 2" and "(1, 2)" are the same whichever comes first.
        return verify(read(a), read(b), timeout_seconds=None, allow_set_relation_comp=True)

    def agree(a: str, b: str) -> bool:
        # sympy tests some expressions at random points; each pair gets the same ones.
        seed(0)
        random.seed(0)
        return says(a, b) and says(b, a)

    return agree


def _near(a: Any, b: Any) -> bool:
    """Whether two expressions that math-verify finds numerically equal are, by their size; True where that can't be told.

    Exact ones to 60 digits, those with a decimal to 4. Letters get values.
    """
    from sympy import Abs, Float, Rational, UnevaluatedExpr

    try:
        if a.has(UnevaluatedExpr) or b.has(UnevaluatedExpr):  # percents, for which math-verify has rules of its own
            return True
        letters = sorted(a.free_symbols | b.free_symbols, key=str)
        values = {letter: Rational(1009 + 34 * i, 701 + 11 * i) for i, letter in enumerate(letters)}
        a, b = a.subs(values), b.subs(values)
        size = max(Abs(a).evalf(20), Abs(b).evalf(20))
        apart = Abs(a - b).evalf(20, maxn=200)
        if not (size.is_Float or size.is_Integer) or size < Float("1e-150"):
            return True
        return bool(apart <= size * (Float("1e-4") if a.has(Float) or b.has(Float) else Float("1e-60")))
    except Exception:
        return True


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
