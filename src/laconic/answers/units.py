r"""Units at the end of an answer: ``5\text{ cm}^2``, ``90^\circ``, ``12 apples``, ``\$5``, ``1011_2``.

A unit that one of two answers leaves out doesn't count. Two different units make two different answers; nothing is
converted, so 5 m is not 500 cm. math-verify drops any unit and takes letters for units (to it 3c = 3d = 3, 5 m = 5 cm), so
it never gets to see one.
"""

from __future__ import annotations

import re

_TABLE = """
mm millimeter millimetre|cm centimeter centimetre|dm decimeter decimetre|m meter metre|km kilometer kilometre|nm nanometer
in inch inches|ft foot feet|yd yard|mi mile|mg milligram|g gram gramme|kg kilogram|t ton tonne|lb pound|oz ounce
ms millisecond|s sec second|min minute|h hr hour|day|week|month|yr year|ml milliliter millilitre|l liter litre|gal gallon
n newton|j joule|kj kilojoule|ev|w watt|kw kilowatt|v volt|a amp ampere|hz hertz|k kelvin|pa pascal|kpa|atm|mol mole
c coulomb|ohm|cent|dollar usd|euro eur|degree deg|radian rad|unit|am|pm|mph
"""
MEASURES = frozenset(name for name in re.split(r"[|\s]", _TABLE) if len(name) > 1)
"""The known names, those of one letter left out."""
_NAMES = {name: names.split()[0] for names in re.split(r"[|\n]", _TABLE) if names for name in names.split()}
# What needs no space after the number; other short ones may be a product (2pa, 3mi, 2m/s).
_GLUED = {"mm", "cm", "km", "mg", "kg", "ml", "ft", "lb", "oz", "am", "pm", "km/h"}
_LONG = re.compile(r"[A-Za-z ]{3,}")
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|sqrt|infinity"

_POWER = r"(?:\s*\^\s*\{?\s*([23])\s*\}?)?"
# Degrees come first: the C of 25^\circ\text{C} isn't coulombs.
_DEGREES = re.compile(r"(?<=[\d})])\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*([CF])\s*\}|([CF]))?$")
_IN_TEXT = re.compile(r"(?<=\S)\s*\\text\{([^{}]*)\}" + _POWER + "$")
# Bare words need a number in front; single letters need \text{}, since 5m may be a product.
_BARE = re.compile(
    r"(?P<rest>^.*(?:[\d})]|\\pi(?![A-Za-z])))(?P<space>\s*)"
    r"(?P<unit>(?:square |cubic |sq\.? |cu\.? )?(?:[A-Za-z]{2,}|[A-Za-z](?=/))(?:(?:/| per )[A-Za-z]+(?:\^\{?[23]\}?)?)?)"
    + _POWER
    + "$",
    re.DOTALL,
)
_MONEY = re.compile(r"^([-+]?)\s*(\\\$|[€£])\s*(?=[\d.\\])")
_CURRENCIES = {r"\$": "dollar", "€": "euro", "£": "sterling"}
_BASE = re.compile(r"^(\d+)_\{?(\d{1,2})\}?$")
_CONNECTIVES = re.compile(
    r"\b(?:or|and|if|for|more|less|than|not|most|least|only|when|where|with|mod"
    r"|halves|thirds|squared|cubed|factorial)\b"
)


def split_unit(text: str) -> tuple[str, str | None]:
    r"""(``text`` without its unit, the unit's one name); the name is None where there is none or it isn't a known measure.

    ``text`` has been through `laconic.answers.normal_form.clean`. A text that would be nothing but a unit is left as it is.
    """
    if match := _BASE.match(text):
        return match[1], f"base {match[2]}"
    if match := _MONEY.match(text):
        return match[1] + text[match.end() :], _CURRENCIES[match[2]]
    if match := _DEGREES.search(text):
        return text[: match.start()], {"C": "celsius", "F": "fahrenheit"}.get(match[1] or match[2] or "", "degree")
    if match := _IN_TEXT.search(text):
        rest, name, power = text[: match.start()].rstrip(), match[1], match[2]
        known = _canonical(name, power)
        anything = re.search(r"\d", rest) and re.fullmatch(r"\s*[A-Za-z]{2,}(?: [A-Za-z]+)?\s*", name)
        if (known and not rest.endswith(("=", "<", ">", ",", "{", "("))) or (
            anything and not _CONNECTIVES.search(name)
        ):
            return rest, known
    if match := _BARE.match(text):
        name = match["unit"]
        known = _canonical(name, match[4]) if match["space"] or name in _GLUED or _LONG.fullmatch(name) else None
        # An unknown word is a thing that was counted ("12 apples"); a Greek letter or a function isn't.
        counted = match["space"] and len(name) >= 4 and re.search(r"\d", match["rest"])
        if known or (counted and not re.fullmatch(_GREEK, name.lower()) and not _CONNECTIVES.search(name)):
            return match["rest"], known
    return text, None


def _canonical(name: str, power: str | None) -> str | None:
    """One name for a known measure: "square centimeters", "cm" with power "2" -> "cm^2"; None for anything else."""
    words = re.sub(r"[.\s]+", " ", re.sub(r"\b([ap])\.\s?m\b", r"\1m", name.lower())).strip()
    if match := re.fullmatch(r"(.*?)\s*\^\s*\{?([23])\}?", words):
        words, power = match.groups()
    for prefix, of in (("square ", "2"), ("sq ", "2"), ("cubic ", "3"), ("cu ", "3")):
        if words.startswith(prefix):
            words, power = words.removeprefix(prefix), of
    for suffix, of in ((" squared", "2"), (" cubed", "3")):
        if words.endswith(suffix):
            words, power = words.removesuffix(suffix), of
    if words == "mph":
        words = "mi/h"
    parts = [_NAMES.get(part) or _NAMES.get(part.removesuffix("s")) for part in re.split(r"\s*/\s*|\s+per\s+", words)]
    if None in parts:
        return None
    return "/".join(part or "" for part in parts) + (f"^{power}" if power else "")
