"""What strategies cost and bring on problems of a known kind, and which of them a budget should buy.

`laconic calibrate` plays strategies back on recorded traces and makes one; the strategy `auto` chooses by it. Files of them:
`laconic.calibrations`.
"""

from __future__ import annotations

from dataclasses import dataclass

from laconic import checks
from laconic.errors import InputError
from laconic.prune.budget import PoolBudget

LEAST_PROBLEMS = 50
"""With fewer a strategy's accuracy is known to no better than about 14 points, and the choice would be a draw of lots."""
SLACK = 1e-6  # of a trace: k traces cost k traces, whatever floating point says


@dataclass(frozen=True, slots=True)
class CalibratedRow:
    """One strategy, as it fared on the problems of a calibration. Raises InputError for values that can't be."""

    strategy: str
    """Its spec, as `laconic.prune.parse` takes it."""
    n: int
    """Traces at most."""
    traces: float
    """What it cost a problem, in traces of mean length, the judge's tokens among them."""
    accuracy: float
    """From 0 to 1."""
    gain: float | None = None
    """To the plain vote that costs as much, in accuracy, its ties broken as in the calibration's own plain votes; None for one
    of these."""
    low: float | None = None
    """The lower end of its 95 % interval over problems."""
    high: float | None = None
    """The upper one."""

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.text("strategy", self.strategy)
        checks.whole("n", self.n, 1)
        checks.number("traces", self.traces, 0, above=True)
        checks.share("accuracy", self.accuracy)
        for name in ("gain", "low", "high"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), -1, 1)

    def describe(self) -> str:
        """One clause: what it cost and brought."""
        gained = ""
        if self.gain is not None and self.low is not None and self.high is not None:
            ends = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
            gained = f", {100 * self.gain:+.1f} points {ends} to the plain vote that costs as much"
        return f"{self.strategy} was right on {self.accuracy:.1%} for {self.traces:.1f} traces a problem{gained}"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How strategies fared on one model's recorded traces.

    model: its name. weights: `laconic.fingerprint.fingerprint` of it. problems, samples: how many, and traces of each.
    mean_tokens: of a trace. Raises InputError for fewer than LEAST_PROBLEMS problems, or no row that costs one trace or less.
    """

    model: str
    weights: str
    problems: int
    samples: int
    mean_tokens: float
    rows: tuple[CalibratedRow, ...]

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.text("model", self.model)
        checks.text("weights", self.weights)
        checks.whole("problems", self.problems, 1)
        checks.whole("samples", self.samples, 1)
        checks.number("mean_tokens", self.mean_tokens, 0, above=True)
        checks.instances("rows", self.rows, CalibratedRow, "a CalibratedRow")
        check_problems(self.problems)
        if not any(row.traces <= 1 + SLACK for row in self.rows):
            raise InputError(
                "a calibration needs a row that costs one trace at most, for the smallest budget; expected cons@1"
            )

    def traces_of(self, budget: PoolBudget) -> float:
        """What a budget for one problem is in traces of mean length. Raises InputError for less than one."""
        found = budget.traces if budget.traces is not None else (budget.tokens or 0) / self.mean_tokens
        if found < 1 - SLACK:
            raise InputError(
                f"a budget of {budget} is below one trace, which takes {self.mean_tokens:,.0f} in the calibration of "
                f"{self.model}; expected at least so many, or a multiple of one trace, as 4x"
            )
        return found

    def choose(self, budget: PoolBudget) -> CalibratedRow:
        """The row of the highest accuracy among those that cost no more than the budget; of equals the cheapest.

        Plain votes are among the rows, so that none is chosen that did worse than one of them for the same money.
        """
        most = self.traces_of(budget) + SLACK
        return max((row for row in self.rows if row.traces <= most), key=lambda row: (row.accuracy, -row.traces))

    def __str__(self) -> str:
        return f"{self.problems} problems of {self.model}"


def check_problems(count: int) -> None:
    """InputError where a calibration has too few problems."""
    if count < LEAST_PROBLEMS:
        raise InputError(
            f"the calibration has {count} problems, and at least {LEAST_PROBLEMS} are needed to tell strategies apart: collect "
            "traces of more"
        )
