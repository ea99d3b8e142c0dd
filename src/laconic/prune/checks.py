"""The checks that a strategy's settings share: each names the setting, its value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from laconic.errors import LaconicError

MOST = 1 << 30


def whole(name: str, value: object, least: int, most: int = MOST, meaning: str = "") -> None:
    """Refuse anything but an int from least to most (a bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        span = f"of at least {least}" if most == MOST else f"from {least} to {most}"
        raise LaconicError(f"{name} is {value!r}; expected a whole number {span}{f' {meaning}' if meaning else ''}")


def share(name: str, value: object, meaning: str = "") -> None:
    """Refuse anything but a number from 0 to 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:  # type: ignore[arg-type, operator]
        raise LaconicError(f"{name} is {value!r}; expected a number from 0 to 1{f' ({meaning})' if meaning else ''}")


def word(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that isn't one of the known ones."""
    if value not in known:
        raise LaconicError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def flag(name: str, value: object) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise LaconicError(f"{name} is {value!r}; expected true or false")
