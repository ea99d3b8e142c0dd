"""The checks that settings share: each names the field, its value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from laconic.errors import LaconicError


def whole(field: str, value: object, least: int, meaning: str = "") -> None:
    """Refuse anything but an int of at least `least` (a bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        note = f" ({meaning})" if meaning else ""
        raise LaconicError(f"{field} is {value!r}; expected a whole number of at least {least}{note}")


def number(field: str, value: object, low: float, high: float = math.inf) -> None:
    """Refuse anything but a finite int or float in [low, high]."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        span = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise LaconicError(f"{field} is {value!r}; expected a number {span}")


def word(field: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that isn't one of the known ones."""
    if value not in known:
        raise LaconicError(f"{field} is {value!r}; expected one of {', '.join(known)}")


def odd(field: str, value: object) -> None:
    """Refuse a pooling kernel that has no middle."""
    whole(field, value, 1, "1 is no pooling")
    assert isinstance(value, int)
    if value % 2 == 0:
        near = f"{value - 1} or {value + 1}"
        raise LaconicError(f"{field} is {value}; expected an odd width, so that a token sits in its middle: use {near}")
