"""Whether two answers are the same, and which of many are."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import lru_cache

from laconic.answers.normal_form import NormalForm, compare_by_string, math_verify_operands, normalize
from laconic.answers.worker import MathVerifyProcess
from laconic.errors import InputError

_MATH_VERIFY = MathVerifyProcess()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_MATH_VERIFY.forget)

_counting = threading.Lock()
_undecided = 0
# Answers that math-verify can't even compare with 1 in time: asked about once, not once for each of hundreds of traces.
_hopeless: set[str] = set()
_MOST_HOPELESS = 4096


def equivalent(a: str | None, b: str | None) -> bool:
    r"""Whether two extracted answers are the same; ``None`` and blank text (no answer) are equivalent to nothing.

    Numbers (fractions, mixed numbers, thousands separators, powers of ten) are compared exactly, or to six decimals once
    one has a decimal point; choice letters by the letter, with or without its text; words by their spelling; case, LaTeX
    spacing and fonts don't count. A unit that one side leaves out doesn't count either, two different units differ
    (nothing is converted). A list or a set, a pair and an inequality are never the same; a pair in brackets may be an
    interval, which is its inequality. Everything else is math-verify's judgement, asked both ways, and both must say yes.
    By its rules 50% is 0.5 and also 50, "x = 5" is 5, and "1, 2" is the set {1, 2}.

    Symmetric, but not transitive: 5 cm and 5 m are both 5. The first pair that needs math-verify starts a process (about a
    second); it is kept. A pair that takes it longer than `worker.CPU_SECONDS` of computing, or makes it crash, counts as
    different and in `undecided_count`. Safe to call from any thread, and after a fork. Raises InputError for an answer that is
    neither text nor None, and where the process can't start.
    """
    x, y = _normal_form(a), _normal_form(b)
    if x is None or y is None:
        return False
    decided = compare_by_string(x, y)
    # In one order, so that the answer is the same both ways.
    return _ask_math_verify(*sorted(math_verify_operands(x, y))) if decided is None else decided


def group_equivalent(answers: Sequence[str | None]) -> list[int | None]:
    """The class of each answer: 0, 1, ... in the order of their first members; None stays None.

    An answer joins the first class whose first member it is equivalent to (equivalence isn't transitive, so the order of
    ``answers`` counts). Repeated spellings are compared once. Raises InputError as `equivalent` does.
    """
    if isinstance(answers, str):
        raise InputError(f"the answers to group are one str, {answers[:40]!r}; expected a sequence of answers")
    firsts: list[str] = []
    known: dict[tuple[str, str | None], int] = {}
    classes: list[int | None] = []
    for answer in answers:
        form = _normal_form(answer)
        if answer is None or form is None:
            classes.append(None)
            continue
        spelling = form.key, form.unit
        if spelling not in known:
            found = next((i for i, first in enumerate(firsts) if equivalent(first, answer)), len(firsts))
            if found == len(firsts):
                firsts.append(answer)
            known[spelling] = found
        classes.append(known[spelling])
    return classes


def undecided_count() -> int:
    """How many pairs this process had to count as different, since math-verify ran out of time or crashed."""
    return _undecided


def _normal_form(answer: str | None) -> NormalForm | None:
    if answer is None:
        return None
    if not isinstance(answer, str):
        raise InputError(f"an answer is {answer!r}; expected text, or None for no answer")
    return normalize(answer) if answer.strip() else None


@lru_cache(maxsize=65536)
def _ask_math_verify(a: str, b: str) -> bool:
    global _undecided
    known = a in _hopeless or b in _hopeless
    verdict = None if known else _MATH_VERIFY.ask(a, b)
    if verdict is not None:
        return verdict
    with _counting:
        _undecided += 1
    if not known:
        _remember_hopeless(a, b)
    return False


def _remember_hopeless(a: str, b: str) -> None:
    for answer in (a, b):
        if normalize(answer).number is None and _MATH_VERIFY.ask(answer, "1") is None:
            if len(_hopeless) >= _MOST_HOPELESS:
                _hopeless.clear()
            _hopeless.add(answer)
