"""`compression_ratio`, as kvpress counts it (the share of the cache that is removed), beside the `ratio` of RPC's paper."""

from __future__ import annotations

import dataclasses
from dataclasses import InitVar, dataclass
from fractions import Fraction
from typing import Any

from laconic import checks
from laconic.compress.policy import Policy
from laconic.errors import InputError
from laconic.settings import described

SHARE = "compression_ratio"
REMOVED = "the share removed, as kvpress counts it, instead of ratio: 0.75 is ratio 4"


def ratio_of(removed: float) -> int | float:
    """RPC's ratio c from the share removed: 1 / (1 - share), as the decimal number that was typed; 0.75 gives 4.

    Raises InputError for what is no number from 0 up to, but not including, 1, or a share whose ratio has no end as a decimal
    number (0.3 would be ratio 10/7).
    """
    share = checks.number(SHARE, removed, 0, 1, "the share of the output that is removed")
    if share == 1:
        raise InputError(f"{SHARE} is 1, which removes everything; expected below 1, such as 0.75 (ratio 4)")
    exact = 1 / (1 - Fraction(str(share)))
    if exact.denominator == 1:
        return int(exact)
    if Fraction(str(float(exact))) != exact:
        raise InputError(
            f"{SHARE} is {share}, which is ratio {exact}, no decimal number; expected a share such as 0.5 (ratio 2), 0.75 (4), "
            "0.8 (5) or 0.875 (8)"
        )
    return float(exact)


@dataclass(frozen=True)
class WithRatio(Policy):
    """A policy on a budget that grows, `ratio` times slower than the output. Takes `compression_ratio` in its place."""

    compression_ratio: InitVar[float | None] = dataclasses.field(
        default=None, kw_only=True, metadata=described(REMOVED, shown=False)
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Only here can `ratio` that was given be told from `ratio` at its default.
        names = [f.name for f in dataclasses.fields(cls) if not f.kw_only]
        if kwargs.get(SHARE) is not None and ("ratio" in kwargs or "ratio" in names[: len(args)]):
            given = kwargs["ratio"] if "ratio" in kwargs else args[names.index("ratio")]
            raise InputError(
                f"ratio is {checks.shown(given)} and {SHARE} is {checks.shown(kwargs[SHARE])}, which say the same thing; give "
                "one: a ratio of 4 is a compression_ratio of 0.75"
            )
        return super().__new__(cls)

    def __post_init__(self, compression_ratio: float | None) -> None:
        if compression_ratio is not None:
            object.__setattr__(self, "ratio", ratio_of(compression_ratio))
        given: Any = getattr(self, "ratio")  # noqa: B009 - each subclass has the field
        if isinstance(given, float) and 0 < given < 1:
            raise InputError(
                f"ratio is {given}; expected a number at least 1, as it divides the output (4 keeps a quarter): if {given} is "
                f"the share that is removed, give {SHARE}={given} (ratio {1 / (1 - given):.3g})"
            )
        super().__post_init__()


@dataclass(frozen=True)
class WithBudget(Policy):
    """A policy on a fixed budget. Refuses `compression_ratio`, which says no number of tokens."""

    compression_ratio: InitVar[float | None] = dataclasses.field(
        default=None, kw_only=True, metadata=described("refused", shown=False) | {"listed": False}
    )

    def __post_init__(self, compression_ratio: float | None) -> None:
        if compression_ratio is not None:
            ratio = ratio_of(compression_ratio)
            raise InputError(
                f"{SHARE} is {compression_ratio}, but policy {self.name} keeps a fixed budget, whatever the output's length: "
                f"give budget, the tokens kept (of N generated ones, N / {ratio:g}), or a policy that grows, such as "
                f"rpc:ratio={ratio:g}"
            )
        super().__post_init__()
