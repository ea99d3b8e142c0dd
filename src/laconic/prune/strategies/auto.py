"""Which strategy a budget buys, by a calibration: what each cost and brought on recorded problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from laconic import checks
from laconic.errors import InputError
from laconic.prune.budget import PoolBudget, seconds_in
from laconic.prune.calibration import CalibratedRow, Calibration
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy, StrategyRun
from laconic.prune.strategies.run import MOST_TRACES, StrategyRunBase
from laconic.prune.strategies.timed import TimedRun
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.settings import setting


@dataclass(frozen=True)
class Auto(Strategy):
    """The strategy that was most often right for the budget on the problems of a calibration (`Calibration.choose`).

    calibration: as `laconic.calibrations` reads it. `spend` is what a problem may cost on average, over problems like those of
    the calibration: one may cost more, another less. The verdict's note says what was chosen, and why. A budget of seconds,
    `30s`, is of wall time: all n traces start at once, and what has ended by then votes. Raises InputError for settings out of
    range, a budget below one trace, or a calibration that chooses a strategy which asks a judge.
    """

    name = "auto"
    summary: ClassVar[str] = "takes the strategy that a calibration shows to be most often right for a budget"
    source: ClassVar[str] = "laconic"

    n: int
    calibration: Calibration
    spend: str = setting(
        "4x", "what a problem may cost on average: traces, as 4x, or tokens, as 20000; or 30s, of time"
    )

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.instance(
            "calibration", self.calibration, Calibration, "a Calibration, as laconic.calibrations reads them"
        )
        self.chosen()

    @property
    def seconds(self) -> float | None:
        """Of wall time, where that is the budget. Raises InputError for 0 or less."""
        found = seconds_in(checks.text("spend", self.spend))
        return None if found is None else checks.number("spend", found, 0, above=True, meaning="seconds")

    def choose(self) -> CalibratedRow:
        """What it chooses for a budget of tokens or traces."""
        try:
            budget = PoolBudget.parse(self.spend)
        except InputError as error:
            raise InputError(f"{error}; a time, as 30s, is a budget too") from None
        return self.calibration.choose(budget)

    def chosen(self) -> Strategy:
        """The strategy that it stands for, with no more than `n` traces."""
        from laconic.prune.strategies.registry import needs_judge, parse

        if self.seconds is not None:
            return parse("self-consistency:ties=confidence", self.n)
        row = self.choose()
        if needs_judge(row.strategy):
            raise InputError(
                f"the calibration chooses {row.strategy}, which asks a judge, and auto has none; name it and a judge instead"
            )
        return parse(row.strategy, min(row.n, self.n))

    def why(self) -> str:
        """One clause: what was chosen, and what that rests on."""
        if self.seconds is not None:
            return f"all {self.n} traces at once, for at most {self.seconds:g} s"
        row = self.choose()
        cut = f"; that was with up to {row.n} traces, here there are {self.n}" if row.n > self.n else ""
        return f"chosen for {PoolBudget.parse(self.spend)}: {row.describe()}, on {self.calibration}{cut}"

    @property
    def alone(self) -> bool:
        return self.seconds is not None or self.chosen().alone

    def needs(self) -> Needs:
        return self.chosen().needs()

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> StrategyRun:
        run = self.chosen().begin(engine, question, sampling)
        if isinstance(run, StrategyRunBase):
            run.note = self.why()
        return run if self.seconds is None else TimedRun(run, self.seconds)
