"""What the engine's thread works on: a job is one request, of traces that are told as they come, or of a vote over them."""

from __future__ import annotations

import itertools
import secrets
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from laconic.answers.thinking import split_off_thinking
from laconic.compress import Policy
from laconic.engines.base import Chunk, Engine, Sampling, TokenLogprobs, Trace
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import EngineError, InputError, LaconicError
from laconic.server.asks import Ask, AskError, Method
from laconic.server.events import (
    ChoiceEnded,
    Done,
    Event,
    Failed,
    Mailbox,
    ProgressTold,
    Started,
    TextTold,
    TokenTold,
    Usage,
)
from laconic.server.splitting import StopTexts, ThinkingSplitter

if TYPE_CHECKING:
    from laconic.prune import Strategy
    from laconic.prune.strategies.base import Snapshot, StrategyProgress
    from laconic.prune.verdict import Verdict

TELL_EVERY = 1.0  # seconds between two lines of a vote's progress
LOOK_EVERY = 0.2  # seconds between two snapshots of a vote
MOST_SEED = 1 << 63
DRAWN_SEED = 1 << 53  # below what a number of JavaScript's holds exactly
NEXT_PROMPT = 1_000_003  # between the seeds of two prompts of one request


class Chosen:
    """How a request is carried out: its method, with what the server adds. strategy: None is plain decoding."""

    __slots__ = ("judge", "n", "policy", "strategy")

    def __init__(self, policy: Policy, strategy: Strategy | None, n: int, judge: str | None) -> None:
        self.policy, self.strategy, self.n, self.judge = policy, strategy, n, judge


class ModelToServe(Protocol):
    """The model behind a server, opened and used in the engine's thread only."""

    name: str

    def open(self) -> None:
        """Load it. Raises LaconicError."""

    def close(self) -> None: ...

    def engine(self, policy: Policy) -> Engine:
        """An engine under a policy. Raises InputError where that can't be."""

    def choose(self, method: Method) -> Chosen:
        """What a method means for this model. Raises InputError."""

    def sampling(self, given: dict[str, Any]) -> Sampling:
        """With the model's own settings where nothing is given. Raises InputError."""

    def prompt(self, ask: Ask) -> Any:
        """A conversation as the engine takes it: through the model's chat template, where that is here. Raises InputError."""

    def plain_prompt(self, given: str | Sequence[int]) -> Any:
        """What /v1/completions goes on from, as the engine takes it."""

    def thinks(self, ask: Ask) -> bool:
        """Whether the prompt of a conversation ends in thinking that it has opened."""

    @property
    def context(self) -> int | None:
        """Tokens, once it is open; None: not known."""

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text."""

    def count(self, text: str) -> int:
        """The tokens of a text."""

    def dead(self) -> bool:
        """Whether what runs it has died, so that no engine can be made any more."""


class Job(ABC):
    """One request. All but `mailbox` belongs to the engine's thread."""

    _numbers = itertools.count(1)

    def __init__(self, ask: Ask, mailbox: Mailbox, seconds: float) -> None:
        self.ask, self.mailbox = ask, mailbox
        self.number = next(self._numbers)
        self.id = f"{secrets.token_hex(12)}"
        self.created = time.time()
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.first_token: float | None = None
        """Seconds to it."""
        self.view: EngineView | None = None
        self.over = self.settled = False
        self.generated = 0
        self.prompt_tokens = 0
        self.seed = 0
        self.error = ""
        """Why it failed."""
        self.took: float | None = None
        """Seconds, once it is over."""

    @abstractmethod
    def begin(self, model: ModelToServe, chosen: Chosen, shared: SharedEngine) -> None:
        """Submit. Raises LaconicError for what the model can't take."""

    @abstractmethod
    def advance(self) -> None:
        """There are chunks."""

    @abstractmethod
    def end_early(self, reason: str) -> None:
        """Its time is up: tell what there is."""

    def fail(self, error: BaseException) -> None:
        """Tell that it can't go on, and let go of its traces."""
        if not isinstance(error, LaconicError):
            error = EngineError(f"the request failed inside the server ({type(error).__name__}); its log has more")
        if not self.over:
            self.error = str(error)
            self.finish(Failed(error))

    def finish(self, *events: Event) -> None:
        """The last events."""
        self.over = True
        self.mailbox.put(*events)
        self.release()

    def release(self) -> None:
        """Its traces stop and are forgotten."""
        self.over = True
        self.took = self.seconds
        if self.view is not None:
            self.view.close()

    def choose_sampling(self, model: ModelToServe, **more: Any) -> Sampling:
        """The request's."""
        self.seed = secrets.randbelow(DRAWN_SEED) if self.ask.seed is None else self.ask.seed
        return model.sampling({**self.ask.sampling, "seed": self.seed, **more})

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def note_first_token(self) -> None:
        if self.first_token is None:
            self.first_token = self.seconds


class Choice:
    """A trace that is told as it comes."""

    def __init__(self, index: int, trace: Trace, split: bool, ask: Ask, thinking: bool) -> None:
        self.index, self.trace = index, trace
        self.splitter = ThinkingSplitter(thinking) if split else None
        self.stops = StopTexts(ask.stops)
        self.tells_ids = ask.token_ids
        self.ended = False
        self.tokens = self.reasoning = 0
        self._waiting: list[TokenTold] = []  # whose text has not been told yet
        self._waiting_ids: list[int] = []

    def add(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenTold]) -> list[Event]:
        """More of its text."""
        self.tokens += len(token_ids)
        if self.splitter is not None and self.splitter.thinking:
            self.reasoning += len(token_ids)
        self._waiting += logprobs
        if self.tells_ids:
            self._waiting_ids += token_ids
        if self.splitter is None:
            return self._told([(False, self.stops.add(text))])
        return self._told([(piece.thinking, piece.text) for piece in self.splitter.add(text)], stops=True)

    def finish(self, reason: str) -> list[Event]:
        """It has ended."""
        self.ended = True
        found: list[Event] = []
        if not self.stops.stopped:
            pieces = [] if self.splitter is None else [(piece.thinking, piece.text) for piece in self.splitter.finish()]
            found = self._told(pieces, stops=True)
            found += self._told([(False, self.stops.finish())])
        if self._waiting or self._waiting_ids:
            found.append(self._piece(False, ""))
        return [*found, ChoiceEnded(self.index, "stop" if self.stops.stopped else reason)]

    def _told(self, pieces: Sequence[tuple[bool, str]], stops: bool = False) -> list[Event]:
        found: list[Event] = []
        for thinking, text in pieces:
            told = text if thinking or not stops else self.stops.add(text)
            if told:
                found.append(self._piece(thinking, told))
        return found

    def _piece(self, thinking: bool, text: str) -> TextTold:
        """With the tokens that have come since the last."""
        logprobs, ids = tuple(self._waiting), tuple(self._waiting_ids)
        self._waiting, self._waiting_ids = [], []
        return TextTold(self.index, thinking, text, logprobs, ids)


class PlainJob(Job):
    """n traces of each prompt, each a choice of its own."""

    def begin(self, model: ModelToServe, chosen: Chosen, shared: SharedEngine) -> None:
        ask = self.ask
        chat = ask.endpoint != "completions"
        prompts: Sequence[Any] = (
            (model.prompt(ask),) if chat else tuple(model.plain_prompt(prompt) for prompt in ask.prompts)
        )
        logprobs = {} if ask.logprobs is None else {"logprobs": ask.logprobs}
        sampling = self.choose_sampling(model, **logprobs)
        self.view = view = shared.view()
        self.model, self.chosen = model, chosen
        self.choices: dict[str, Choice] = {}
        for place, prompt in enumerate(prompts):
            own = replace(sampling, seed=(sampling.seed + place * NEXT_PROMPT) % MOST_SEED) if place else sampling
            for name in view.submit(prompt, own, ask.n):
                trace = view.trace(name)
                thinking = trace.thinking
                if ask.continues:
                    thinking = split_off_thinking(ask.messages[-1]["content"], thinking=model.thinks(ask)).thinking
                self.choices[name] = Choice(len(self.choices), trace, chat, ask, thinking)
            self.prompt_tokens += len(trace.prompt_ids)
        self._stream = view.stream()
        self.mailbox.put(Started(self.prompt_tokens))

    def advance(self) -> None:
        found: list[Event] = []
        for chunk in self._stream:
            if chunk is None:
                break
            self._take(chunk, found)
        if all(choice.ended for choice in self.choices.values()):
            self.finish(*found, self._done())
        else:
            self.mailbox.put(*found)

    def _take(self, chunk: Chunk, found: list[Event]) -> None:
        assert self.view is not None
        choice = self.choices[chunk.trace_id]
        if choice.ended:
            return
        if chunk.token_ids:
            self.note_first_token()
            self.generated += len(chunk.token_ids)
        told = [_told(self.model, *each) for each in zip(chunk.token_ids, chunk.logprobs or (), strict=False)]
        found += choice.add(chunk.text, chunk.token_ids, told)
        if choice.stops.stopped:
            found += choice.finish("stop")
            self.view.stop(chunk.trace_id)
        elif chunk.finish_reason == "stopped":
            raise EngineError(
                "the model gave no probabilities for a next token: its logits are NaN or infinite, as from damaged weights"
            )
        elif chunk.finish_reason is not None:
            found += choice.finish(chunk.finish_reason)

    def _done(self, note: str = "") -> Done:
        reasoning = sum(choice.reasoning for choice in self.choices.values())
        report: dict[str, Any] = {
            "strategy": None,
            "compress": self.chosen.policy.spec(),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }
        kv = [choice.trace for choice in self.choices.values()]
        report["kv"] = {
            "peak_tokens": max(trace.peak_kv_tokens for trace in kv),
            "mean_tokens": round(sum(trace.mean_kv_tokens for trace in kv) / len(kv), 1),
        }
        if note:
            report["note"] = note
        return Done(Usage(self.prompt_tokens, self.generated, reasoning), report)

    def end_early(self, reason: str) -> None:
        left = [choice for choice in self.choices.values() if not choice.ended]
        self.finish(*[event for choice in left for event in choice.finish("length")], self._done(reason))


def _told(model: ModelToServe, token: int, told: TokenLogprobs) -> TokenTold:
    return TokenTold(
        model.decode([token]), told.logprob, tuple((model.decode([other]), value) for other, value in told.top)
    )


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
            logprobs = tuple(_told(self.model, *each) for each in zip(trace.token_ids, trace.logprobs, strict=False))
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
