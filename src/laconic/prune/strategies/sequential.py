"""What strategies share that start traces as the votes come in: counting in the order of index, and an end that tells why."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from laconic.prune.needs import Needs
from laconic.prune.strategies.run import DECIDED, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import with_confidences
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import mean_confidence


class SequentialVoteRun(StrategyRunBase):
    """A run whose traces start in the order of their index, and vote in it, so that the outcome does not depend on which of
    them ends first. A subclass says after each vote whether to start more (`_go_on`) or to end (`_end`)."""

    def __init__(
        self,
        name: str,
        n: int,
        first: int,
        settings: dict[str, Any],
        needs: Needs,
        engine: TraceEngine,
        question: str,
        sampling: SamplingView,
    ) -> None:
        """first: traces that start together, before anything is known. needs: with confidences these break ties."""
        self.by_confidence = needs.confidence_top_k > 0
        asking = with_confidences(sampling, needs.confidence_top_k) if self.by_confidence else sampling
        super().__init__(name, n, settings, needs, engine, question, asking)
        self.first = self.started = min(first, n)
        self.counted = 0  # traces whose votes are in: those before the first that still runs
        self.over = False

    @abstractmethod
    def _decide(self, counts: list[int]) -> None:
        """One more vote is in. counts: votes of each answer, falling."""

    def _start(self) -> None:
        for record in self.records[self.started :]:
            self._stop(record, "waiting", "not started yet")
        self._say(f"{traces(self.started)} of at most {self.n} start")

    def _ended(self, record: TraceState) -> None:
        if self.over:
            return
        with self.clock.during("vote"):
            while not self.over and self.counted < self.started and self.records[self.counted].ended:
                self._count(self.records[self.counted])
                self.counted += 1
                if self.counted >= self.first:
                    self._decide([len(vote.traces) for vote in self.votes])

    def _count(self, record: TraceState) -> None:
        if record.answer is not None:
            record.weight = 1.0
            self.tally.add(record.index, record.answer, tie=mean_confidence(record.view) if self.by_confidence else 0.0)
            self.votes = self.tally.votes()

    def _go_on(self) -> None:
        """Start the next trace."""
        self._resume(self.records[self.started])
        self.started += 1

    def _end(self, reason: str, message: str) -> None:
        """No further trace starts, and those that run are stopped. reason: of those not started; message: said if there are."""
        self.over = True
        for record in self.records[self.counted : self.started]:
            if not record.ended:
                self._stop(record, "abandoned", DECIDED)
        for record in self.records[self.started :]:
            record.fate, record.reason = "abandoned", reason
        left = self.n - self.started
        if left:
            self._say(f"{message}: {traces(left)} not started")
