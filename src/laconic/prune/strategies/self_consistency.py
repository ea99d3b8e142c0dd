"""Self-consistency (arXiv 2203.11171): n traces, one vote each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from laconic import checks
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import MOST_TRACES, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import (
    TIES_SETTING,
    TOP_K_SETTING,
    check_ties,
    needs_of_ties,
    settings_of,
    with_confidences,
)
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import mean_confidence
from laconic.settings import setting


@dataclass(frozen=True)
class SelfConsistency(Strategy):
    """Majority vote over n traces; n = 1 is a single trace.

    With `early_end`, what still runs is stopped once no remaining vote can change the winner, so the answer is the one
    that all n would have given (perhaps in another spelling). Raises InputError for settings out of range.
    """

    name = "self-consistency"
    summary: ClassVar[str] = "majority vote over all traces; with one trace, that trace"
    source: ClassVar[str] = "arXiv 2203.11171"
    acts_at_ends: ClassVar[bool] = True

    n: int
    early_end: bool = setting(True, "stop the rest once the vote can't change any more")
    ties: str = setting("index", TIES_SETTING)
    top_k: int = setting(20, TOP_K_SETTING)

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.flag("early_end", self.early_end)
        check_ties(self.ties, self.top_k)

    def needs(self) -> Needs:
        return needs_of_ties(self.ties, self.top_k)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> SelfConsistencyRun:
        asking = with_confidences(sampling, self.top_k) if self.ties == "confidence" else sampling
        return SelfConsistencyRun(self, engine, question, asking)


class SelfConsistencyRun(StrategyRunBase):
    """A run of `SelfConsistency`."""

    def __init__(self, strategy: SelfConsistency, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        super().__init__(strategy.name, strategy.n, settings_of(strategy), strategy.needs(), engine, question, sampling)
        self.early_end = strategy.early_end
        self.by_confidence = strategy.ties == "confidence"
        self.over = False

    def _start(self) -> None:
        self._say(f"{traces(self.n)} start")

    def _ended(self, record: TraceState) -> None:
        with self.clock.during("vote"):
            if record.answer is not None:
                self._vote(record, mean_confidence(record.view) if self.by_confidence else 0.0)
            if self.early_end and not self.over:
                self.over = self._stop_if_decided(open_ties=self.by_confidence)
