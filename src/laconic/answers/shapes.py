r"""What kind of thing a formula is: a list, a set, a pair or an interval, a relation.

math-verify reads "2, 5", ``\{2,5\}``, ``(2,5)`` and ``2<x<5`` as sets, and takes a list for the pair, the pair for the
open interval and the inequality for any of them. Only the last two of these are the same in writing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN, _CLOSE = {"(", "[", "{", r"\{"}, {")", "]", "}", r"\}"}
_RELATIONS = {"<", ">", r"\le", r"\ge", r"\lt", r"\gt", r"\ne"}
_SEPARATORS = {",", ";"}

_OWNER = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+) ?(?:=|\\in(?![A-Za-z])) ?")
_NAMED = re.compile(r" ?(?:[A-Za-z]\w*|\\[A-Za-z]+) ?= ?[^=]+")
_ELLIPSIS = re.compile(r"\\[lvd]dots(?![A-Za-z])")
_OR = re.compile(r"\\text\{ ?or ?\}|\bor\b|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])", re.IGNORECASE)
_AND = re.compile(r"\\text\{ ?and ?\}|\band\b|\\land(?![A-Za-z])|\\wedge(?![A-Za-z])", re.IGNORECASE)
_JOINT = re.compile(f"(?:{_OR.pattern})|(?:{_AND.pattern})", re.IGNORECASE)


_DESCENDING = re.compile(r"(>|\\g[et](?![A-Za-z]))")
_OTHER = re.compile(rf"[<,;=]|\\(?:l[et]|ne)(?![A-Za-z])|{_JOINT.pattern}", re.IGNORECASE)


class FormulaShape(NamedTuple):
    """What kind of thing a formula is."""

    kind: str = ""
    """"list", "named" ("x = 2, y = 3"), "set", "tuple", "relation", or "" for all else."""
    brackets: str = ""
    """The two brackets of a tuple of two, which may be an interval."""
    joined: str = ""
    """How the parts of a relation are joined: "or", "and", or ""."""
    ellipsis: bool = False
    """Whether dots stand for something that is left out."""


PLAIN = FormulaShape()

_NEVER = {
    frozenset(pair)
    for pair in (
        ("list", "relation"),
        ("named", "relation"),
        ("set", "relation"),
        ("set", "tuple"),
        ("list", "tuple"),
    )
}


def formula_shape(text: str) -> FormulaShape:
    """The shape of a text that has been through `normal_form.clean`."""
    ellipsis = bool(_ELLIPSIS.search(text))
    if owner := _OWNER.match(text):
        bare = text[owner.end() :]
        if bare.startswith(("(", "[", r"\{")):
            text = bare
    tokens = [match.group() for match in _TOKEN.finditer(_JOINT.sub(",", text))]
    depth, parts, whole, relation = 0, 1, True, False
    inner = 1  # parts of a container that holds everything
    for number, token in enumerate(tokens):
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            whole = whole and (depth > 0 or number == len(tokens) - 1)
        elif depth == 0:
            whole = False
            parts += token in _SEPARATORS
            relation = relation or token in _RELATIONS
        elif depth == 1:
            inner += token in _SEPARATORS
    if relation:
        joined = "or" if _OR.search(text) else "and" if _AND.search(text) else ""
        return FormulaShape("relation", joined=joined, ellipsis=ellipsis)
    if parts > 1:
        return FormulaShape("named" if _all_named(text) else "list", ellipsis=ellipsis)
    if not tokens:
        return PLAIN
    if whole and tokens[0] == r"\{":
        return FormulaShape("set", ellipsis=ellipsis)
    if whole and inner > 1 and tokens[0] in "([":
        return FormulaShape("tuple", tokens[0] + tokens[-1] if inner == 2 else "", ellipsis=ellipsis)
    return FormulaShape(ellipsis=ellipsis)


def may_be_same(a: FormulaShape, b: FormulaShape) -> bool:
    """Whether two formulas of these shapes can say the same at all."""
    if a.ellipsis != b.ellipsis or frozenset((a.kind, b.kind)) in _NEVER:
        return False
    if a.brackets and b.brackets and a.brackets != b.brackets:
        return False
    return not (a.joined and b.joined and a.joined != b.joined)


def to_ascending(text: str) -> str:
    """``5 > x > 2`` as ``2 < x < 5``, since math-verify takes the order of a chain for part of it."""
    parts = _DESCENDING.split(text)
    if len(parts) != 5 or _OTHER.search(text):
        return text
    flip = {">": "<", r"\ge": r"\le ", r"\gt": "<"}
    return "".join(flip.get(part, part) for part in reversed(parts))


def sort_by_name(text: str) -> str:
    """``y = 5, x = 2`` as ``x=2,y=5``: letters in their own order, in which a point has its coordinates."""
    parts = _parts(text)
    return ",".join(sorted(parts)) if all(re.match(r"[A-Za-z] ?=", part) for part in parts) else text


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split("[,;]", _JOINT.sub(",", text)) if part.strip()]


def _all_named(text: str) -> bool:
    """Whether these are values of different unknowns; of one unknown they are a list of its values."""
    parts = _parts(text)
    names = {part.split("=")[0].strip() for part in parts}
    return len(names) == len(parts) and all(_NAMED.fullmatch(part) for part in parts)
