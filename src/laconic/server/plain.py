"""A request without a vote: n traces of each prompt, each a choice that is told as it comes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from laconic.engines.base import Chunk, Trace
from laconic.engines.shared import SharedEngine
from laconic.errors import EngineError
from laconic.server.asks import Ask
from laconic.server.events import ChoiceEnded, Done, Event, Restarted, Started, TextTold, TokenTold, Usage
from laconic.server.jobs import Chosen, Job, ModelToServe, tell_token
from laconic.server.splitting import StopTexts, ThinkingSplitter, ends_within

MOST_SEED = 1 << 63
NEXT_PROMPT = 1_000_003  # between the seeds of two prompts of one request


class Choice:
    """A trace that is told as it comes."""

    def __init__(self, index: int, trace: Trace, split: bool, ask: Ask, thinking: bool) -> None:
        self.index, self.trace = index, trace
        self._split, self._ask, self._thinking = split, ask, thinking
        self.splitter = ThinkingSplitter(thinking, ask.continues) if split else None
        self.stops = StopTexts(ask.stops)
        self.tells_ids = ask.token_ids
        self.ended = False
        self.tokens = self.reasoning = 0
        self._waiting: list[TokenTold] = []  # whose text has not been told yet
        self._waiting_ids: list[int] = []

    def anew(self) -> Choice:
        """The same, with nothing told."""
        return Choice(self.index, self.trace, self._split, self._ask, self._thinking)

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
        if (self._waiting or self._waiting_ids) and not self.stops.stopped:  # else they are of what was cut off
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
        if self.stops.stopped and logprobs:  # tokens that begin behind the stop are no part of it
            begins = itertools.accumulate((len(token.text) for token in logprobs), initial=0)
            kept = sum(begin < len(text) for begin, _ in zip(begins, logprobs, strict=False))
            logprobs, ids = logprobs[:kept], ids[:kept]
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
        view = self.open_view(model, chosen, shared)
        self.model, self.chosen = model, chosen
        self.choices: dict[str, Choice] = {}
        self._of_prompt: list[list[str]] = []  # the traces of each
        for place, prompt in enumerate(prompts):
            own = replace(sampling, seed=(sampling.seed + place * NEXT_PROMPT) % MOST_SEED) if place else sampling
            self._of_prompt.append(view.submit(prompt, own, ask.n))
            for name in self._of_prompt[-1]:
                trace = view.trace(name)
                thinking = trace.thinking
                if ask.continues:
                    thinking = ends_within(ask.messages[-1], model.thinks(ask))
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
        if chunk.restarted and choice.tokens:
            choice = self._restart(choice, found)
        if chunk.token_ids:
            self.note_first_token()
            self.generated += len(chunk.token_ids)
        alone = chunk.text if len(chunk.token_ids) == 1 else None
        told = [
            tell_token(self.model, *each, alone) for each in zip(chunk.token_ids, chunk.logprobs or (), strict=False)
        ]
        found += choice.add(chunk.text, chunk.token_ids, told)
        if choice.stops.stopped:
            found += choice.finish("stop")
            self.view.stop(chunk.trace_id)
        elif chunk.finish_reason == "stopped":
            raise EngineError(choice.trace.error or "the engine gave a trace up", choice.trace.error_status)
        elif chunk.finish_reason is not None:
            found += choice.finish(chunk.finish_reason)

    def _restart(self, choice: Choice, found: list[Event]) -> Choice:
        """A trace has begun anew. Raises EngineError where a stream has told of it: that can't be taken back."""
        if self.ask.stream:
            raise EngineError(
                f"the server that ran choice {choice.index} failed, and none goes on with its text: ask again, or without "
                "stream, where a text can begin anew"
            )
        found.append(Restarted(choice.index))
        self.choices[choice.trace.id] = anew = choice.anew()
        return anew

    def _done(self, note: str = "") -> Done:
        assert self.view is not None
        told = self.view.prompt_length  # by a server at a trace's end: not of one that was stopped
        self.prompt_tokens = sum(max(map(told, names)) for names in self._of_prompt)
        reasoning = sum(choice.reasoning for choice in self.choices.values())
        counted = self.view.generated_at_servers()
        if counted is not None and counted != self.generated:  # pieces came, and a piece may hold several tokens
            reasoning = round(reasoning * counted / max(1, self.generated))
            self.generated = counted
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
