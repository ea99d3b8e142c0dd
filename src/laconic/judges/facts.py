"""What a text states: which names it sets equal to which numbers, and the numbers it mentions.

A heuristic for mathematics as reasoning models write it (plain, Markdown or LaTeX), by string work alone. It knows no
algebra: `x + y = 3` is a fact about the name `x+y`, and `2x = 6` one about `2x`.
"""

from __future__ import annotations

import re
from fractions import Fraction

Facts = dict[str, str]
"""name -> last value stated, in order of that statement. Every number is a fact too: its own name, with the value ""."""

_LONGEST_NAME = 80  # characters; the search for a name's beginning takes their square
# Marks that only dress a formula up.
_DRESS = re.compile(r"\\(?:left|right|displaystyle|,|;|!|quad|qquad|\(|\)|\[|\])|\*\*|[$`&]")
_SPELLED = (
    (re.compile(r"\\boxed\s*"), " "),
    (re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r"\1/\2"),
    (re.compile(r"\\(?:times|cdot)|×|·"), "*"),
    (re.compile(r"\^\s*\\circ|°|\\?%"), ""),
    (re.compile(r"([_^])\{(\w+)\}"), r"\1\2"),
    (re.compile(r"−|–"), "-"),
    (re.compile(r":="), "="),
    (re.compile(r"[{}]"), " "),
)
# An equation ends with its line, clause or sentence, and where another relation takes over. "3.5" and "1,000" go on.
_CLAUSES = re.compile(
    r"[\n;]|,(?!\d{3}(?!\d))|[.!?:](?=\s|$)|[<>!]=|==|[<>≤≥≠≈]|\\(?:leq?|geq?|neq?|approx|implies|to)\b"
)
_NUMBER = r"-?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?(?:/\d+)?"
_STATED = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w/])")
_ATOM = r"(?:\d+(?:\.\d+)?)?\\?[A-Za-z][\w']*(?:\([^()=]{0,20}\))?|\d+(?:\.\d+)?"
_SUM = rf"(?:{_ATOM})(?:\s*[-+*/^]\s*(?:{_ATOM}))*"
_TAIL = re.compile(rf"(?<![\w^/.]){_SUM}\s*$")
_WHOLE = re.compile(rf"\s*-?\s*{_SUM}\s*")
# A side's value is a number that no operator or letter continues.
_VALUE = re.compile(rf"\s*({_NUMBER})(?!\s*[-+*/^]|[\w.,]*[\w])")


def facts(text: str) -> Facts:
    """The facts of a text. In a chain (`S = 3 + 4 = 7`) each side is worth the next number that stands alone."""
    found: Facts = {}
    for clause in _CLAUSES.split(_plain(text)):
        sides = clause.split("=")
        for value in _STATED.findall(clause):
            _state(found, _number(value), "")
        for i in range(len(sides) - 1):
            name = _name(sides[i])
            value = _value(sides[i + 1 :])
            if name and value:
                _state(found, name, value)
    return found


def _plain(text: str) -> str:
    text = _DRESS.sub("", text)
    for pattern, spelled in _SPELLED:
        text = pattern.sub(spelled, text)
    return text


def _state(found: Facts, name: str, value: str) -> None:
    found.pop(name, None)  # the order is that of the last statement
    found[name] = value


def _name(side: str) -> str:
    """What stands before an equals sign, without blanks; "" for arithmetic on numbers, which says nothing of its own."""
    tail = _TAIL.search(side, max(0, len(side) - _LONGEST_NAME))
    name = re.sub(r"\s", "", tail[0]) if tail else ""
    return name if re.search(r"[A-Za-z]", name) else ""


def _value(sides: list[str]) -> str:
    for side in sides:
        value = _VALUE.match(side)
        if value:
            return _number(value[1])
        if not _WHOLE.fullmatch(side):
            break
    return ""


def _number(text: str) -> str:
    """One spelling a number: 2.50, 5/2 and 2.5 are the same."""
    whole, _, part = text.replace(",", "").partition("/")
    try:
        return str(Fraction(whole) / Fraction(part or 1))
    except ZeroDivisionError:
        return text
