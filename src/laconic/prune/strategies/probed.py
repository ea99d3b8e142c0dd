"""What strategies share that ask traces on the way what they would answer: probes, their price, and votes of stopped traces."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from laconic.errors import InputError
from laconic.prune.needs import Needs
from laconic.prune.probing import ProbedAnswer, choose_suffix, ending, read_probe
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import StrategyRunBase, TraceState
from laconic.prune.strategies.settings import settings_of
from laconic.prune.trace_engine import SamplingView, TextProbe, TraceEngine


class ProbingStrategy(Strategy):
    """A strategy that probes traces: `tokens` are read, at most, of what is written after `suffix` (see `choose_suffix`)."""

    n: int
    tokens: int
    suffix: str | None

    def needs(self) -> Needs:
        return Needs(probe=True)


class ProbedRun(StrategyRunBase):
    """A run that probes traces on the way. A subclass says at how many tokens (`_mark`), and what comes of the answers of those
    that were due together (`_told`).

    A trace is asked where it stands when its tokens have come: at the mark itself where chunks hold one token, else at the
    first end of a chunk from there on. Probes don't touch the trace; what they cost is `tokens.judged`.
    """

    def __init__(
        self,
        strategy: ProbingStrategy,
        engine: TraceEngine,
        question: str,
        sampling: SamplingView,
        preferred: str,
        until_closed: bool,
    ) -> None:
        """preferred: see `choose_suffix`. until_closed: only the answer is read of what is written."""
        given = settings_of(strategy), strategy.needs()
        super().__init__(strategy.name, strategy.n, *given, engine, question, sampling)
        self.asked_suffix, self.tokens = strategy.suffix, strategy.tokens
        self.preferred, self.until_closed = preferred, until_closed
        self.suffix = ""
        self.due: dict[int, TraceState] = {}  # to be probed, by index
        self.latest: dict[int, str] = {}  # the latest answer that probes gave of a trace
        self.spoken_for: set[int] = set()  # traces whose answer a probe gave
        self.probe_tokens = 0

    @abstractmethod
    def _mark(self, record: TraceState) -> int:
        """Tokens at which a running trace is to be probed next."""

    def _reached(self, record: TraceState) -> None:
        """A running trace has come to its mark."""

    @abstractmethod
    def _told(self, found: Sequence[tuple[TraceState, ProbedAnswer]]) -> None:
        """What traces that were due have answered, in the order of index."""

    def _start(self) -> None:
        ask: TextProbe | None = getattr(self.engine, "probe_texts", None)
        if ask is None:
            name = getattr(self.engine, "name", type(self.engine).__name__)
            raise InputError(
                f"the {name} engine has no probe_texts, by which {self.name} asks traces: use the hf engine, or a strategy "
                "that doesn't probe, such as self-consistency"
            )
        self._ask = ask
        self.suffix = choose_suffix(self.asked_suffix, getattr(self.engine, "tokenizer", None), self.preferred)

    def _judged(self) -> int:
        return self.probe_tokens

    def _moved_on(self, record: TraceState) -> None:
        if record.view.state == "finished":  # its last chunk is on its way
            return
        if record.index in self.due:  # it goes on while others have not been seen: they don't move in step
            self._probe()
        elif record.tokens >= self._mark(record):
            self.due[record.index] = record
            self._eager = True  # ask before the engine goes on
            self._reached(record)

    def _all_seen(self) -> bool:
        """Or nothing that the engine has computed is left to be seen, so that those that are due stand at their marks."""
        live = (record for record in self.records if record.live)
        return super()._all_seen() or all(record.tokens == len(record.view.token_ids) for record in live)

    def _step_over(self) -> None:
        self._eager = False
        self._probe()

    def _probe(self) -> None:
        """Ask all that are due at once, but for those that have ended, or were stopped for good."""
        due = [record for _, record in sorted(self.due.items()) if record.fate in ("running", "waiting")]
        asked = [record for record in due if record.view.state != "finished"]
        self.due.clear()
        if not asked:
            return
        with self.clock.during("judge"):
            before = getattr(self.engine.stats, "side_tokens", 0)
            texts = self._ask([r.id for r in asked], self.suffix, self.tokens, self.until_closed)
            self.probe_tokens += getattr(self.engine.stats, "side_tokens", 0) - before
        found = [(record, read_probe(text)) for record, text in zip(asked, texts, strict=True)]
        for record, probed in found:
            if probed.answer is not None:
                self.latest[record.index] = probed.answer
        self._told(found)

    def _speak_for(self, record: TraceState, answer: str) -> None:
        """The trace votes for what a probe gave."""
        record.answer = answer
        self.spoken_for.add(record.index)
        self._vote(record)

    def _text(self, record: TraceState) -> str:
        """With an end that gives the answer, where a probe answered for the trace."""
        text = record.view.text
        if record.index not in self.spoken_for or record.answer is None:
            return text
        return text + ending(record.view, record.answer, getattr(self.engine, "tokenizer", None))

    def _close(self) -> None:
        """Where nobody has an answer, what the latest probes gave votes, rather than no one."""
        if len(self.tally) or not self.latest:
            return
        self.note = "no trace came to an answer, so what the latest probes gave voted"
        for index in sorted(self.latest):
            self._speak_for(self.records[index], self.latest[index])
