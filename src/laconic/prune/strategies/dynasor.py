"""Dynasor-CoT (arXiv 2412.20993): traces are probed on the way; one whose answer has settled is stopped, and votes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.answers import group_equivalent
from laconic.prune.probing import SUFFIX_SETTING, TOKENS_SETTING, ProbedAnswer, check_suffix
from laconic.prune.strategies.probed import ProbedRun, ProbingStrategy
from laconic.prune.strategies.run import MOST_TRACES, TraceState, traces
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.settings import setting

EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "mild": {"m": 8, "k": 64},
    "low": {"m": 5, "k": 64},
    "mid": {"m": 3, "k": 64},
    "high": {"m": 2, "k": 64},
    "crazy": {"m": 2, "k": 32},
}
"""The published settings, by how much they save. `DynasorCoT(1, **EFFORTS["high"])`, or `dynasor:high` as text."""


@dataclass(frozen=True)
class DynasorCoT(ProbingStrategy):
    """Majority vote over n traces, each of which ends once its latest m probes agree; n = 1 is the published use.

    Every k tokens a trace is asked for its answer, in at most `tokens` greedy tokens after `suffix`. It is stopped when the
    latest m answers are the same, none is empty, and none of these probes holds a word of doubt (`prune.probing.HEDGES`). Then
    it votes with that answer; a trace that ends before votes with its own. Raises InputError for settings out of range.
    """

    name = "dynasor"
    summary: ClassVar[str] = (
        "asks each trace every k tokens what it would answer; one whose latest m answers agree is stopped, and votes with it"
    )
    source: ClassVar[str] = "arXiv 2412.20993"

    n: int
    m: int = setting(3, "probes in a row that have to agree")
    k: int = setting(64, "tokens of a trace between two probes")
    tokens: int = setting(20, TOKENS_SETTING)
    suffix: str | None = setting(None, SUFFIX_SETTING + "published, or closing where a word of that is unknown")
    early_end: bool = setting(True, "stop the rest once the vote can't change any more")

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.whole("m", self.m, 1, meaning="probes")
        checks.whole("k", self.k, 1, meaning="tokens")
        checks.whole("tokens", self.tokens, 1, meaning="tokens of an answer")
        check_suffix(self.suffix)
        checks.flag("early_end", self.early_end)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> DynasorRun:
        return DynasorRun(self, engine, question, sampling)


class DynasorRun(ProbedRun):
    """A run of `DynasorCoT`. Each trace is decided by its own probes, so that the outcome does not depend on the batch."""

    def __init__(self, strategy: DynasorCoT, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        # Words of doubt mostly follow the box, so the text is read beyond it.
        super().__init__(strategy, engine, question, sampling, "published", until_closed=False)
        self.strategy = strategy
        self.marks = [strategy.k] * strategy.n  # tokens at which a trace is probed next
        self.probes: list[list[ProbedAnswer]] = [[] for _ in range(strategy.n)]  # the latest m of each
        self.over = False

    def _start(self) -> None:
        super()._start()
        self._say(f"{traces(self.n)} start, probed every {self.strategy.k} tokens")

    def _mark(self, record: TraceState) -> int:
        return self.marks[record.index]

    def _told(self, found: Sequence[tuple[TraceState, ProbedAnswer]]) -> None:
        k = self.strategy.k
        with self.clock.during("vote"):
            for record, probed in found:
                self.marks[record.index] = (record.tokens // k + 1) * k
                probes = self.probes[record.index]
                probes.append(probed)
                del probes[: -self.strategy.m]
                if probed.answer is not None and self._has_settled(probes):
                    reason = f"settled: the latest {self.strategy.m} probes gave {probed.answer}"
                    self._stop(record, "pruned", reason)
                    self._speak_for(record, probed.answer)
                    self._say(f"trace {record.index} pruned: {reason}")
            self._end_if_decided()

    def _has_settled(self, probes: Sequence[ProbedAnswer]) -> bool:
        if len(probes) < self.strategy.m or any(probe.answer is None or probe.hedged for probe in probes):
            return False
        return set(group_equivalent([probe.answer for probe in probes])) == {0}

    def _ended(self, record: TraceState) -> None:
        with self.clock.during("vote"):
            if record.answer is not None:
                self.spoken_for.discard(record.index)
                self._vote(record)
            elif record.index in self.spoken_for:  # its stop came too late, and it has no answer of its own
                record.answer = self.latest[record.index]
            self._end_if_decided()

    def _end_if_decided(self) -> None:
        if self.strategy.early_end and not self.over:
            self.over = self._stop_if_decided()
