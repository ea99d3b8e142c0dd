"""What an argument must be, and the one sentence where it isn't: the field, its value, what was expected.

Public constructors and functions check their arguments here, once, where they come in; nothing on the way of a token does.
A wrong type is bad input like a wrong value: both are InputError, which is a ValueError. Python's own TypeError is left
for an argument that a function doesn't have, or lacks. Numbers of numpy's are taken for the Python numbers that they are.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path, PurePath
from typing import Any

from laconic.errors import InputError, LaconicError

MOST = (1 << 63) - 1
"""The largest whole number where nothing smaller is said: what a tensor holds, and `sys.maxsize` for "no limit"."""
LARGEST = sys.float_info.max
LONGEST = 80  # characters of a value in a sentence


def shown(value: object) -> str:
    """A value as a sentence shows it: its repr on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of more digits than Python writes out, or an object whose repr fails
        text = f"of the type {type(value).__name__} and can't be shown"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def unwrap_numpy(value: Any) -> Any:
    """A number of numpy's as the Python number that it is; anything else as it came."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def unwrap_numpy_fields(record: Any) -> None:
    """Numpy's numbers in a dataclass's fields become Python's, frozen or not: records are then printed and written alike."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if (own := unwrap_numpy(value)) is not value:
            object.__setattr__(record, field.name, own)


def is_whole(value: object) -> bool:
    """Whether a value is an int; a bool is no number here."""
    return isinstance(value, int) and not isinstance(value, bool)


def input_error(name: str, value: object, expected: str) -> LaconicError:
    """The error to raise, in the words of all of them."""
    return InputError(f"{name} is {shown(value)}; expected {expected}")


# ---- numbers ----------------------------------------------------------------------------------------------------------


def whole(name: str, value: Any, least: int, most: int = MOST, meaning: str = "") -> int:
    """The int from least to most that the value is. meaning: what is counted, in a few words."""
    value = unwrap_numpy(value)
    if not is_whole(value) or not least <= value <= most:
        above = is_whole(value) and value > most
        span = f"from {least} to {most}" if above or most != MOST else f"of at least {least}"
        raise input_error(name, value, f"a whole number {span}{_note(meaning)}")
    return int(value)


def seed(name: str, value: Any) -> int:
    """An int of 64 bits, with a sign or without, as torch takes it for a seed."""
    value = unwrap_numpy(value)
    if not is_whole(value) or not -(1 << 63) <= value < 1 << 64:
        raise input_error(name, value, "a whole number of at most 64 bits")
    return int(value)


def number(
    name: str, value: Any, low: float, high: float = math.inf, meaning: str = "", *, above: bool = False
) -> int | float:
    """The finite int or float in [low, high] that the value is; above: in (low, high]."""
    value = unwrap_numpy(value)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or not -LARGEST <= value <= LARGEST or (above and value == low):
        start = f"above {low:g}" if above else f"at least {low:g}" if high == math.inf else f"from {low:g}"
        end = "" if high == math.inf else f" and at most {high:g}" if above else f" to {high:g}"
        raise input_error(name, value, f"a number {start}{end}{_note(meaning)}")
    return value


def share(name: str, value: Any, meaning: str = "") -> int | float:
    """A number from 0 to 1."""
    return number(name, value, 0, 1, meaning)


def odd(name: str, value: Any) -> int:
    """The width of a pooling kernel, which has a middle."""
    value = whole(name, value, 1, meaning="1 is no pooling")
    if value % 2 == 0:
        near = f"{value - 1} or {value + 1}"
        raise InputError(f"{name} is {value}; expected an odd width, so that a token sits in its middle: use {near}")
    return value


def wholes(name: str, values: Any, least: int, most: int = MOST, meaning: str = "", *, some: bool = False) -> list[int]:
    """The whole numbers of a sequence, each from least to most; some: at least one."""
    found = _iterated(name, values, f"whole numbers{_note(meaning)}", some)
    # Most sequences are of token ids, and right: one look at all of them.
    if set(map(type, found)) <= {int} and (not found or (least <= min(found) and max(found) <= most)):
        return found
    return [whole(f"{name}[{i}]", value, least, most, meaning) for i, value in enumerate(found)]


# ---- words, texts and objects -----------------------------------------------------------------------------------------


def word(name: str, value: Any, known: Sequence[str]) -> str:
    """One of the known words."""
    if not isinstance(value, str) or value not in known:
        raise input_error(name, value, f"one of {', '.join(known)}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False."""
    value = unwrap_numpy(value)
    if not isinstance(value, bool):
        raise input_error(name, value, "true or false")
    return value


def text(name: str, value: Any, meaning: str = "", *, some: bool = False) -> str:
    """A str; some: of more than white space. One with half a character in it is none: no tokenizer takes it, and no file."""
    if not isinstance(value, str) or (some and not value.strip()):
        raise input_error(name, value, f"a text{' that is not empty' if some else ''}{_note(meaning)}")
    if half := half_character(value):
        raise InputError(f"{name} {half}")
    return value


def half_character(value: str) -> str:
    """What is wrong with a text that has half a character in it (a lone surrogate), to follow a name; "" for any other."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        return f"has half a character in it (\\u{code:04x}, a lone surrogate); expected text that UTF-8 can hold"
    return ""


def texts(name: str, values: Any, meaning: str = "", *, some: bool = False) -> list[str]:
    """The texts of a sequence; one str is none. some: at least one."""
    return [
        text(f"{name}[{i}]", value, meaning)
        for i, value in enumerate(_iterated(name, values, f"texts{_note(meaning)}", some))
    ]


def path(name: str, value: Any) -> Path:
    """The path of a file or directory."""
    if isinstance(value, (str, PurePath)) and str(value).strip() and "\0" not in str(value):
        return Path(value)
    raise input_error(name, value, "the path of a file or directory")


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """An object of a class. expected: what it is, for the sentence."""
    if not isinstance(value, kind):
        raise input_error(name, value, expected)
    return value


def instances(name: str, values: Any, kind: type, expected: str, *, some: bool = False) -> list[Any]:
    """The objects of a sequence, all of one class. expected: of one of them; some: at least one."""
    found = _iterated(name, values, f"a sequence, each {expected}", some)
    return [instance(f"{name}[{i}]", value, kind, expected) for i, value in enumerate(found)]


def function(name: str, value: Any, meaning: str) -> Any:
    """Something that can be called. meaning: from what to what."""
    if not callable(value):
        raise input_error(name, value, f"a function {meaning}")
    return value


def capable(name: str, value: Any, needed: Iterable[str], expected: str) -> Any:
    """An object that has what a protocol asks for, by its attributes' names; a class is no object of itself."""
    if isinstance(value, type) or not all(hasattr(value, attribute) for attribute in needed):
        raise input_error(name, value, expected)
    return value


def _iterated(name: str, values: Any, expected: str, some: bool) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping, Set)) or not isinstance(values, Iterable):
        raise input_error(name, values, expected)
    try:  # the numbers of an array or a tensor are Python's only then
        found = list(values.tolist() if hasattr(values, "tolist") else values)
    except TypeError:  # it has no dimension
        raise input_error(name, values, expected) from None
    if some and not found:
        raise input_error(name, values, f"{expected}, at least one")
    return found


def _note(meaning: str) -> str:
    return f" ({meaning})" if meaning else ""
