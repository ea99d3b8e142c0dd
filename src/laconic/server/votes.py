"""A request that is voted on: a strategy's run over traces of one prompt, and what its page reads of them."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from laconic.compress import Policy
from laconic.engines.base import Trace
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import InputError, LaconicError
from laconic.server.asks import Ask, AskError
from laconic.server.events import ChoiceEnded, Done, Event, Mailbox, ProgressTold, Started, TextTold, Usage
from laconic.server.growth import Growth, Point
from laconic.server.jobs import Chosen, Job, ModelToServe, tell_token
from laconic.server.splitting import StopTexts, ThinkingSplitter

if TYPE_CHECKING:
    from laconic.prune.strategies.base import Snapshot, StrategyProgress, StrategyRun
    from laconic.prune.verdict import Verdict

TELL_EVERY = 1.0  # seconds between two lines of a vote's progress
LOOK_EVERY = 0.2  # seconds between two snapshots of a vote


class VoteJob(Job):
    """A strategy's run; its winner is the one choice. What the page reads from another thread is never changed in place."""

    def __init__(self, ask: Ask, mailbox: Mailbox, seconds: float) -> None:
        super().__init__(ask, mailbox, seconds)
        self.chosen: Chosen | None = None
        """None until it has begun."""
        self.kv_held = self.kv_full = self.kv_peak = 0
        """Bytes: held at the latest look, what that would be without evictions, and the most so far."""
        self.growth = Growth()
        self.snapshot: Snapshot | None = None
        self.verdict: Verdict | None = None
        self.pieces: Pieces | None = None
        self.messages: list[tuple[float, str]] = []
        """What was decided, with the seconds at which."""
        self.started = False
        """Whether its traces were submitted."""
        self.run: StrategyRun | None = None
        """While it goes on."""
        self._steps: Iterator[StrategyProgress] = iter(())
        self._telling = self._looked = 0.0
        self._told = ""

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
        view = self.open_view(model, chosen, shared, prompt)
        self.run = chosen.strategy.begin(view, self.ask.question or "a prompt of token ids", sampling)
        self._steps = iter(self.run)
        self._proceed()
        self.started = True
        if not self.over:
            self.prompt_tokens = len(view.trace(view.trace_ids[0]).prompt_ids)
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
        assert self.run is not None
        self._conclude(self.run.verdict())

    def _look(self) -> None:
        assert self.run is not None
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY:
            self._looked = now
            self._note(self.run.snapshot())
        if self.ask.method.progress and self.snapshot is not None and now - self._telling > TELL_EVERY:
            self._telling = now
            line = progress_line(self.snapshot)
            if line != self._told:
                self._told = line
                self.mailbox.put(ProgressTold(line + "\n"))

    def _note(self, snapshot: Snapshot) -> None:
        assert self.view is not None
        held = self.view.stats  # in the engine's thread: its traces come and go there
        self.kv_held, self.kv_full = held.live_kv_bytes, held.full_kv_bytes
        self.kv_peak = max(self.kv_peak, snapshot.kv_bytes)
        running = sum(row.state == "running" for row in snapshot.rows)
        self.growth.add(Point(round(self.seconds, 3), snapshot.generated, snapshot.judged, running, self.kv_held))
        self.generated, self.snapshot = snapshot.generated, snapshot

    def end_early(self, reason: str) -> None:
        assert self.run is not None
        self._conclude(self.run.interrupt(), reason)

    def release(self) -> None:
        """See Job. What has been generated so far counts, and nothing of the strategy's is kept."""
        run, self.run, self._steps = self.run, None, iter(())
        if run is not None and self.verdict is None and self.started:
            with contextlib.suppress(Exception):  # of a strategy that has failed
                self._note(run.snapshot())
        self.kv_held = self.kv_full = 0
        super().release()

    def _conclude(self, verdict: Verdict, note: str = "") -> None:
        assert self.view is not None
        assert self.run is not None
        assert self.chosen is not None
        self._note(self.run.snapshot())
        assert self.snapshot is not None
        self.verdict, self.generated = verdict, verdict.tokens.generated
        self.pieces = Pieces(self, verdict)
        self.prompt_tokens = max((self.view.prompt_length(fate.id) for fate in verdict.traces), default=0)
        index = verdict.winner
        if index is None:
            index = next((fate.index for fate in verdict.traces if fate.fate == "finished"), None)
        events: list[Event] = []
        reason, content_tokens = "stop", 0
        if index is None and note:  # its time was up before any trace had ended
            reason = "length"
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
            ids = tuple(trace.token_ids) if self.ask.token_ids else ()
            events.append(TextTold(0, False, said, logprobs, ids))
            counted = self.model.count(said)
            if counted is None:  # by its share of the text
                counted = round(len(trace.token_ids) * len(said) / max(1, len(verdict.traces[index].text)))
            content_tokens = min(len(trace.token_ids), counted)
        events.append(ChoiceEnded(0, reason))
        counted_there = self.view.generated_at_servers()
        if counted_there is not None:
            self.generated = counted_there
        usage = Usage(self.prompt_tokens, self.generated, max(0, self.generated - content_tokens))
        self.finish(*events, Done(usage, self.report(verdict, note)))  # what is read from here on: verdict and pieces

    def read_trace(self, index: int) -> dict[str, Any]:
        """A trace as the page shows it, of a vote that runs or is over. Raises AskError (404) for an unknown index."""
        if self.pieces is not None:
            return self.pieces.read(index)
        if self.over:
            raise AskError("the texts of this run were not kept, since it came to no verdict", status=404)
        if self.view is None or not 0 <= index < len(self.view.trace_ids):
            raise AskError(f"there is no trace {index} in this run", status=404)
        assert self.chosen is not None
        trace = self.view.trace(self.view.trace_ids[index])
        return trace_parts(self.model, trace.token_ids, trace.text, held(self.view, self.chosen.policy, trace))

    def report(self, verdict: Verdict, note: str = "") -> dict[str, Any]:
        """The `laconic` object: everything of the verdict but the traces' texts."""
        assert self.chosen is not None
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
        assert job.chosen is not None
        self._model = job.model
        self._tokens: dict[int, list[int]] = {}
        self._texts = {fate.index: fate.text for fate in verdict.traces}
        self._held: dict[int, list[int] | None] = {}
        for fate in verdict.traces:
            trace = job.view.trace(fate.id)
            self._tokens[fate.index] = trace.token_ids
            self._held[fate.index] = held(job.view, job.chosen.policy, trace)

    def read(self, index: int) -> dict[str, Any]:
        """A trace as runs of tokens that were kept, or weren't. Raises AskError (404) for an unknown index."""
        if index not in self._tokens:
            raise AskError(f"there is no trace {index} in this run; expected 0 to {len(self._tokens) - 1}", status=404)
        return trace_parts(self._model, self._tokens[index], self._texts[index], self._held[index])


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


def trace_parts(model: ModelToServe, tokens: Sequence[int], text: str, places: Sequence[int] | None) -> dict[str, Any]:
    """A trace as runs of tokens that are held or aren't; all in one where nobody here can tell its tokens' texts."""
    try:
        return shaded(model.pieces(tokens), places)
    except InputError:
        return {"parts": [(text, True)], "tokens": len(tokens), "held": len(tokens), "known": False}


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
    parts += [f"{fates['lost']} lost"] if fates["lost"] else []
    parts.append(f"{finished} finished")
    answers = Counter(row.answer for row in snapshot.rows if row.state == "finished" and row.answer is not None)
    votes = snapshot.votes or tuple((answer, float(count)) for answer, count in answers.most_common())
    told = ", ".join(f"{answer} ({weight:g})" for answer, weight in votes[:4])
    return ", ".join(parts) + (f": {told}" if told else "")
