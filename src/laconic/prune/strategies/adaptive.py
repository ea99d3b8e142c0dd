"""Adaptive consistency (arXiv 2305.11860): traces start in waves until the leader is likely enough to stay ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import MOST_TRACES
from laconic.prune.strategies.sequential import SequentialVoteRun
from laconic.prune.strategies.settings import TIES_SETTING, TOP_K_SETTING, check_ties, needs_of_ties, settings_of
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.worth import ahead_probability
from laconic.settings import setting


@dataclass(frozen=True)
class AdaptiveConsistency(Strategy):
    """Majority vote over waves of traces, n at most, which ends once the leader stays ahead with enough probability.

    Of the two leading answers, with a and b votes, the first one's share has the posterior Beta(a + 1, b + 1); the vote ends
    where that share is above one half with a probability of at least `threshold`. The paper looks after every trace: `wave=1`.
    It spends most on problems that no number of traces solves, which `PricedVote` gives up. Raises InputError for settings out
    of range.
    """

    name = "adaptive-consistency"
    summary: ClassVar[str] = (
        "starts traces in waves until the leading answer is likely enough to stay ahead, then votes"
    )
    source: ClassVar[str] = "arXiv 2305.11860"
    acts_at_ends: ClassVar[bool] = True

    n: int
    threshold: float = setting(0.95, "probability that the leader is the likelier of the two, at which the vote ends")
    wave: int = setting(1, "traces that start together; the vote is looked at when all of them have ended")
    ties: str = setting("index", TIES_SETTING)
    top_k: int = setting(20, TOP_K_SETTING)

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.number("threshold", self.threshold, 0.5, 1, above=True)
        checks.whole("wave", self.wave, 1, MOST_TRACES, "traces")
        check_ties(self.ties, self.top_k)

    def needs(self) -> Needs:
        return needs_of_ties(self.ties, self.top_k)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> AdaptiveConsistencyRun:
        return AdaptiveConsistencyRun(self, engine, question, sampling)


class AdaptiveConsistencyRun(SequentialVoteRun):
    """A run of `AdaptiveConsistency`."""

    def __init__(
        self, strategy: AdaptiveConsistency, engine: TraceEngine, question: str, sampling: SamplingView
    ) -> None:
        given = settings_of(strategy), strategy.needs()
        super().__init__(strategy.name, strategy.n, strategy.wave, *given, engine, question, sampling)
        self.strategy = strategy
        self.ahead = 0.5

    def _extra(self) -> dict[str, Any]:
        return {"ahead": self.ahead}

    def _decide(self, counts: list[int]) -> None:
        if self.counted < self.started:
            return
        lead, rival = [*counts, 0, 0][:2]
        self.ahead = ahead_probability(lead, rival)
        if self.ahead >= self.strategy.threshold or self.started == self.n:
            self._end(
                "the leader is likely enough to stay ahead",
                f"the leading answer stays ahead with a probability of {self.ahead:.3f}, at least {self.strategy.threshold:g}",
            )
        else:
            for _ in range(min(self.strategy.wave, self.n - self.started)):
                self._go_on()
