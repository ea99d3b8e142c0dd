"""DeepConf (arXiv 2508.15260): stop traces whose confidence falls under a bar, weight votes by confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import DECIDED, MOST_TRACES, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import settings_of, with_confidences
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import Confidence, Tally, confidences_of, consensus, percentile
from laconic.settings import setting

KEPT = {"low": 0.1, "high": 0.9}
MOST_WINDOW, MOST_CANDIDATES = 1 << 20, 1000


@dataclass(frozen=True)
class DeepConf(Strategy):
    """Warm-up traces set a bar; later ones that fall under it are stopped; votes are weighted by confidence.

    The outcome is that of running the traces one after another in the order of index, whatever runs side by side: a
    trace's vote counts once all before it are done, and sampling ends with the first that brings the consensus. The
    published window of 2,048 tokens is longer than a whole trace of a small model: choose it well below their length.
    Raises InputError for settings out of range.
    """

    summary: ClassVar[str] = (
        "stops traces whose confidence falls under a bar that warm-up traces set; confident votes weigh more"
    )
    source: ClassVar[str] = "arXiv 2508.15260"

    n: int
    mode: str = setting("low", "low keeps the most confident tenth of the warm-up, high nine tenths")
    warmup: int = setting(16, "traces that run to their ends and set the bar")
    window: int = setting(2048, "tokens whose mean confidence makes a group")
    top_k: int = setting(20, "candidates whose mean log-probability makes a token's confidence")
    threshold: float = setting(0.95, "share of the weight with which the leading answer ends the sampling")
    quorum: int = setting(4, "votes that there must be for that")
    parallel: int = setting(16, "traces that run side by side after the warm-up")

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.word("mode", self.mode, tuple(KEPT))
        checks.whole("warmup", self.warmup, 1, MOST_TRACES, "traces")
        checks.whole("window", self.window, 1, MOST_WINDOW, "tokens")
        checks.whole("top_k", self.top_k, 1, MOST_CANDIDATES, "candidates")
        checks.share("threshold", self.threshold, "1 asks for one answer only")
        checks.whole("quorum", self.quorum, 1, MOST_TRACES, "votes")
        checks.whole("parallel", self.parallel, 1, MOST_TRACES, "traces")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"deepconf:{self.mode}"

    def needs(self) -> Needs:
        return Needs(confidence_top_k=self.top_k)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> DeepConfRun:
        return DeepConfRun(self, engine, question, with_confidences(sampling, self.top_k))


class DeepConfRun(StrategyRunBase):
    """A run of `DeepConf`."""

    phase = "explore"

    def __init__(self, strategy: DeepConf, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        super().__init__(strategy.name, strategy.n, settings_of(strategy), strategy.needs(), engine, question, sampling)
        self.strategy = strategy
        self.warmup = min(strategy.warmup, strategy.n)
        self.confidence = [Confidence(strategy.window) for _ in range(strategy.n)]
        self.bar: float | None = None
        self.started = self.warmup
        self.turn = 0  # index of the next trace whose vote counts
        self.over = False

    def _start(self) -> None:
        for record in self.records[self.warmup :]:
            self._stop(record, "waiting", "not started yet")
        self._say(f"{traces(self.warmup)} start, to set the bar")

    def _extra(self) -> dict[str, Any]:
        return {} if self.bar is None else {"bar": self.bar}

    def _moved_on(self, record: TraceState) -> None:
        self._read(record)
        if self._fell(record):
            self._stop(record, "pruned", self._why(record))
            self._say(f"trace {record.index} pruned: {record.reason}")
            self._done()

    def _ended(self, record: TraceState) -> None:
        self._read(record)
        if self._fell(record):  # in its last tokens, or the stop came too late
            record.fate, record.reason = "pruned", self._why(record)
        self._done()

    def _read(self, record: TraceState) -> None:
        """Read the trace's new tokens, up to the first group under the bar: one at a time or many, the outcome is the same."""
        confidence, found = self.confidence[record.index], confidences_of(record.view, "DeepConf needs")
        while confidence.tokens < len(found) and not self._fell(record):
            confidence.add(found[confidence.tokens])

    def _fell(self, record: TraceState) -> bool:
        """Whether a whole group of a trace after the warm-up was under the bar."""
        confidence = self.confidence[record.index]
        late = self.bar is not None and record.index >= self.warmup and confidence.tokens >= confidence.window
        return late and confidence.lowest < self.bar  # type: ignore[operator]

    def _why(self, record: TraceState) -> str:
        return f"its confidence fell to {self.confidence[record.index].lowest:.2f}, under the bar of {self.bar:.2f}"

    def _done(self) -> None:
        """A trace has ended or was stopped: count what can be counted, then let the next ones start."""
        if self.over:
            return
        if self.bar is None:
            if not all(r.ended for r in self.records[: self.warmup]):
                return
            lowest = [self.confidence[i].lowest for i in range(self.warmup)]
            self.bar = percentile(lowest, 1 - KEPT[self.strategy.mode])
            self._say(f"the bar is a confidence of {self.bar:.2f}, set by {traces(self.warmup)}")
            self.phase = "finish"
            self.clock.go(self.phase)
        with self.clock.during("vote"):
            while self.turn < self.n and self._is_done(self.records[self.turn]) and not self.over:
                self._count(self.records[self.turn])
                self.turn += 1
                self.over = self.turn >= self.warmup and self._agreed()
        if self.over:
            self._end()
        else:
            self._begin_more()

    def _is_done(self, record: TraceState) -> bool:
        return record.ended or record.fate == "pruned"

    def _count(self, record: TraceState) -> None:
        lowest = self.confidence[record.index].lowest
        assert self.bar is not None
        if record.fate == "finished" and record.answer is not None and lowest >= self.bar:
            record.weight = lowest
            self.tally.add(record.index, record.answer, lowest)
            self.votes = self.tally.votes()

    def _agreed(self) -> bool:
        votes = sum(len(vote.traces) for vote in self.votes)
        return votes >= self.strategy.quorum and consensus(self.votes) >= self.strategy.threshold

    def _end(self) -> None:
        left = [r for r in self.records[self.turn :] if not self._is_done(r)]
        for record in left:
            self._stop(record, "abandoned", DECIDED)
        if self.turn < self.n:
            share = consensus(self.votes)
            self._say(
                f"{self.votes[0].answer} holds {share:.0%} of the weight: {traces(self.n - self.turn)} not needed"
            )

    def _begin_more(self) -> None:
        running = sum(not self._is_done(r) for r in self.records[self.warmup : self.started])
        while self.started < self.n and running < self.strategy.parallel:
            self._resume(self.records[self.started])
            self.started += 1
            running += 1

    def _close(self) -> None:
        # One that fell in its last tokens would not have come to its end, had it been read token by token.
        if len(self.tally) == 0 and any(r.fate == "finished" and r.answer is not None for r in self.records):
            # Rather than no answer: what the bar kept out.
            self.note = "no trace above the bar gave an answer, so all that ended voted"
            self.tally = Tally()
            for record in self.records:
                if record.fate == "finished" and record.answer is not None:
                    record.weight = self.confidence[record.index].lowest
                    self.tally.add(record.index, record.answer, record.weight)
