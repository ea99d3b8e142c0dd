"""Lists in options: names, numbers, and specs (`NAME:setting=value,...`) of policies, strategies and judges."""

from __future__ import annotations


def split_specs(text: str) -> list[str]:
    """Policies, strategies or judges: `rpc,h2o` by commas; with a whole spec in it (`rpc;rkv:budget=96,buffer=32`) by
    semicolons.
    """
    separator = ";" if ";" in text or ":" in text else ","
    return [name.strip() for name in text.split(separator) if name.strip()]


def split_names(text: str | None) -> list[str]:
    """Names separated by commas; none for no text."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def split_numbers(option: str, text: str) -> list[float]:
    """Numbers separated by commas. Raises InputError naming the option and the part that is none."""
    from laconic.errors import InputError

    numbers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            numbers.append(float(part))
        except ValueError:
            raise InputError(f"{option} has {part!r}; expected numbers separated by commas, such as 2,4,8") from None
    return numbers


def split_whole(option: str, text: str) -> list[int]:
    """Whole numbers separated by commas. Raises InputError as `split_numbers`."""
    from laconic.errors import InputError

    numbers = split_numbers(option, text)
    for number in numbers:
        if not number.is_integer():
            raise InputError(f"{option} has {number}; expected whole numbers separated by commas, such as 8,16")
    return [int(number) for number in numbers]
