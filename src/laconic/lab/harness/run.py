"""Many requests of a harness answered on one engine whose batch stays full, each by one trace or by a vote of several."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from laconic.engines.base import Engine, Sampling
from laconic.engines.shared import SharedEngine
from laconic.errors import EngineError
from laconic.lab.harness.texts import answer_start, answer_text
from laconic.lab.harness.view import EndingView
from laconic.prune import Strategy
from laconic.prune.strategies.base import StrategyProgress

AHEAD = 2  # batches of traces that wait or run: so many requests have begun


@dataclass(frozen=True)
class HarnessRequest:
    """What is to be answered. prompt: as the engine takes it; question: what a judge reads; until: stop texts."""

    prompt: Any
    question: str
    sampling: Sampling
    until: tuple[str, ...] = ()


@dataclass(frozen=True)
class HarnessAnswer:
    """The answer to a request and what it took."""

    text: str
    """What is scored."""
    thoughts: str
    """What its trace wrote before that; "" for nothing."""
    closed: bool
    """Whether its thinking ended, if there was any."""
    cut_off: bool
    """Whether its trace ran into its limit of tokens."""
    token_ids: tuple[int, ...]
    """Of its trace."""
    traces: int = 1
    generated: int = 0
    """Tokens of all traces."""
    judged: int = 0
    """Tokens on a judge's account."""
    mean_kv_tokens: float = 0.0
    """What a trace held on average over its generated tokens, one layer, its prompt included."""


@dataclass
class HarnessTotals:
    """What all requests so far took."""

    requests: int = 0
    traces: int = 0
    generated: int = 0
    judged: int = 0
    unclosed: int = 0
    """Answers of thinking that never ended."""
    cut_off: int = 0
    """Answers whose traces ran into their limits."""
    _held: float = field(default=0.0, repr=False)

    def add(self, answer: HarnessAnswer) -> None:
        """Another one."""
        self.requests += 1
        self.traces += answer.traces
        self.generated += answer.generated
        self.judged += answer.judged
        self.unclosed += not answer.closed
        self.cut_off += answer.cut_off
        self._held += answer.mean_kv_tokens * answer.generated

    def to_json(self) -> dict[str, Any]:
        """By name; `mean_kv_tokens` is the mean over generated tokens."""
        names = ("requests", "traces", "generated", "judged", "unclosed", "cut_off")
        mean = round(self._held / self.generated, 1) if self.generated else 0.0
        return {**{name: getattr(self, name) for name in names}, "mean_kv_tokens": mean}

    def sentence(self) -> str:
        """For people, on a line."""
        said = f"{self.requests:,} answers of {self.traces:,} traces, {self.generated:,} tokens"
        if self.judged:
            said += f" and {self.judged:,} of the judge"
        if self.cut_off:
            said += f"; {self.cut_off:,} ran into the limit of tokens"
        if self.unclosed:
            said += f"; in {self.unclosed:,} the thinking never ended: a larger max_gen_toks may let it"
        return said


def request_seed(seed: int, prompt: str, occurrence: int) -> int:
    """A seed of 31 bits for one request: by what it asks and how often that was asked before, not by where it stands."""
    digest = hashlib.blake2b(f"{seed}/{occurrence}/{prompt}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


def request_seeds(seed: int, prompts: Sequence[str]) -> list[int]:
    """`request_seed` of each; a prompt that comes again (a task's `repeats`) gets another one."""
    asked: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(request_seed(seed, prompt, asked[prompt]))
        asked[prompt] += 1
    return seeds


def answer_requests(
    engine: Engine,
    requests: Sequence[HarnessRequest],
    strategy: Strategy | None = None,
    batch: int = 64,
    unclosed: str = "empty",
    on_done: Callable[[int, HarnessAnswer], None] = lambda place, answer: None,
) -> list[HarnessAnswer]:
    """The answers in the order of the requests. on_done: told of each as it comes, with its place.

    strategy: None: one trace each. Requests begin as the batch has room, so that it never runs half empty. Raises what the
    engine raises for a prompt, and EngineError where it gives a trace up; all traces are then forgotten.
    """
    shared, found = SharedEngine(engine), dict[int, HarnessAnswer]()

    def tasks() -> Iterator[_Answering]:
        for place, request in enumerate(requests):
            view = EndingView(shared, request.prompt, request.until)
            yield _Plain(place, request, view) if strategy is None else _Vote(place, request, view, strategy)

    for task in shared.side_by_side(tasks(), AHEAD * batch):
        answer = task.answer(unclosed)
        found[task.place] = answer
        on_done(task.place, answer)
    return [found[place] for place in range(len(requests))]


class _Answering(ABC):
    """A request that runs."""

    def __init__(self, place: int, request: HarnessRequest, view: EndingView) -> None:
        self.place, self.request, self.view = place, request, view

    @abstractmethod
    def advance(self) -> bool:
        """Act on what has come. True: there is an answer."""

    @abstractmethod
    def answer(self, unclosed: str) -> HarnessAnswer: ...

    def answer_of(self, trace: Any, unclosed: str, **more: Any) -> HarnessAnswer:
        text, closed = answer_text(trace.text, trace.thinking, self.request.until, unclosed)
        start = answer_start(trace.text, trace.thinking)
        return HarnessAnswer(
            text, trace.text[:start], closed, trace.finish_reason == "length", tuple(trace.token_ids), **more
        )


class _Plain(_Answering):
    """One trace."""

    def __init__(self, place: int, request: HarnessRequest, view: EndingView) -> None:
        super().__init__(place, request, view)
        [self.name] = view.submit(request.prompt, request.sampling)
        self._stream = view.stream()

    def advance(self) -> bool:
        for chunk in self._stream:
            if chunk is None:
                return False
            if chunk.finish_reason == "stopped":
                raise EngineError(
                    f"a request has no answer: {self.view.trace(self.name).error or 'the engine gave it up'}"
                )
            if chunk.finish_reason is not None:
                return True
        return True

    def answer(self, unclosed: str) -> HarnessAnswer:
        trace = self.view.trace(self.name)
        tokens = len(trace.token_ids)
        return self.answer_of(trace, unclosed, generated=tokens, mean_kv_tokens=trace.mean_kv_tokens)


class _Vote(_Answering):
    """A strategy's run; the winner's trace is the answer, or the first that has finished where none gave one."""

    def __init__(self, place: int, request: HarnessRequest, view: EndingView, strategy: Strategy) -> None:
        super().__init__(place, request, view)
        self._run = strategy.begin(view, request.question, request.sampling)
        self._steps: Iterator[StrategyProgress] = iter(self._run)

    def advance(self) -> bool:
        return all(not progress.waits for progress in self._steps)

    def answer(self, unclosed: str) -> HarnessAnswer:
        verdict = self._run.verdict()
        index = verdict.winner
        if index is None:
            index = next((fate.index for fate in verdict.traces if fate.fate == "finished"), 0)
        begun = sum(fate.tokens > 0 for fate in verdict.traces)
        return self.answer_of(
            self.view.trace(verdict.traces[index].id),
            unclosed,
            traces=begun,
            generated=verdict.tokens.generated,
            judged=verdict.tokens.judged,
            mean_kv_tokens=float(verdict.kv.get("mean_tokens", 0.0)),
        )
