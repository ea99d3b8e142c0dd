"""The priced vote: traces start one after another as long as a further one is worth its price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import MOST_TRACES
from laconic.prune.strategies.sequential import SequentialVoteRun
from laconic.prune.strategies.settings import TIES_SETTING, TOP_K_SETTING, check_ties, needs_of_ties, settings_of
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.worth import worth
from laconic.settings import setting


@dataclass(frozen=True)
class PricedVote(Strategy):
    """Majority vote over as many traces as are worth their price, n at most.

    After each trace `laconic.prune.worth` tells by how much a further one should raise the probability that the leading answer
    is the one that most traces would give; below `price` none is started. With `parallel` above 1 those on their way are
    counted in. Traces count in the order of their index, so that the outcome does not depend on which of them ends first. Of
    answers with as many votes that of the more confident traces wins. Raises InputError for settings out of range.
    """

    name = "priced-vote"
    summary: ClassVar[str] = "starts traces one after another as long as a further one is worth its price, then votes"
    source: ClassVar[str] = "laconic, from adaptive consistency (arXiv 2305.11860)"
    acts_at_ends: ClassVar[bool] = True

    n: int
    price: float = setting(0.005, "of a trace: the rise in the leader's probability below which none is started")
    first: int = setting(2, "traces that start together, before anything is known")
    parallel: int = setting(1, "traces that run side by side after the first ones")
    ties: str = setting("confidence", TIES_SETTING)
    top_k: int = setting(20, TOP_K_SETTING)

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.number("price", self.price, 0, 1, above=True)
        checks.whole("first", self.first, 1, MOST_TRACES, "traces")
        checks.whole("parallel", self.parallel, 1, MOST_TRACES, "traces")
        check_ties(self.ties, self.top_k)

    def needs(self) -> Needs:
        return needs_of_ties(self.ties, self.top_k)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> PricedVoteRun:
        return PricedVoteRun(self, engine, question, sampling)


class PricedVoteRun(SequentialVoteRun):
    """A run of `PricedVote`."""

    def __init__(self, strategy: PricedVote, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        given = settings_of(strategy), strategy.needs()
        super().__init__(strategy.name, strategy.n, strategy.first, *given, engine, question, sampling)
        self.strategy = strategy
        self.worth = math.inf

    def _extra(self) -> dict[str, Any]:
        return {} if math.isinf(self.worth) else {"worth": self.worth}

    def _decide(self, counts: list[int]) -> None:
        """Start what is worth its price, or stop what can't change anything."""
        while True:
            running = self.started - self.counted
            if running >= self.strategy.parallel:
                return
            self.worth = worth(counts, self.counted, self.n - self.started, running)
            if self.worth < self.strategy.price:
                break
            self._go_on()
        lead, rival = [*counts, 0, 0][:2]
        if lead > rival + running or not running:
            self._end(
                "it was not worth its price",
                f"a further trace would be worth {self.worth:.4f}, under the price of {self.strategy.price:g}",
            )
