r"""The normal form of an answer: its spelling evened out, and what it is, as far as string work can tell.

What two plain forms (numbers, choice letters, words) are to each other is decided here, exactly, without math-verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from laconic.answers.numerals import respell_numerals, unify_thousands
from laconic.answers.shapes import PLAIN, FormulaShape, formula_shape, may_be_same, sort_by_name, to_ascending
from laconic.answers.units import split_unit

LONGEST = 1000  # characters; a longer answer is a trace that lost itself, and only an identical one equals it

_SYMBOLS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003", " "),
    **{
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": "/",
        "°": r"^\circ ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "ℝ": r"\mathbb{R}",
        "≈": r"\approx ",
    },
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in "},
}
_TRANSLATION = str.maketrans(_SYMBOLS)

# In this order. A backslash that follows another one ends a matrix row, and isn't the beginning of a command.
_SPELLINGS = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"^\*\*(.*)\*\*$", r"\1"),
        (r"^\$*\\(?:boxed|fbox)\s*\{((?:(?!\\boxed).)*)\}\$*$", r"\1"),
        (r"(?<=[\w)}])\*\*(?=[\w(])", "^"),
        (r"^\$(?=[\d.])(?!.*(?<!\\)\$)", r"\\$"),  # money; a formula's would be closed
        (r"(?<!\\)\$", ""),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"(?<!\\)\\(?:[!/]|negthinspace(?![A-Za-z]))", ""),
        (
            r"(?<!\\)\\(?:[,;:> ]|[hv]space\*?\s*\{[^{}]*\}|(?:quad|qquad|thinspace|medspace|thickspace|enspace|enskip"
            r"|displaystyle|textstyle|limits)(?![A-Za-z]))|~",
            " ",
        ),
        (r"(?<!\\)\\$", ""),
        (r"\{\s*,\s*\}", ","),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*", ""),
        (r"\\(?:[dtcs]|nice|x)frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|mbox)\s*\{", r"\\text{"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
        (r"\\([lr])brace(?![A-Za-z])", lambda match: r"\{" if match[1] == "l" else r"\}"),
        (r"\\degree(?![A-Za-z])|(?<=\d)\s*\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\})", r"^\\circ"),
        (r"\\mathbb\s*([A-Z])(?![A-Za-z])", r"\\mathbb{\1}"),
        (r"^(?:\\text\{\s*)?all real numbers(?:\s*\})?$", r"\\mathbb{R}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\s*\^\s*(?:\\prime(?![A-Za-z])|\{\s*\\prime\s*\})", "'"),
        (r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))", lambda match: rf"\sqrt{{{match[1] or match[2]}}}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi"),
        (r"\^\s*(\d{2,})", r"^{\1}"),
        (r"^\\(?:approx|simeq)(?![A-Za-z])", ""),
        (r":=", "="),
        (r"\b([ap])\.\s?m\b\.?", r"\1m"),
        # A set of all x for which a relation holds is the relation.
        (
            r"^\\\{\s*([A-Za-z])(?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\\mid(?![A-Za-z])|[|:])"
            r"\s*(?=[^{}]*\1)([^{}]*(?:[<>]|\\(?:[lg][te]|ne)(?![A-Za-z]))[^{}]*)\\\}$",
            r"\2",
        ),
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

_CHOICE = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice) )?(?:[(\[] ?([A-Ja-j]) ?[)\]]\.?|([A-J])[).:]?)")
# "(C) 42", "C. 42": a letter with the text of its choice; not (C)+1 and not f(x).
_CHOICE_AND_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[).:]) +(?:[\w$.]|\\(?:frac|sqrt|pi|text|\$))")
_WORDS = re.compile(r"[A-Za-z]+(?:[ '-][A-Za-z]+)*")
_JOINED = re.compile(r"\b(?:or|and)\b", re.IGNORECASE)
# math-verify reads "1 2" as 1 + 2.
_LOOSE_DIGITS = re.compile(r"[\d., ]*\d \d[\d., ]*")
# A time of day isn't the ratio that math-verify takes it for: 2:30 pm isn't 1:15 pm.
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d(?::[0-5]\d)?")
# To math-verify a derivative is 0, an angle the product of its letters, and primes nothing.
_NAMES_ONLY = re.compile(r"\\frac ?\{ ?d ?(?:\^ ?\{? ?\d ?\}? ?)?[A-Za-z]? ?\} ?\{ ?d|\\(?:angle|triangle)(?![A-Za-z])")
_PRIMES = re.compile(r"(?<=[A-Za-z])['’]+")


@dataclass(frozen=True, slots=True)
class NormalForm:
    """An answer whose spelling is evened out."""

    key: str
    """Two answers with the same key (and no two different units) are equivalent."""
    math: str
    """What math-verify would be given."""
    kind: Literal["math", "number", "letter", "words", "other"]
    """"math" is for math-verify; "number", "letter" (a choice) and "words" are what they say; "other" equals nothing but its
    key."""
    letter: str | None = None
    """The choice that this is, or could be."""
    number: Fraction | None = None
    """The value of a number; None for all else."""
    exact: bool = True
    """Whether the number has no decimal point."""
    name: str | None = None
    """What the number is the value of: "x" in "x = 5"."""
    unit: str | None = None
    """A known measure, by its one name."""
    percent: bool = False
    """Whether a % follows the number."""
    shape: FormulaShape = PLAIN
    """Of a formula."""


@lru_cache(maxsize=65536)
def normalize(answer: str) -> NormalForm:
    """The form of an answer that isn't blank."""
    if len(answer) > LONGEST:
        return NormalForm(" ".join(answer.split()).casefold(), answer, "other")
    digits = answer.strip()
    if digits.isascii() and digits.isdigit():  # most answers are: no need to look further
        return NormalForm(digits, digits, "number", number=Fraction(int(digits)))
    text, unit = split_unit(clean(answer))
    text = to_ascending(text) if ">" in text or r"\g" in text else text
    if match := _EXPONENT.fullmatch(text):  # the e would be Euler's to math-verify
        text = rf"{match[1]}{match[2].rstrip('.')} \times 10^{{{match[3]}}}"
    key = _key(text)
    named = _NAMED.fullmatch(text)
    if (named and (value := _parse_number(named[2]))) or (value := _parse_number(text)):
        math = (
            rf"\frac{{{value.number.numerator}}}{{{value.number.denominator * 100}}}"
            if value.ratio and value.percent
            else text
        )
        return NormalForm(
            key,
            math,
            "number",
            number=value.number,
            exact=value.exact,
            percent=value.percent,
            name=named[1] if named and not _parse_number(text) else None,
            unit=unit,
        )
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if match := _CHOICE.fullmatch(bare) or _CHOICE_AND_TEXT.match(bare):
        return NormalForm(key, text, "letter", letter=(match[1] or match[2]).upper())
    if _WORDS.fullmatch(bare) and sum(map(str.isalpha, bare)) >= 4 and not _JOINED.search(bare):
        return NormalForm(key, text, "words")
    clock = _CLOCK.fullmatch(text) and (unit in ("am", "pm") or ":0" in text)
    if not key or clock or _LOOSE_DIGITS.fullmatch(text) or _NAMES_ONLY.search(text):
        return NormalForm(key, text, "other", unit=unit)
    letter = bare.upper() if len(bare) == 1 and bare in "abcdefghij" else None
    math, kind = _PRIMES.sub(lambda match: "_{" + "prime" * len(match[0]) + "}", text), formula_shape(text)
    math = sort_by_name(math) if kind.kind == "named" else math
    return NormalForm(key, math, "math", letter=letter, unit=unit, shape=kind)


def compare_by_string(a: NormalForm, b: NormalForm) -> bool | None:
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
        return None if may_be_same(a.shape, b.shape) else False
    return False


def math_verify_operands(a: NormalForm, b: NormalForm) -> tuple[str, str]:
    """What to ask math-verify about two forms.

    A list of values without names beside one with names has an order: "3, 2" isn't "x = 2, y = 3".
    """
    kinds = a.shape.kind, b.shape.kind
    return (
        f"({a.math})" if kinds == ("list", "named") else a.math,
        f"({b.math})" if kinds == ("named", "list") else b.math,
    )


def clean(answer: str) -> str:
    """One spelling for LaTeX's spacing, sizes, fonts, fractions and delimiters, for numerals, and for Unicode's symbols."""
    text = unify_thousands(answer.translate(_TRANSLATION).strip())
    for pattern, by in _SPELLINGS:
        text = pattern.sub(by, text.strip())
    return " ".join(respell_numerals(text).split()).rstrip(".,;").rstrip()


def _key(text: str) -> str:
    """Without fonts, case and spaces, except the space between two digits: 1 1/2 isn't 11/2."""
    unfonted = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    listed = re.sub(r"(?<=\d), (?=\d{3}(?!\d))", ";", unfonted)  # 100, 200 isn't 100,200
    return re.sub(r"(?<!\d) | (?!\d)", "", listed).casefold()


class _ParsedNumber(NamedTuple):
    """A number. exact: it has no decimal point. ratio: it is written as a fraction. percent: without its %."""

    number: Fraction
    exact: bool
    ratio: bool = False
    percent: bool = False


def _parse_number(text: str) -> _ParsedNumber | None:
    """The number that a text spells; None if it spells none."""
    if text.endswith("%"):
        value = _parse_number(text[:-1].rstrip())
        return value and value._replace(percent=True)
    if (match := _DECIMAL.fullmatch(text)) and match[2].strip("."):
        return _ParsedNumber(_signed(match[1], _plain(match[2])), "." not in match[2])
    if match := _RATIO.fullmatch(text):
        sign, whole, top, digit, bottom, below, over, under = match.groups()
        upper, lower = _plain(top or digit or over), _plain(bottom or below or under)
        if lower == 0 or (whole and upper < 0):
            return None
        return _ParsedNumber(_signed(sign, _plain(whole or "0") + upper / lower), True, ratio=True)
    if match := _POWER_OF_TEN.fullmatch(text):
        factor = match[2] or "1"
        number = _plain(factor) * Fraction(10) ** int(match[3] or match[4])
        return _ParsedNumber(_signed(match[1], number), "." not in factor)
    if match := _EXPONENT.fullmatch(text):
        return _ParsedNumber(_signed(match[1], _plain(match[2]) * Fraction(10) ** int(match[3])), "." not in match[2])
    return None


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _same_value(a: NormalForm, b: NormalForm) -> bool:
    """By math-verify's rules 50% is 0.5, and, as a whole number, also 50."""
    x, y = a.number, b.number
    if x is None or y is None:
        return False
    if a.percent != b.percent:
        if x == y and x.denominator == 1 and a.exact and b.exact:
            return True
        x, y = x / 100 if a.percent else x, y / 100 if b.percent else y
    return _close(x, y, a.exact and b.exact)


def _close(x: Fraction, y: Fraction, exact: bool) -> bool:
    """Exact numbers must be equal. With a decimal among them, math-verify's rule: equal when rounded to six decimals.

    One rule more, since by that one all numbers under 0.0000005 would be the same: they are within 1 in 10,000 too.
    """
    if x == y or exact:
        return x == y
    return round(x, 6) == round(y, 6) and abs(x - y) * 10_000 <= max(abs(x), abs(y))
