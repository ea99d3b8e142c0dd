"""The judged vote: after each draw the one that pays most a token: finish a trace, read a prefix, or neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laconic import checks
from laconic.errors import InputError
from laconic.prune import excerpts
from laconic.prune.cluster import LIKELY
from laconic.prune.judge import Excerpt, Judge
from laconic.prune.judging import JudgedPairs
from laconic.prune.needs import Needs
from laconic.prune.standing import Standing, stand
from laconic.prune.strategies.base import Strategy
from laconic.prune.strategies.run import MOST_TRACES, StrategyRunBase, TraceState, traces
from laconic.prune.strategies.settings import (
    TIES_SETTING,
    TOP_K_SETTING,
    check_excerpt,
    check_ties,
    excerpt_for,
    needs_of_judge,
    needs_of_ties,
    settings_of,
    with_confidences,
)
from laconic.prune.trace_engine import SamplingView, TraceEngine
from laconic.prune.voting import mean_confidence
from laconic.settings import setting

BUNDLED_TPR, BUNDLED_FPR = 0.95, 0.37
"""Of the bundled judge above .5, on 100 held-out problems (benchmarks/judges/results.json, the bins of `known`)."""
REST_AT_LEAST = 0.25
"""What is left of a trace that was read costs at least this share of what was read, however short the traces so far were."""


@dataclass(frozen=True)
class JudgedVote(Strategy):
    """Majority vote of finished traces and of prefixes that a judge has read, each where it pays; n traces at most.

    A finished trace is a dear and exact draw, a prefix a cheap and noisy one. After each, `laconic.prune.standing` tells by how
    much a further finished trace, a further prefix, or the end of a trace that was read should raise the probability that the
    leading answer is the one that most traces would give; the one of most a token goes first, and below `price` (of a mean
    trace) the vote ends. A judge whose rates tell nothing is never asked: this is then the priced vote. tpr, fpr: None
    stands for what `rates` says. Raises InputError for settings out of range, or an excerpt that the judge was not made for.
    """

    name = "judged-vote"
    summary: ClassVar[str] = (
        "finishes a trace, or has a judge read the start of one, whichever pays most a token, as long as one is worth its price"
    )
    source: ClassVar[str] = "laconic, from adaptive consistency (arXiv 2305.11860) and DeepPrune (arXiv 2510.08483)"

    n: int
    judge: Judge
    price: float = setting(0.005, "of a trace: the rise in the leader's probability below which the vote ends")
    first: int = setting(2, "traces that start together and are finished, before anything is known")
    excerpt: str | None = setting(None, "what the judge sees of a trace; none: what it was made for, else words:25")
    tau: float = setting(0.5, "two traces are judged alike if the judge's number is above this")
    tpr: float | None = setting(None, "share of pairs that agree which the judge calls alike; none: its own, else 0.95")
    fpr: float | None = setting(None, "share of pairs that differ which it calls alike; none: its own, else 0.37")
    ties: str = setting("confidence", TIES_SETTING)
    top_k: int = setting(20, TOP_K_SETTING)

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.capable("judged-vote's judge", self.judge, ("read", "compare", "cost"), "a judge: open one by its name")
        checks.number("price", self.price, 0, 1, above=True)
        checks.whole("first", self.first, 1, MOST_TRACES, "traces")
        checks.share("tau", self.tau)
        for name in ("tpr", "fpr"):
            if getattr(self, name) is not None:
                checks.share(name, getattr(self, name))
        check_ties(self.ties, self.top_k)
        if self.tau != LIKELY and None in (self.tpr, self.fpr):
            raise InputError(
                f"tau is {self.tau:g}, and a judge's rates are known at {LIKELY:g} alone: give tpr and fpr, too"
            )
        check_excerpt(self.excerpt, self.judge)

    @property
    def excerpt_kind(self) -> str:
        return excerpt_for(self.excerpt, self.judge)

    @property
    def rates(self) -> tuple[float, float]:
        """(tpr, fpr): as given, else the judge's own, where it has an attribute `rates`, else the bundled judge's."""
        own = getattr(self.judge, "rates", None)
        tpr, fpr = (BUNDLED_TPR, BUNDLED_FPR) if own is None else own
        return (tpr if self.tpr is None else self.tpr), (fpr if self.fpr is None else self.fpr)

    def needs(self) -> Needs:
        return needs_of_judge(self.judge, self.excerpt_kind) | needs_of_ties(self.ties, self.top_k)

    def acts_at(self) -> int | None:
        if self.rates[0] == self.rates[1]:
            return 0
        return excerpts.parse(self.excerpt_kind).most_tokens

    def begin(self, engine: TraceEngine, question: str, sampling: SamplingView) -> JudgedVoteRun:
        return JudgedVoteRun(self, engine, question, sampling)


class JudgedVoteRun(StrategyRunBase):
    """A run of `JudgedVote`. After the first traces one thing happens at a time, so the outcome is the same on every engine."""

    def __init__(self, strategy: JudgedVote, engine: TraceEngine, question: str, sampling: SamplingView) -> None:
        tpr, fpr = strategy.rates
        settings = settings_of(strategy) | {"excerpt": strategy.excerpt_kind, "tpr": tpr, "fpr": fpr}
        needs = strategy.needs()
        self.by_confidence = needs.confidence_top_k > 0
        asking = with_confidences(sampling, needs.confidence_top_k) if self.by_confidence else sampling
        super().__init__(strategy.name, strategy.n, settings, needs, engine, question, asking)
        self.strategy, self.rates = strategy, (tpr, fpr)
        self.asks = tpr != fpr  # else what the judge says tells nothing
        self.excerpts = excerpts.parse(strategy.excerpt_kind)
        self.judged = JudgedPairs(strategy.judge, strategy.tau)
        self.started = min(strategy.first, strategy.n)
        self.cut: dict[int, Excerpt] = {}
        self.prefixes: list[int] = []  # read and not finished, in the order in which they were
        self.reading: int | None = None  # the trace that runs up to its excerpt alone
        self.worth = math.inf

    def _judged(self) -> int:
        return self.judged.tokens

    def _extra(self) -> dict[str, Any]:
        return {} if math.isinf(self.worth) else {"worth": self.worth}

    def _start(self) -> None:
        for record in self.records[self.started :]:
            self._stop(record, "waiting", "not started yet")
        self._say(f"{traces(self.started)} of at most {self.n} start")

    # ---- a draw is in ---------------------------------------------------------------------------------------------

    def _moved_on(self, record: TraceState) -> None:
        if not self.asks or record.index in self.cut or record.view.state == "finished":  # its last chunk is on its way
            return
        if self.excerpts.fresh:
            self.engine.trace(record.id)  # brings the record's KV counts up to date
        if self.excerpts.ready(record.view):
            self.cut[record.index] = self.excerpts.cut(record.view, self.question, self.engine)
            if record.index == self.reading:
                self._stop(record, "waiting", "stopped where its excerpt ends")
                self._eager = True  # decide before the engine carries the stop out

    def _step_over(self) -> None:
        self._eager = False
        if self.reading is not None and self.records[self.reading].halted:
            index, self.reading = self.reading, None
            self.prefixes.append(index)
            self._decide()

    def _ended(self, record: TraceState) -> None:
        if record.index == self.reading:  # it was over before its excerpt was
            self.reading = None
        if record.index in self.prefixes:
            self.prefixes.remove(record.index)
        if self.asks and record.index not in self.cut and record.fate != "lost":
            self.cut[record.index] = self.excerpts.cut(record.view, self.question, self.engine)
        with self.clock.during("vote"):
            if record.answer is not None:
                self._vote(record, tie=mean_confidence(record.view) if self.by_confidence else 0.0)
            if all(r.ended or r.index in self.prefixes for r in self.records[: self.started]):
                self._decide()

    # ---- what to do next ------------------------------------------------------------------------------------------

    def _stand(self) -> Standing:
        """By all that has ended and been read. What ended is read with the next prefix; at once where reading costs nothing."""
        answers = [vote.traces for vote in self.votes]
        new = any(index not in self.judged for index in self.prefixes)
        if new or (self.prefixes and not self.judged.tokens):
            seen = [*(index for voters in answers for index in voters), *self.prefixes]
            with self.clock.during("judge"):
                self.judged.read({index: self.cut[index] for index in sorted(seen)}, self.engine)
                self.judged.compare([(prefix, other) for prefix in self.prefixes for other in seen if other != prefix])
        unanswered = sum(r.ended and r.answer is None for r in self.records)
        return stand(answers, unanswered, self.prefixes, self.judged.same, *self.rates)

    def _decide(self) -> None:
        """Do what pays most a token, or end the vote."""
        standing, left = self._stand(), self.n - self.started
        lengths = [r.tokens for r in self.records if r.ended]
        mean, read = max(math.fsum(lengths) / len(lengths), 1.0), self._tokens_read()
        paid = [(standing.value_of_finishing(left), "finish", self.started)]
        if self.asks and read < mean:
            unread = sum(r.ended and r.answer is not None and r.index not in self.judged for r in self.records)
            cost = max(read + (1 + unread) * self.judged.tokens_each, 1.0)
            paid.append((standing.value_of_reading(left) * mean / cost, "read", self.started))
        value, least_certain = standing.value_of_completing()
        if least_certain is not None:
            paid.append((value * mean / max(mean - read, REST_AT_LEAST * read, 1.0), "complete", least_certain))
        self.worth, what, index = max(paid, key=lambda each: each[0])
        if self.worth < self.strategy.price:
            self._end(standing)
            return
        if what != "complete":
            self.started += 1
        self.reading = index if what == "read" else None
        self._resume(self.records[index])

    def _tokens_read(self) -> float:
        """Of a trace up to the end of its excerpt: the mean so far."""
        found = [len(excerpt.token_ids) for excerpt in self.cut.values()]
        return math.fsum(found) / len(found) if found else 0.0

    def _end(self, standing: Standing) -> None:
        """End the vote; where the leading answer is not known yet, finish the first trace that was judged to give it."""
        leaders = standing.leaders
        if leaders and leaders[0] >= standing.known:
            self._resume(self.records[standing.groups[leaders[0]][0]])
            return
        answers = [vote.answer for vote in self.votes]
        for place, index in enumerate(self.prefixes):
            self._cast(self.records[index], answers, standing.probabilities(place)[: standing.known])
        for record in self.records[self.started :]:
            record.fate, record.reason = "abandoned", "it was not worth its price"
        if left := self.n - self.started:
            self._say(
                f"a further draw would be worth {self.worth:.4f} a trace, under the price of {self.strategy.price:g}: "
                f"{traces(left)} not started"
            )

    def _cast(self, record: TraceState, answers: Sequence[str], likely: Sequence[float]) -> None:
        """A prefix votes for its likeliest answer, with what this is ahead of the next likeliest: that parts these two as if
        each had got its probability, and a trace keeps one answer."""
        record.fate, record.reason = "pruned", "read, and as probably of another answer"
        self._moved[record.id] = None
        first, second = sorted([*likely, 0.0, 0.0], reverse=True)[:2]
        if first > second:
            record.answer, record.weight = answers[list(likely).index(first)], first - second
            record.reason = f"read: {record.answer} with a probability of {first:.2f}"
            tie = mean_confidence(record.view) if self.by_confidence else 0.0
            self.tally.add(record.index, record.answer, record.weight, tie)
            self.votes = self.tally.votes()
