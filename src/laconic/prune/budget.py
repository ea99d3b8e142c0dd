"""What many problems may spend together: tokens, traces of each in the mean, or seconds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from laconic import checks
from laconic.errors import InputError

_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?s")


def seconds_in(text: str) -> float | None:
    """Of a time such as `30s`; None for anything else."""
    match = _SECONDS.fullmatch(text.strip().lower())
    return None if match is None else float(match[1])


@dataclass(frozen=True)
class PoolBudget:
    """What a pool may spend: so many tokens, so many times what one trace of every problem takes, or so many seconds of wall
    time, from its first step on. Just one of them is given.

    The mean trace is that of the traces so far, each problem's counted alike. Raises InputError for several or none, less than
    one token, less than one trace, or 0 seconds and less.
    """

    tokens: int | None = None
    traces: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        if sum(given is not None for given in (self.tokens, self.traces, self.seconds)) != 1:
            raise InputError(
                "a budget is so many tokens, so many times one trace of each problem, or so many seconds; expected one of them"
            )
        if self.tokens is not None:
            checks.whole("tokens", self.tokens, 1)
        if self.traces is not None:
            checks.number("traces", self.traces, 1, meaning="times one trace of every problem")
        if self.seconds is not None:
            checks.number("seconds", self.seconds, 0, above=True, meaning="of wall time")

    @classmethod
    def parse(cls, text: str, timed: bool = False) -> PoolBudget:
        """`4x`: four times what one trace of every problem takes; `500000`: tokens; timed: `30s` is a time, too. Raises
        InputError for anything else."""
        plain = checks.text("budget", text).strip().lower().replace("_", "")
        if _THOUSANDS.fullmatch(plain.removesuffix("x")):
            plain = plain.replace(",", "")
        if timed and (seconds := seconds_in(text)) is not None:
            return cls(seconds=seconds)
        try:
            value = float(plain[:-1]) if plain.endswith("x") else int(plain)
        except ValueError:
            raise InputError(
                f"the budget {text!r} is neither; expected tokens, as 500000, or a multiple of one trace of each problem, as 4x"
                + (", or a time, as 30s" if timed else "")
            ) from None
        return cls(traces=value) if plain.endswith("x") else cls(tokens=int(value))

    def limit(self, problems: int, mean: float) -> float:
        """In tokens; infinite for a time. mean: of a trace."""
        if self.seconds is not None:
            return math.inf
        return float(self.tokens) if self.tokens is not None else problems * mean * (self.traces or 0)

    def __str__(self) -> str:
        if self.tokens is not None:
            return f"{self.tokens:,} tokens"
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return "one trace a problem" if self.traces == 1 else f"{self.traces:g} traces a problem"
