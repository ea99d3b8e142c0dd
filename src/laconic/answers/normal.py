r"""The normal form of an answer: its spelling evened out, and what it is, as far as string work can tell.

What two plain forms (numbers, choice letters, words) are to each other is decided here, exactly, without math-verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from laconic.answers.units import split_unit

LONGEST = 1000  # characters; a longer answer is a trace that lost itself, and only an identical one equals it

_SYMBOLS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003", " "),
    **{"×": r"\times ", "·": r"\cdot ", "÷": "/", "°": r"^\circ ", "π": r"\pi ", "∞": r"\infty ", "²": "^2", "³": "^3"},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in "},
}
_TRANSLATION = str.maketrans(_SYMBOLS)

# In this order. A backslash that follows another one ends a matrix row, and isn't the beginning of a command.
_SPELLINGS = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"^\*\*(.*)\*\*$", r"\1"),
        (r"(?<!\\)\$", ""),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;:> ]|(?:quad|qquad|thinspace|displaystyle|textstyle|limits)(?![A-Za-z]))|~", " "),
        (r"\{\s*,\s*\}", ","),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|mbox)\s*\{", r"\\text{"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
        (r"\\([lr])brace(?![A-Za-z])", lambda match: r"\{" if match[1] == "l" else r"\}"),
        (r"\\degree(?![A-Za-z])", r"^\\circ"),
        (r"\\%|\s*\\text\{\s*(?:percent(?:age)?|\\?%)\s*\}|\s*\bpercent(?:age)?\b", "%"),
        (r"\s+%", "%"),
        (r"^\\text\{([^{}]*)\}$", r"\1"),
    )
]

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = re.compile(rf"([+-]?) ?((?:{_WHOLE})?(?:\.\d*)?)")
_RATIO = re.compile(
    rf"([+-]?) ?({_WHOLE}(?= ?\\frac)|{_WHOLE}(?= \d+ ?/))? ?"
    rf"(?:\\frac ?(?:\{{ ?([+-]?{_WHOLE}) ?\}}|(\d)) ?(?:\{{ ?({_WHOLE}) ?\}}|(\d))|({_WHOLE}) ?/ ?({_WHOLE}))"
)
_POWER_OF_TEN = re.compile(
    rf"([+-]?) ?(?:({_WHOLE}(?:\.\d+)?) ?(?:\\times|\\cdot|\*|x) ?)?10 ?\^ ?(?:\{{ ?([+-]?\d{{1,3}}) ?\}}|(\d))"
)
_EXPONENT = re.compile(r"([+-]?) ?(\d+(?:\.\d*)?)[eE]([+-]?\d{1,3})")
_NAMED = re.compile(r"([A-Za-z]\w*|\\[A-Za-z]+) ?= ?(.+)")

_CHOICE = re.compile(r"[(\[] ?([A-Ja-j]) ?[)\]]\.?|([A-J])[).:]?")
# "(C) 42", "C. 42": a letter with the text of its choice; not (C)+1 and not f(x).
_CHOICE_AND_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[).:]) +(?:[\w$.]|\\(?:frac|sqrt|pi|text|\$))")
_WORDS = re.compile(r"[A-Za-z]+(?:[ '-][A-Za-z]+)*")
_JOINED = re.compile(r"\b(?:or|and)\b", re.IGNORECASE)
# math-verify reads "1 2" as 1 + 2.
_LOOSE_DIGITS = re.compile(r"[\d., ]*\d \d[\d., ]*")


@dataclass(frozen=True, slots=True)
class Form:
    """An answer, evened out.

    key: two answers with the same key (and no two different units) are equivalent. math: what math-verify would be given.
    kind: "math" is for math-verify; "number", "letter" (a choice) and "words" say what they are; "other" equals nothing but
    its key. letter: the choice this is, or could be. number, exact: its value, and whether it has no decimal point;
    name: of what ("x" in "x = 5"). unit: a known measure.
    """

    key: str
    math: str
    kind: Literal["math", "number", "letter", "words", "other"]
    letter: str | None = None
    number: Fraction | None = None
    exact: bool = True
    name: str | None = None
    unit: str | None = None


@lru_cache(maxsize=65536)
def normal(answer: str) -> Form:
    """The form of an answer that isn't blank."""
    if len(answer) > LONGEST:
        return Form(" ".join(answer.split()).casefold(), answer, "other")
    text, unit = split_unit(clean(answer))
    key = _key(text)
    if (named := _NAMED.fullmatch(text)) and (value := _value(named[2])):
        return Form(key, text, "number", number=value[0], exact=value[1], name=named[1], unit=unit)
    if value := _value(text):
        return Form(key, text, "number", number=value[0], exact=value[1], unit=unit)
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if match := _CHOICE.fullmatch(bare) or _CHOICE_AND_TEXT.match(bare):
        return Form(key, text, "letter", letter=(match[1] or match[2]).upper())
    if _WORDS.fullmatch(bare) and sum(map(str.isalpha, bare)) >= 4 and not _JOINED.search(bare):
        return Form(key, text, "words")
    if not key or _LOOSE_DIGITS.fullmatch(text):
        return Form(key, text, "other", unit=unit)
    letter = bare.upper() if len(bare) == 1 and bare in "abcdefghij" else None
    return Form(key, text, "math", letter=letter, unit=unit)


def decide(a: Form, b: Form) -> bool | None:
    """Whether two forms are equivalent, where string work can tell; None: ask math-verify. Symmetric."""
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if a.key == b.key:
        return True
    if "letter" in (a.kind, b.kind):
        return a.letter is not None and a.letter == b.letter
    if a.number is not None and b.number is not None:
        return (not (a.name and b.name) or a.name == b.name) and _same_value(a, b)
    if "math" in (a.kind, b.kind) and "other" not in (a.kind, b.kind):
        return None
    return False


def clean(answer: str) -> str:
    """One spelling for LaTeX's spacing, sizes, fonts, fractions and delimiters, and for Unicode's symbols."""
    text = answer.translate(_TRANSLATION).strip()
    for pattern, by in _SPELLINGS:
        text = pattern.sub(by, text.strip())
    return " ".join(text.split()).rstrip(".").rstrip()


def _key(text: str) -> str:
    """Without fonts, case and spaces, except the space between two digits: 1 1/2 isn't 11/2."""
    unfonted = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?<!\d) | (?!\d)", "", unfonted).casefold()


def _value(text: str) -> tuple[Fraction, bool] | None:
    """(the number, whether it is exact: has no decimal point) that a text spells; None if it spells none."""
    if (match := _DECIMAL.fullmatch(text)) and match[2].strip("."):
        return _signed(match[1], _plain(match[2])), "." not in match[2]
    if match := _RATIO.fullmatch(text):
        sign, whole, top, digit, bottom, below, over, under = match.groups()
        upper, lower = _plain(top or digit or over), _plain(bottom or below or under)
        if lower == 0 or (whole and upper < 0):
            return None
        return _signed(sign, _plain(whole or "0") + upper / lower), True
    if match := _POWER_OF_TEN.fullmatch(text):
        factor = match[2] or "1"
        return _signed(match[1], _plain(factor) * Fraction(10) ** int(match[3] or match[4])), "." not in factor
    if match := _EXPONENT.fullmatch(text):
        return _signed(match[1], _plain(match[2]) * Fraction(10) ** int(match[3])), "." not in match[2]
    return None


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _same_value(a: Form, b: Form) -> bool:
    """Exact numbers must be equal. With a decimal among them, math-verify's rule: equal when rounded to six decimals.

    One rule more, since by that one all numbers under 0.0000005 would be the same: they are within 1 in 10,000 too.
    """
    x, y = a.number, b.number
    if x is None or y is None:
        return False
    if x == y or (a.exact and b.exact):
        return x == y
    return round(x, 6) == round(y, 6) and abs(x - y) * 10_000 <= max(abs(x), abs(y))
