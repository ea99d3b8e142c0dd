r"""Numbers as people and LaTeX write them, respelled so that a parser of formulas knows them.

``0.\overline{3}`` and ``0.(3)`` become ``\frac{1}{3}``, ``12^{\text{th}}`` becomes 12, ``45,\! 000`` 45,000, ``2½``
``2\frac{1}{2}`` and ``x¹⁰`` ``x^{10}``.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_GROUPS = [
    (re.compile(pattern), by)
    for pattern, by in (
        # Only thousands are written with \!, and a list goes on with no number that is 000.
        (r"(?<=\d)\s*(?:,\s*\\!|\\!\s*,|\{\s*,\s*\}|,(?=[\s\\,;:]*000))(?:\\[!,;: ]|\s)*(?=\d{3}(?!\d))", ","),
        (r"(?<=\d)(?:['’_]|\{(?:\\[,;:! ]|\s)*\})(?=\d{3}(?!\d))", ","),
    )
]
_VULGAR = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_RAISED = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")

_DIGITS = r"(?P<whole>\d*)\.(?P<head>\d*)"
_REPEATING = re.compile(
    rf"{_DIGITS}(?:\\(?:overline|bar|dot|overbar)\s*(?:\{{\s*(?P<barred>\d+)\s*\}}|(?P<one>\d))|\((?P<round>\d+)\))(?!\s*\d)"
)
# 0.\dot{1}4\dot{2}: the dots stand over the first and the last digit of what repeats.
_DOTTED = re.compile(rf"{_DIGITS}\\dot\s*\{{?(?P<first>\d)\}}?(?P<inner>\d*)\\dot\s*\{{?(?P<last>\d)\}}?(?!\s*\d)")
_GOES_ON = re.compile(r"(?P<whole>\d*)\.(?P<digits>\d+)\s*(?:\.\.\.|…|\\[lc]?dots(?![A-Za-z]))")
_ELLIPSIS = re.compile(r"\\[lc]?dots(?![A-Za-z])|\.\.\.|…")
# What must be written three times to be taken for what repeats; of two digits or more, twice.
_BLOCK = re.compile(r"(?P<head>\d*?)(?:(?P<one>\d)(?P=one){2,}|(?P<more>\d{2,}?)(?P=more)+)(?P<rest>\d*)")

_SUFFIX = r"\\text(?:superscript)?\s*\{\s*(?P<in_text>st|nd|rd|th)\s*\}|(?P<bare>st|nd|rd|th)(?![A-Za-z])"
_ORDINAL = re.compile(rf"(?P<number>\d[\d,]*)\s*(?:\^\s*)?(?:\{{\s*)?(?:{_SUFFIX})(?:\s*\}})?$")


_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(
    rf"(?<![\w.,^])(?P<number>\d+(?:,\d{{3}})*(?:\.\d+)?)\s*(?P<opened>\\text\{{\s*)?(?P<scale>{'|'.join(_SCALES)})\b"
    r"(?P<closed>\s*\})?",
    re.I,
)


def unify_thousands(text: str) -> str:
    """One comma for every way to write thousands; LaTeX's spaces must still be there."""
    for pattern, by in _GROUPS:
        text = pattern.sub(by, text)
    return text


def respell_numerals(text: str) -> str:
    """``text`` with its numerals in plain LaTeX. It has one spelling of fonts (`normal_form.clean`)."""
    if not text.isascii():
        text = _VULGAR.sub(_vulgar, text)
        text = _RAISED.sub(lambda match: f"^{{{_plain(match[0])}}}", text)
    if "." in text:
        text = _DOTTED.sub(_dotted, text)
        text = _REPEATING.sub(_repeating, text)
        text = _GOES_ON.sub(_goes_on, text)
    if "dots" in text or "..." in text or "…" in text:
        text = _ELLIPSIS.sub(r"\\ldots ", text)
    return _ORDINAL.sub(_ordinal, _SCALED.sub(_scaled, text))


def _vulgar(match: re.Match[str]) -> str:
    top, bottom = _plain(match[0]).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _repeating(match: re.Match[str]) -> str:
    return _fraction(match["whole"], match["head"], match["barred"] or match["one"] or match["round"])


def _dotted(match: re.Match[str]) -> str:
    return _fraction(match["whole"], match["head"], match["first"] + match["inner"] + match["last"])


def _goes_on(match: re.Match[str]) -> str:
    """0.1666... is 1/6; 3.14159... stays a decimal, without its dots."""
    digits = match["digits"]
    block = _BLOCK.fullmatch(digits)
    repeated = block and (block["one"] or block["more"])
    if not block or not repeated or not repeated.startswith(block["rest"]):
        return f"{match['whole']}.{digits}"
    return _fraction(match["whole"], block["head"], repeated)


def _fraction(whole: str, head: str, repeated: str) -> str:
    """0.head(repeated), and whole before it: (all the digits - those that don't repeat) / 99...900...0."""
    value = Fraction(
        int(whole + head + repeated) - int((whole + head) or "0"), (10 ** len(repeated) - 1) * 10 ** len(head)
    )
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value.numerator)


def _scaled(match: re.Match[str]) -> str:
    """2 million is 2000000; 1.5 dozen 18."""
    value = Fraction(match["number"].replace(",", "")) * _SCALES[match["scale"].lower()]
    if value.denominator > 1 or bool(match["closed"]) > bool(match["opened"]):
        return match[0]
    more = "" if match["closed"] or not match["opened"] else r"\text{"
    return f"{value}{more}" if more or match.end() == len(match.string) else f"{value} "


def _ordinal(match: re.Match[str]) -> str:
    """12th, 1st, 22nd, 103rd; 12^{nd} is a power."""
    number = match["number"].replace(",", "")
    right = "th" if number[-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")
    return match["number"] if right == (match["in_text"] or match["bare"]) else match[0]
