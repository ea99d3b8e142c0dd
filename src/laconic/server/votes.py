"""A request that is voted on: a strategy's run over traces of one prompt, and what its page reads of them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from laconic.compress import Policy
from laconic.engines.base import Trace
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import InputError, LaconicError
from laconic.server.asks import AskError
from laconic.server.events import ChoiceEnded, Done, Event, ProgressTold, Started, TextTold, Usage
from laconic.server.jobs import Chosen, Job, ModelToServe, tell_token
from laconic.server.splitting import StopTexts, ThinkingSplitter

if TYPE_CHECKING:
    from laconic.prune.strategies.base import Snapshot, StrategyProgress
    from laconic.prune.verdict import Verdict

TELL_EVERY = 1.0  # seconds between two lines of a vote's progress
LOOK_EVERY = 0.2  # seconds between two snapshots of a vote


class VoteJob(Job):
    """A strategy's run; its winner is the one choice."""

    def begin(self, model: ModelToServe, chosen: Chosen, shared: SharedEngine) -> None:
        assert chosen.strategy is not None
        self.model, self.chosen = model, chosen
        if self.ask.continues:
            raise AskError(
                "a vote can't go on with a message; leave continue_final_message out", "continue_final_message"
            )
        more = {} if self.ask.logprobs is None else {"logprobs": self.ask.logprobs}
        sampling = self.choose_sampling(model, **more)
        prompt = model.prompt(self.ask) if self.ask.messages else model.plain_prompt(self.ask.prompts[0])
        self.view = shared.view(prompt)
        self.run = chosen.strategy.begin(self.view, self.ask.question or "a prompt of token ids", sampling)
        self._steps: Iterator[StrategyProgress] = iter(self.run)
        self._telling = 0.0
        self._told = ""
        self._looked = 0.0
        self.kv_peak = 0
        """Bytes, of the snapshots so far."""
        self.snapshot: Snapshot | None = None
        self.verdict: Verdict | None = None
        self.pieces: Pieces | None = None
        self.messages: list[tuple[float, str]] = []
        """What was decided, with the seconds at which."""
        self._proceed()
        if not self.over:
            self.prompt_tokens = len(self.view.trace(self.view.trace_ids[0]).prompt_ids)
            self.mailbox.put(Started(self.prompt_tokens))

    def advance(self) -> None:
        self.note_first_token()
        self._proceed()

    def _proceed(self) -> None:
        """As far as the chunks go that have come."""
        for progress in self._steps:
            if progress.message:
                self.messages.append((self.seconds, progress.message))
            if progress.waits:
                self._look()
                return
        self._conclude(self.run.verdict())

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY:
            self._looked = now
            self.snapshot = self.run.snapshot()
            self.kv_peak = max(self.kv_peak, self.snapshot.kv_bytes)
        if self.ask.method.progress and self.snapshot is not None and now - self._telling > TELL_EVERY:
            self._telling = now
            line = progress_line(self.snapshot)
            if line != self._told:
                self._told = line
                self.mailbox.put(ProgressTold(line + "\n"))

    def end_early(self, reason: str) -> None:
        self._conclude(self.run.interrupt(), reason)

    def _conclude(self, verdict: Verdict, note: str = "") -> None:
        assert self.view is not None
        self.verdict, self.snapshot = verdict, self.run.snapshot()
        self.generated = verdict.tokens.generated
        self.pieces = Pieces(self, verdict)
        index = verdict.winner
        if index is None:
            index = next((fate.index for fate in verdict.traces if fate.fate == "finished"), None)
        events: list[Event] = []
        reason, content_tokens = "stop", 0
        if self.ask.method.progress:
            events.append(ProgressTold(progress_line(self.snapshot) + "\n\n"))
        if index is not None:
            trace = self.view.trace(verdict.traces[index].id)
            thoughts, said = split(verdict.traces[index].text, trace.thinking, self.ask.endpoint != "completions")
            stops = StopTexts(self.ask.stops)
            said = stops.add(said) + stops.finish()
            reason = "length" if trace.finish_reason == "length" and not stops.stopped else "stop"
            logprobs = tuple(
                tell_token(self.model, *each) for each in zip(trace.token_ids, trace.logprobs, strict=False)
            )
            if thoughts:
                events.append(TextTold(0, True, thoughts))
            events.append(TextTold(0, False, said, logprobs))
            content_tokens = min(len(trace.token_ids), self.model.count(said))
        events.append(ChoiceEnded(0, reason))
        usage = Usage(self.prompt_tokens, verdict.tokens.generated, verdict.tokens.generated - content_tokens)
        self.finish(*events, Done(usage, self.report(verdict, note)))
        del self.run, self._steps  # what is read from here on is in the verdict and the pieces

    def read_trace(self, index: int) -> dict[str, Any]:
        """A trace as the page shows it, of a vote that runs or is over. Raises InputError for an unknown index."""
        if self.pieces is not None:
            return self.pieces.read(index)
        if self.view is None or self.view.closed or not 0 <= index < len(self.view.trace_ids):
            raise AskError(f"there is no trace {index} in this run", status=404)
        trace = self.view.trace(self.view.trace_ids[index])
        return shaded(self.model.pieces(trace.token_ids), held(self.view, self.chosen.policy, trace))

    def report(self, verdict: Verdict, note: str = "") -> dict[str, Any]:
        """The `laconic` object: everything of the verdict but the traces' texts."""
        told = verdict.to_dict()
        for trace in told["traces"]:
            del trace["text"], trace["id"]
        told["compress"] = self.chosen.policy.spec()
        told["judge"] = self.chosen.judge
        told["seed"] = self.seed
        told["seconds"]["wall"] = self.seconds
        told["seconds"] = {name: round(value, 3) for name, value in told["seconds"].items()}
        if note:
            told["note"] = "; ".join(filter(None, [note, told["note"]]))
        return told


class Pieces:
    """What can still be read of a run's traces when the engine has forgotten them: tokens, and which compression kept."""

    def __init__(self, job: VoteJob, verdict: Verdict) -> None:
        assert job.view is not None
        self._model = job.model
        self._tokens: dict[int, list[int]] = {}
        self._held: dict[int, list[int] | None] = {}
        for fate in verdict.traces:
            trace = job.view.trace(fate.id)
            self._tokens[fate.index] = trace.token_ids
            self._held[fate.index] = held(job.view, job.chosen.policy, trace)

    def read(self, index: int) -> dict[str, Any]:
        """A trace as runs of tokens that were kept, or weren't. Raises InputError for an unknown index."""
        if index not in self._tokens:
            raise InputError(f"there is no trace {index} in this run; expected 0 to {len(self._tokens) - 1}")
        return shaded(self._model.pieces(self._tokens[index]), self._held[index])


def held(view: EngineView, policy: Policy, trace: Trace) -> list[int] | None:
    """Positions of the generated tokens that at least half of the layers hold: what the latest compression kept, and what came
    after it. None: nothing was evicted, or the engine doesn't tell."""
    points = policy.schedule.compression_points(max(len(trace.token_ids) - 1, 0))
    if not points:
        return None
    try:
        kept = view.kept(trace.id)
    except LaconicError:
        return None
    return [*(place for place in kept if place < points[-1]), *range(points[-1], len(trace.token_ids))]


def shaded(pieces: Sequence[str], places: Sequence[int] | None) -> dict[str, Any]:
    """A text as parts, each [text, whether it is held]. pieces: of its tokens; places: of those held; None: of all."""
    inside = set(range(len(pieces)) if places is None else places)
    parts = [
        ("".join(pieces[place] for place in group), is_held)
        for is_held, group in itertools.groupby(range(len(pieces)), key=inside.__contains__)
    ]
    return {"parts": parts, "tokens": len(pieces), "held": len(inside), "known": places is not None}


def split(text: str, thinking: bool, chat: bool) -> tuple[str, str]:
    """(thoughts, answer) of a whole text; all of it is the answer where no chat was asked for."""
    if not chat:
        return "", text
    splitter = ThinkingSplitter(thinking)
    pieces = splitter.add(text) + splitter.finish()
    return "".join(p.text for p in pieces if p.thinking), "".join(p.text for p in pieces if not p.thinking)


def progress_line(snapshot: Snapshot) -> str:
    """16 traces, 9 stopped, 3 finished: 12 (2), 7 (1)"""
    fates = Counter(row.state for row in snapshot.rows)
    stopped = fates["pruned"] + fates["abandoned"] + fates["interrupted"]
    parts = [f"{len(snapshot.rows)} traces"]
    parts += [f"{count} {name}" for count, name in ((fates["running"], "running"), (stopped, "stopped")) if count]
    finished = fates["finished"]
    parts.append(f"{finished} finished")
    answers = Counter(row.answer for row in snapshot.rows if row.state == "finished" and row.answer is not None)
    votes = snapshot.votes or tuple((answer, float(count)) for answer, count in answers.most_common())
    told = ", ".join(f"{answer} ({weight:g})" for answer, weight in votes[:4])
    return ", ".join(parts) + (f": {told}" if told else "")
