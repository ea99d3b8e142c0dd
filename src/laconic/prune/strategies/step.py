"""STEP-like (arXiv 2601.09093): all traces run until their KV is at a limit; then the least promising one goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.errors import InputError
from laconic.prune.needs import Needs
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.deepconf import MOST_CANDIDATES, MOST_WINDOW
from laconic.prune.strategies.run import MOST_TRACES, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import TOP_K_SETTING, settings_of, with_confidences
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import Confidence, confidences_of
from laconic.settings import setting

MOST_KV = 1 << 40
VOTES = ("confidence", "plain")


@dataclass(frozen=True)
class StepLike(Strategy):
    """n traces run; whenever the KV that they hold would exceed `kv` tokens with the next step, the least promising is stopped.

    STEP prunes when the cache is full and not before, instead of preempting, and by a scorer that was trained on hidden states
    at the ends of reasoning steps; votes weigh as much as their traces' scores. Here a trace's promise is the mean confidence
    (DeepConf's, over `top_k` candidates) of its latest `window` tokens, which needs no training. Of equals the later trace
    goes. The last one is never stopped. Raises InputError for settings out of range.
    """

    name = "step"
    summary: ClassVar[str] = (
        "stops the least confident trace whenever the KV of all would exceed a limit, and not before"
    )
    source: ClassVar[str] = "after STEP (arXiv 2601.09093), by confidence instead of a trained scorer"

    n: int
    kv: int | None = setting(
        None, "tokens of KV, one layer, that the traces may hold together; none: what vLLM's cache has"
    )
    window: int = setting(2048, "latest tokens whose mean confidence is a trace's promise")
    top_k: int = setting(20, TOP_K_SETTING)
    vote: str = setting("confidence", "confidence: a vote weighs as much as its trace's promise; or plain")

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        if self.kv is not None:
            checks.whole("kv", self.kv, 1, MOST_KV, "tokens of KV")
        checks.whole("window", self.window, 1, MOST_WINDOW, "tokens")
        checks.whole("top_k", self.top_k, 1, MOST_CANDIDATES, "candidates")
        checks.word("vote", self.vote, VOTES)

    @property
    def alone(self) -> bool:
        return True

    def needs(self) -> Needs:
        return Needs(confidence_top_k=self.top_k)

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> StepLikeRun:
        return StepLikeRun(self, engine, question, with_confidences(sampling, self.top_k))


class StepLikeRun(StrategyRunBase):
    """A run of `StepLike`."""

    def __init__(self, strategy: StepLike, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        super().__init__(strategy.name, strategy.n, settings_of(strategy), strategy.needs(), engine, question, sampling)
        self.strategy = strategy
        self.promise = [Confidence(strategy.window) for _ in range(strategy.n)]
        self.limit = 0
        self._eager = (
            True  # a step is over when all rows have been seen: what is stopped then takes no part in the next
        )

    def _start(self) -> None:
        told = self.strategy.kv or getattr(self.engine, "kv_token_limit", None)
        if not told:
            raise InputError("the engine tells no limit of its KV cache, so step needs one: give kv=TOKENS")
        self.limit = int(told)
        prompt = len(self.records[0].view.prompt_ids)
        if prompt >= self.limit:
            raise InputError(f"kv is {self.limit} tokens and the prompt alone takes {prompt}; give more than that")
        self._say(f"{traces(self.n)} start, which may hold {self.limit:,} tokens of KV")

    def _extra(self) -> dict[str, Any]:
        return {"kv": sum(self._held(r) for r in self._running()), "limit": self.limit}

    def _moved_on(self, record: TraceState) -> None:
        self._read(record)

    def _ended(self, record: TraceState) -> None:
        self._read(record)
        if record.answer is not None:
            record.weight = self.promise[record.index].latest if self.strategy.vote == "confidence" else 1.0
            self.tally.add(record.index, record.answer, record.weight)
            self.votes = self.tally.votes()
        elif not self.votes and not any(r.live and not r.halted for r in self.records if r is not record):
            self._go_back()

    def _step_over(self) -> None:
        running = self._running()
        held = sum(map(self._held, running))
        while len(running) > 1 and held + len(running) > self.limit:
            worst = min(running, key=lambda r: (self._promise(r), -r.index))
            self._stop(worst, "pruned", self._why(worst, held))
            self._say(f"trace {worst.index} pruned: {worst.reason}")
            running.remove(worst)
            held -= self._held(worst)

    def _go_back(self) -> None:
        """None of those that ended has an answer: the most promising of those that were stopped goes on."""
        left = [r for r in self.records if r.fate == "pruned"]
        if left:
            best = max(left, key=lambda r: (self._promise(r), -r.index))
            self._resume(best)
            self._say(f"trace {best.index} goes on: none that ended gave an answer")

    def _running(self) -> list[TraceState]:
        return [r for r in self.records if r.live and not r.halted and r.view.state == "running"]

    def _held(self, record: TraceState) -> int:
        """KV tokens of one layer, as the engine counts them now, or, where it doesn't tell, all but the latest token's."""
        view = self.engine.trace(record.id)
        return view.kv_tokens or len(view.prompt_ids) + max(len(view.token_ids) - 1, 0)

    def _promise(self, record: TraceState) -> float:
        """Infinite before its first token: nothing is known of it."""
        found = self.promise[record.index]
        return found.latest if found.tokens else math.inf

    def _why(self, record: TraceState, held: int) -> str:
        promise = self._promise(record)
        return f"its confidence of {promise:.2f} was the lowest when {held:,} of {self.limit:,} KV tokens were held"

    def _read(self, record: TraceState) -> None:
        promise, found = self.promise[record.index], confidences_of(record.view, "step needs")
        for value in found[promise.tokens :]:
            promise.add(value)
