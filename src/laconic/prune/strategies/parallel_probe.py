"""Parallel-Probe (arXiv 2602.03845): all traces are probed together; the majority drops those that differ, and ends the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.answers import equivalent
from laconic.prune.probing import SUFFIX_SETTING, TOKENS_SETTING, ProbedAnswer, check_suffix
from laconic.prune.strategies.probed import ProbedRun, ProbingStrategy
from laconic.prune.strategies.run import MOST_TRACES, TraceState, traces
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.settings import setting

SHORT: Mapping[str, Any] = {"interval": 32, "warmup": 8, "patience": 4, "stable": 20}
"""Ours, for small models whose traces are some hundred tokens: the published steps halved, of a sixteenth of the tokens.
`ParallelProbe(8, **SHORT)`, or `parallel-probe:short` as text."""


@dataclass(frozen=True)
class ParallelProbe(ProbingStrategy):
    """n traces are asked for their answers every `interval` tokens, all together; the majority drops traces, and ends the run.

    A trace that has ended stands for its own answer from there on, one without an answer for none. Steps are counted as in the
    authors' code: step 0 is the second probe. From step `warmup` on, a running trace that differs from the majority `patience`
    steps in a row is dropped, and no longer votes. Once the majority has not changed `stable` steps in a row, what still runs
    is stopped and votes with what it answered last. Raises InputError for settings out of range.
    """

    name = "parallel-probe"
    summary: ClassVar[str] = (
        "asks all traces every so many tokens what they would answer; drops those that keep differing from the majority, and "
        "ends when that has lasted"
    )
    source: ClassVar[str] = "arXiv 2602.03845"

    n: int
    interval: int = setting(500, "tokens of each trace between two steps")
    warmup: int = setting(15, "the step from which on differing counts; step 0 is the second probe")
    patience: int = setting(7, "steps in a row that a trace may differ from the majority before it is dropped")
    stable: int = setting(40, "steps in a row that the majority has to stay the same to end the run")
    tokens: int = setting(20, TOKENS_SETTING)
    suffix: str | None = setting(None, SUFFIX_SETTING + "closing, or published where the engine tells no tokenizer")

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.whole("interval", self.interval, 1, meaning="tokens")
        checks.whole("warmup", self.warmup, 0, meaning="steps")
        checks.whole("patience", self.patience, 1, meaning="steps")
        checks.whole("stable", self.stable, 1, meaning="steps")
        checks.whole("tokens", self.tokens, 1, meaning="tokens of an answer")
        check_suffix(self.suffix)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> ParallelProbeRun:
        return ParallelProbeRun(self, engine, question, sampling)


class ParallelProbeRun(ProbedRun):
    """A run of `ParallelProbe`.

    A trace that has come to the next step is probed and stops until all others are there, so the outcome does not depend on
    the batch. Where all get there in one step of the engine, they go on before it carries the stops out, and nothing is
    computed again; with fewer rows than traces each has to be rebuilt once a step.
    """

    def __init__(self, strategy: ParallelProbe, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        super().__init__(strategy, engine, question, sampling, "closing", until_closed=True)
        self.strategy = strategy
        self.step = -1  # the one that all are on their way to; the first probe comes before step 0
        self.there: set[int] = set()  # running traces that have been probed for it
        self.dropped: dict[int, str] = {}  # for which reason
        self.differed = [0] * strategy.n  # steps in a row
        self.lead: str | None = None
        self.held = 0  # steps in a row that the majority has not changed
        self.over = False

    def _start(self) -> None:
        super()._start()
        self._say(f"{traces(self.n)} start, probed every {self.strategy.interval} tokens")

    def _extra(self) -> dict[str, Any]:
        return {"step": self.step, "held": self.held}

    def _mark(self, record: TraceState) -> int:
        return (self.step + 2) * self.strategy.interval

    def _reached(self, record: TraceState) -> None:
        self._stop(record, "waiting", "waits for the others' probes")

    def _told(self, found: Sequence[tuple[TraceState, ProbedAnswer]]) -> None:
        with self.clock.during("vote"):
            for record, probed in found:
                self.there.add(record.index)
                if probed.answer is None:
                    self._take_back(record)
                else:
                    self._speak_for(record, probed.answer)

    def _ended(self, record: TraceState) -> None:
        self.there.discard(record.index)
        self._eager = True  # the others may have been waiting for it alone
        with self.clock.during("vote"):
            if record.index in self.dropped:  # the stop came too late
                record.fate, record.reason = "pruned", self.dropped[record.index]
                record.answer = None
            elif record.answer is not None:
                self.spoken_for.discard(record.index)
                self._vote(record)
            elif self.over and record.index in self.spoken_for:
                record.answer = self.latest[record.index]
            else:
                self._take_back(record)

    def _take_back(self, record: TraceState) -> None:
        """The trace has no vote."""
        record.answer, record.weight = None, 0.0
        self.spoken_for.discard(record.index)
        self.tally.remove(record.index)
        self.votes = self.tally.votes()

    # ---- a step ---------------------------------------------------------------------------------------------------

    def _step_over(self) -> None:
        super()._step_over()
        left = [record for record in self.records if not record.ended and record.index not in self.dropped]
        if left and not self.over and all(map(self._is_there, left)):
            with self.clock.during("vote"):
                if self.step >= 0:
                    self._decide(left)
            if not self.over:
                self._go_on(left)

    def _is_there(self, record: TraceState) -> bool:
        """Whether it has been probed for this step and can be let go on: its stop isn't being carried out right now."""
        return record.index in self.there and (record.view.state == "running" or not record.live)

    def _go_on(self, left: Sequence[TraceState]) -> None:
        self.step += 1
        self.there.clear()
        for record in left:
            if record.index not in self.dropped:
                self._resume(record)

    def _decide(self, running: Sequence[TraceState]) -> None:
        """Drop traces, and see whether the majority has lasted."""
        strategy = self.strategy
        if self.step >= strategy.warmup and self.n - len(self.dropped) > 1:
            voters = set(self.votes[0].traces) if self.votes else None
            for record in running:
                differs = voters is not None and record.index not in voters
                self.differed[record.index] = self.differed[record.index] + 1 if differs else 0
                if self.differed[record.index] >= strategy.patience:
                    self._drop(record)
        before, self.lead = self.lead, self.votes[0].answer if self.votes else None
        same = before is not None and self.lead is not None and equivalent(before, self.lead)
        self.held = self.held + 1 if same else 0
        if not same and self.lead is not None:
            self._say(f"step {self.step}: the majority is {self.lead}, {len(self.votes[0].traces)} of {traces(self.n)}")
        if self.held >= strategy.stable:
            self._end([record for record in running if record.index not in self.dropped])

    def _drop(self, record: TraceState) -> None:
        reason = f"differed from the majority {self.strategy.patience} steps in a row"
        self.dropped[record.index] = reason
        self._stop(record, "pruned", reason)
        self._take_back(record)
        self._say(f"trace {record.index} pruned: {reason}")

    def _end(self, running: Sequence[TraceState]) -> None:
        self.over = True
        for record in running:
            self._stop(record, "abandoned", f"the majority had stayed the same {self.strategy.stable} steps")
        self._say(f"the majority has been {self.lead} for {self.held} steps: {traces(len(running))} stopped")

    def _close(self) -> None:
        staying = {index: answer for index, answer in self.latest.items() if index not in self.dropped}
        self.latest = staying or self.latest
        super()._close()
