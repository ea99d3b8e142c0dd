"""What the runs of all strategies share: records, driving the engine, snapshots, verdicts and a clean end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from laconic import answers, checks
from laconic.errors import EngineError, InputError
from laconic.prune.alike import warn_alike
from laconic.prune.needs import Needs, prepare
from laconic.prune.strategies.base import Snapshot, StrategyProgress, StrategyRun, TraceRow
from laconic.prune.strategies.clock import Clock
from laconic.prune.strategies.settings import check_sampling
from laconic.prune.trace_engine import ChunkView, SamplingView, TraceEngine, TraceView
from laconic.prune.verdict import Fate, PlainVote, Tokens, TraceFate, Verdict, Vote
from laconic.prune.voting import Tally, decided, known_confidence, plain_vote

COUNTED = {"steps": "steps", "token_steps": "kv_token_steps", "compressions": "compressions", "evicted": "evicted"}
"""`Verdict.kv`'s names for what an engine counts up."""

MOST_TRACES = 4096
"""The limit on n of every strategy."""

DECIDED = "the vote was decided without it"


def traces(count: int) -> str:
    return f"{count} trace" if count == 1 else f"{count} traces"


@dataclass(slots=True, eq=False)
class TraceState:
    """A trace as its run sees it."""

    view: TraceView
    """The engine's record of it, which goes on changing."""
    index: int
    fate: Fate = "waiting"
    reason: str = "not started yet"
    tokens: int = 0
    cluster: int | None = None
    answer: str | None = None
    weight: float = 0.0
    live: bool = True
    """Whether the engine has not sent its last chunk yet."""
    halted: bool = False
    """Whether the engine was asked to stop it."""
    ended: bool = False
    """Whether it came to its own end or its limit, so that its answer (or that it has none) is known."""
    complete: bool = False
    """Whether it did so within its excerpt."""

    @property
    def id(self) -> str:
        return self.view.id


class StrategyRunBase(StrategyRun):
    """One run of a strategy. A subclass says what happens when a trace moves on (`_moved_on`) or ends (`_ended`).

    It drives the engine alone while it lasts: chunks of traces that aren't its own are not kept for anyone.
    """

    def __init__(
        self,
        name: str,
        n: int,
        settings: dict[str, Any],
        needs: Needs,
        engine: TraceEngine,
        question: str,
        sampling: SamplingView,
    ) -> None:
        warn_alike(n, sampling)
        checks.capable("engine", engine, ("submit", "stream", "stop", "render"), "an engine")
        checks.text("question", question)
        check_sampling(sampling)
        self.name, self.n, self.settings, self.needs = name, n, settings, needs
        self.engine, self.question, self.sampling = engine, question, sampling
        self.records: list[TraceState] = []
        self.tally = Tally()
        self.plain_tally = Tally()  # a vote for each trace that has finished, whatever the strategy makes of it
        self.votes: tuple[Vote, ...] = ()
        self.note = ""
        self.clock = Clock()
        self._by_id: dict[str, TraceState] = {}
        self._step: set[int] = set()
        self._moved: dict[str, None] = {}
        self._messages: list[tuple[str, str]] = []  # with the phase in which each was said
        self._complete = False
        self._interrupting = False
        self._eager = False
        self._peak = 0
        self._before: dict[str, int] = {}  # what the engine had counted when the run began
        self._whole = self._run()

    # ---- what a strategy is ---------------------------------------------------------------------------------------

    phase = "finish"

    @abstractmethod
    def _start(self) -> None:
        """The traces have been submitted: stop those that are not to run yet."""

    def _moved_on(self, record: TraceState) -> None:
        """A running trace has new tokens."""

    @abstractmethod
    def _ended(self, record: TraceState) -> None:
        """A trace has ended; its answer is known."""

    def _step_over(self) -> None:
        """All rows have been seen since `_eager` was set, or none is left."""

    def _close(self) -> None:
        """No trace runs any more."""

    def _judged(self) -> int:
        """Tokens on the judge's account, or the probes', so far."""
        return 0

    def _text(self, record: TraceState) -> str:
        """A trace's text as the verdict has it."""
        return record.view.text

    def _clusters(self) -> Sequence[Sequence[int]]:
        return ()

    def _extra(self) -> dict[str, Any]:
        return {}

    # ---- running --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[StrategyProgress]:
        """See StrategyRun. Raises EngineError where the engine gave traces up and no other came to an end or a vote."""
        return self._whole

    def _run(self) -> Generator[StrategyProgress, None, None]:
        """The steps, with the clock running only inside them."""
        self.clock.go(self.phase)
        try:
            for progress in self._steps():
                self.clock.stop()
                yield progress
                self.clock.go()
            self._complete = True
        finally:
            self.clock.stop()

    def _steps(self) -> Iterator[StrategyProgress]:
        if not self.question.strip():
            raise InputError("the problem is empty: give a question")
        prepare(self.engine, self.needs)
        stats = self.engine.stats
        self._before = {name: getattr(stats, name, 0) for name in ("peak_kv_bytes", *COUNTED.values())}
        ids = self.engine.submit(self.engine.render(self.question), self.sampling, self.n)
        self.records = [TraceState(self.engine.trace(name), index) for index, name in enumerate(ids)]
        self._by_id = {record.id: record for record in self.records}
        self._start()
        while any(record.live for record in self.records):
            yield from self._drive()
        self._close()
        with self.clock.during("vote"):
            self.votes = self.tally.votes()
        self._note_lost()
        yield from self._flush("vote")

    def _note_lost(self) -> None:
        """Tell of traces that the engine gave up. Raises EngineError where no other has come to its end or has voted."""
        lost = [record for record in self.records if record.fate == "lost"]
        if lost and not self.votes and not any(record.fate == "finished" for record in self.records):
            raise EngineError(
                f"none of the traces came to its end; trace {lost[0].index} is lost: {lost[0].reason}",
                getattr(lost[0].view, "error_status", 0),
            )
        if lost:
            self.note = "; ".join(filter(None, [self.note, f"{traces(len(lost))} lost: {lost[0].reason}"]))

    def _drive(self) -> Iterator[StrategyProgress]:
        """Run the engine until none of the run's traces is live, a StrategyProgress a step and a decision."""
        with closing(self.engine.stream()) as stream:
            for chunk in stream:
                if chunk is None:
                    yield StrategyProgress(self.phase, waits=True)
                    continue
                record = self._by_id.get(chunk.trace_id)
                if record is None:
                    continue
                over = record.index in self._step  # its second chunk: the step before is over
                if over:
                    self._step.clear()
                # Taken before anything is yielded: whoever stops iterating there loses no token.
                self._take(record, chunk)
                if self._eager and self._all_seen():
                    self._step_over()
                if over or self._messages:
                    yield from self._flush()
                if not record.live and not any(r.live for r in self.records):
                    break
        self._step.clear()
        self._step_over()
        yield from self._flush()

    def _all_seen(self) -> bool:
        """Whether every row that runs has sent its chunk of this step, so that nothing has been carried out yet."""
        running = (r for r in reversed(self.records) if r.live and not r.halted)
        return all(r.index in self._step or r.view.state != "running" for r in running)

    def _take(self, record: TraceState, chunk: ChunkView) -> None:
        self._step.add(record.index)
        self._moved[record.id] = None
        record.tokens += len(chunk.token_ids)
        if chunk.finish_reason is None:
            if not record.halted:
                if record.fate == "waiting":
                    record.fate, record.reason = "running", "running"
                self._moved_on(record)
        else:
            record.live = False
            if chunk.finish_reason != "stopped":
                self._finish(record)
                self._ended(record)
            elif (
                not record.halted and record.view.state == "stopped"
            ):  # else it was asked to, and may be going on by now
                self._lose(record)

    def _finish(self, record: TraceState) -> None:
        record.live, record.ended, record.fate = False, True, "finished"
        limit = record.view.finish_reason == "length"
        record.reason = f"reached its limit of {record.tokens} tokens" if limit else "came to its end"
        with self.clock.during("vote"):
            record.answer = answers.answer_of(record.view)
            if record.answer is not None:
                self.plain_tally.add(record.index, record.answer, tie=known_confidence(record.view) or 0.0)

    def _lose(self, record: TraceState) -> None:
        """The engine has given a trace up: it counts as ended, without an answer."""
        record.live, record.ended, record.complete, record.fate = False, True, True, "lost"
        record.reason = getattr(record.view, "error", "") or "the engine gave it up"
        self._say(f"trace {record.index} is lost: {record.reason}")
        self._ended(record)

    def _stop(self, record: TraceState, fate: Fate, reason: str) -> None:
        """Stop a trace that has not ended, running or waiting; its memory is free at the next step."""
        if self._interrupting:
            return
        record.fate, record.reason = fate, reason
        self._moved[record.id] = None
        if not record.halted:
            record.halted = True
            self.engine.stop(record.id)
            # One that had not started sends no last chunk.
            record.live = record.live and record.view.state != "stopped"

    def _resume(self, record: TraceState) -> None:
        """Let a stopped trace go on. Of one that ended meanwhile the last chunk is on its way."""
        if self._interrupting:
            return
        record.fate, record.reason = "running", "running"
        self._moved[record.id] = None
        record.halted = False
        if record.view.state != "finished":
            self.engine.resume(record.id)
            record.live = True

    def _vote(self, record: TraceState, tie: float = 0.0) -> None:
        """The trace has one vote for its answer. tie: see `Tally.add`."""
        assert record.answer is not None
        record.weight = 1.0
        self.tally.add(record.index, record.answer, tie=tie)
        self.votes = self.tally.votes()

    def _stop_if_decided(self, open_ties: bool = False) -> bool:
        """Stop what still runs where its votes, one each, can't change the winner. open_ties: see `decided`."""
        left = [r for r in self.records if not r.ended and r.fate in ("running", "waiting")]
        if not left or not decided(self.votes, [(r.index, 1.0) for r in left], open_ties=open_ties):
            return False
        for r in left:
            self._stop(r, "abandoned", DECIDED)
        lead = self.votes[0]
        self._say(
            f"the vote is decided: {lead.answer} has {len(lead.traces)} of {self.n} votes, {traces(len(left))} can't change it"
        )
        return True

    def _say(self, message: str) -> None:
        self._messages.append((self.phase, message))

    def _flush(self, phase: str = "") -> Iterator[StrategyProgress]:
        """What is new, a StrategyProgress a message, the moved traces with the first."""
        self._sample()
        moved, messages = tuple(self._moved), self._messages or [(phase or self.phase, "")]
        self._moved, self._messages = {}, []
        for number, (said, message) in enumerate(messages):
            yield StrategyProgress(said, () if number else moved, message)

    def _sample(self) -> int:
        """KV bytes held now."""
        told = getattr(self.engine, "live_kv_bytes", None)  # cheaper than all counts, where an engine has it
        now = int(getattr(self.engine.stats, "live_kv_bytes", 0) or 0) if told is None else int(told)
        self._peak = max(self._peak, now)
        return now

    # ---- what came of it ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return Snapshot(
            phase="vote" if self._complete else self.phase,
            rows=tuple(TraceRow(r.id, r.index, r.tokens, r.fate, r.cluster, r.answer, r.reason) for r in self.records),
            clusters=tuple(len(cluster) for cluster in self._clusters()),
            votes=tuple((vote.answer, vote.weight) for vote in self.votes),
            generated=sum(r.tokens for r in self.records),
            judged=self._judged(),
            seconds=self.clock.total,
            phases=dict(self.clock.seconds),
            kv_bytes=self._sample(),
            extra=self._extra(),
            plain=self._plain(),
        )

    def verdict(self) -> Verdict:
        votes = self.tally.votes()
        note = self.note
        if self._complete and not votes:
            unanswered = sum(r.ended for r in self.records)
            note = "; ".join(filter(None, [f"of {traces(unanswered)} that ended none gave an answer", note]))
        elif not self._complete:
            note = "; ".join(filter(None, ["this is how it stood before the end", note]))
        return Verdict(
            strategy=self.name,
            n=self.n,
            answer=votes[0].answer if votes else None,
            votes=votes,
            traces=tuple(
                TraceFate(
                    r.id,
                    r.index,
                    r.fate,
                    r.reason,
                    r.tokens,
                    r.cluster,
                    r.answer,
                    r.weight,
                    self._text(r),
                    known_confidence(r.view) if r.fate == "finished" else None,
                )
                for r in self.records
            ),
            tokens=self._tokens(),
            clusters=tuple(tuple(cluster) for cluster in self._clusters()),
            seconds={**self.clock.seconds, "total": self.clock.total},
            kv=self._kv(),
            settings=self.settings,
            complete=self._complete,
            note=note,
            plain=self._plain(),
        )

    def _plain(self) -> PlainVote | None:
        """Of the traces that have finished, at the cost of all so far."""
        spent = sum(r.tokens for r in self.records) + self._judged()
        ended = [r.tokens for r in self.records if r.ended and r.fate != "lost"]
        return plain_vote(self.plain_tally.votes(), ended, spent)

    def _tokens(self) -> Tokens:
        generated, judged = sum(r.tokens for r in self.records), self._judged()
        lengths = [r.tokens for r in self.records if r.fate == "finished"]
        saved = None
        if lengths:
            saved = round(self.n * sum(lengths) / len(lengths)) - generated - judged
        return Tokens(generated, judged, saved)

    def _kv(self) -> dict[str, float]:
        """Peak bytes are exact where this run went beyond what the engine ever held before, else the most seen at a step."""
        stats = self.engine.stats
        told: dict[str, float] = {}
        peak = getattr(stats, "peak_kv_bytes", None)
        if peak is not None:
            told["peak_bytes"] = peak if peak > self._before.get("peak_kv_bytes", 0) else self._peak
        for name, counted in COUNTED.items():
            now = getattr(stats, counted, None)
            if now is not None:
                told[name] = now - self._before.get(counted, 0)
        means = [(getattr(r.view, "mean_kv_tokens", 0.0), len(r.view.token_ids)) for r in self.records]
        tokens = sum(count for mean, count in means if mean)
        if tokens:
            told["mean_tokens"] = sum(mean * count for mean, count in means) / tokens
        return told

    def interrupt(self) -> Verdict:
        if not self._complete:
            self._whole.close()
            for record in self.records:
                # Of one that has ended or stopped the last chunk is on its way: `_settle` takes it.
                if record.live and record.view.state not in ("finished", "stopped"):
                    record.halted = False  # an earlier stop may not have got through
                    self._stop(record, record.fate, record.reason)
            self._settle()
            self._interrupting = True  # from here on nothing is stopped or goes on
            for record in self.records:
                record.tokens = len(record.view.token_ids)
                if not record.ended and record.view.state == "finished":
                    self._finish(record)
                    self._ended(record)  # it has come to its end, so it votes
            for record in self.records:
                if record.fate in ("running", "waiting"):
                    record.fate, record.reason = "interrupted", "the run was interrupted"
        return self.verdict()

    def _settle(self) -> None:
        """Let the engine carry the stops out and send what it still has to say."""
        if any(record.live for record in self.records):
            with closing(self.engine.stream()) as stream:
                for chunk in stream:
                    if chunk is None:  # whoever shares the engine sees to it that the stops are carried out
                        break
                    record = self._by_id.get(chunk.trace_id)
                    if record is not None and chunk.finish_reason is not None:
                        record.live = False
                        if not any(r.live for r in self.records):
                            break
