"""The final answer of a text, and whether two answers are the same.

Pure string work: the last balanced ``\\boxed{...}`` counts, and answers are compared after normalising their spelling.
"""

from __future__ import annotations

_OPENER = "\\boxed{"


def extract(text: str) -> str | None:
    """The content of the last balanced ``\\boxed{...}`` in ``text``, stripped; ``None`` when there is none."""
    start = text.rfind(_OPENER)
    while start != -1:
        begin = start + len(_OPENER)
        depth = 1
        for index in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return text[begin:index].strip() or None
        start = text.rfind(_OPENER, 0, start)
    return None


def equivalent(a: str | None, b: str | None) -> bool:
    """Whether two extracted answers are the same; ``None`` (no answer) is equivalent to nothing."""
    if a is None or b is None:
        return False
    return _normalise(a) == _normalise(b)


def _normalise(answer: str) -> str:
    """Without white space, case, dollar signs, a trailing stop, thousands' commas or superfluous zeros."""
    text = "".join(answer.split()).strip("$").rstrip(".").casefold()
    digits = text.lstrip("+-").replace(",", "")
    if digits.isascii() and digits.replace(".", "", 1).isdigit():
        sign = "-" if text.startswith("-") else ""
        whole, _, fraction = digits.partition(".")
        fraction = fraction.rstrip("0")
        number = (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
        return number if number == "0" else sign + number
    return text
