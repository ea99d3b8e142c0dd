"""A budget that many problems share: the next trace goes where it is worth most a token.

A vote of as many traces for every problem spends on easy problems, which two traces settle, and on hopeless ones, which none
does. A pool gives every problem its first traces, then asks of each what one more would be worth (`laconic.prune.worth`) by the
token, and starts the best, until the budget is spent. Traces that are on their way are counted in by the share that is expected
of them, so a whole batch can run at once, but no problem gets more than its first traces before these have ended.

Sharing a budget of samples over problems by what the votes say so far: Blend-ASC (arXiv 2511.12309), PETS (arXiv 2602.16745).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from laconic import answers, checks
from laconic.errors import EngineError, InputError, LaconicError
from laconic.prune.budget import PoolBudget
from laconic.prune.needs import Needs, prepare
from laconic.prune.strategies.settings import check_sampling, check_ties, needs_of_ties, with_confidences
from laconic.prune.trace_engine import SamplingView, TraceEngine, TraceView
from laconic.prune.verdict import Vote
from laconic.prune.voting import Tally, mean_confidence
from laconic.prune.worth import worth

MOST_TRACES = 4096
NOTHING = (math.inf, 0.0)
"""The rank of a problem that gets no further trace."""


@dataclass(frozen=True)
class KnownTrace:
    """A trace that is there already. confidence: its tokens' mean, 0 where ties go by index. Raises InputError for values of
    another type or below 0."""

    index: int
    answer: str | None
    tokens: int
    confidence: float = 0.0

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("index", self.index, 0)
        if self.answer is not None:
            checks.text("answer", self.answer)
        checks.whole("tokens", self.tokens, 0)
        checks.number("confidence", self.confidence, 0)


@dataclass(frozen=True)
class Pool:
    """Majority votes over many problems that share one budget. Raises InputError for settings out of range.

    n: traces of a problem at most. first: traces that a problem gets before any is weighed against others'. parallel: traces
    that run at once. ties, top_k: as of `PricedVote`.
    """

    name: ClassVar[str] = "pool"

    n: int
    budget: PoolBudget
    first: int = 2
    parallel: int = 64
    ties: str = "confidence"
    top_k: int = 20

    def __post_init__(self) -> None:
        checks.unwrap_numpy_fields(self)
        checks.whole("n", self.n, 1, MOST_TRACES, "traces")
        checks.instance("budget", self.budget, PoolBudget, "a PoolBudget, such as PoolBudget(traces=4)")
        checks.whole("first", self.first, 1, MOST_TRACES, "traces")
        checks.whole("parallel", self.parallel, 1, MOST_TRACES, "traces")
        check_ties(self.ties, self.top_k)

    def needs(self) -> Needs:
        """See `Strategy.needs`."""
        return needs_of_ties(self.ties, self.top_k)

    def begin(
        self,
        engine: TraceEngine,
        questions: Sequence[str],
        samplings: Sequence[SamplingView],
        known: Mapping[int, Sequence[KnownTrace]] | None = None,
    ) -> PoolRun:
        """Bind to an engine and problems; nothing runs yet. samplings: one a question, whose seeds tell their draws apart.
        known: traces that are there already, by the question's place: they vote, and count as spent."""
        return PoolRun(self, engine, questions, samplings, {} if known is None else known)


@dataclass(slots=True)
class PoolProblem:
    """One problem of a pool, as it stands."""

    place: int
    question: str
    tally: Tally = field(default_factory=Tally)
    waiting: list[int] = field(default_factory=list)
    """Indices of traces that may still be started, in order."""
    ended: int = 0
    running: int = 0
    tokens: int = 0
    """Of the ended ones."""
    stopped: int = 0
    """Tokens of traces that were stopped before their ends."""
    worth: float = 0.0
    """Of one more trace."""
    refused: str = ""
    """Why the engine would not take it."""
    ids: list[str] = field(default_factory=list)

    @property
    def started(self) -> int:
        return self.ended + self.running

    @property
    def votes(self) -> tuple[Vote, ...]:
        return self.tally.votes()

    @property
    def answer(self) -> str | None:
        """None where no trace gave one."""
        votes = self.votes
        return votes[0].answer if votes else None


@dataclass(frozen=True, slots=True)
class PoolProgress:
    """A trace that has come to its end, or a problem that the engine refused."""

    problem: int
    trace: TraceView | None
    message: str = ""


class PoolRun:
    """One run of a pool: iterate it to the end, or stop iterating and call `interrupt`. It drives the engine alone.

    problems: in the questions' order, as they stand. Which problem gets a trace depends on what has ended by then, so an engine
    that ends traces in another order shares the budget otherwise; what a trace says does not depend on it.
    """

    def __init__(
        self,
        pool: Pool,
        engine: TraceEngine,
        questions: Sequence[str],
        samplings: Sequence[SamplingView],
        known: Mapping[int, Sequence[KnownTrace]],
    ) -> None:
        checks.capable("engine", engine, ("submit", "stream", "stop", "resume", "render"), "an engine")
        questions = checks.texts("questions", questions, "of problems", some=True)
        samplings = [check_sampling(sampling) for sampling in samplings]
        if len(samplings) != len(questions):
            raise InputError(
                f"there are {len(questions)} questions and {len(samplings)} samplings; expected one a question"
            )
        asking = pool.ties == "confidence"
        self.pool, self.engine = pool, engine
        self.samplings = [with_confidences(s, pool.top_k) if asking else s for s in samplings]
        self.problems = [
            PoolProblem(place, question, waiting=list(range(pool.n))) for place, question in enumerate(questions)
        ]
        self._running: dict[str, PoolProblem] = {}
        self._tokens: dict[str, int] = {}
        self._messages: list[PoolProgress] = []
        self._ended = 0  # tokens of traces that have ended
        self._means = 0.0  # sum of the problems' mean lengths
        self._measured = 0  # problems that have one
        for place, traces in checks.instance("known", known, Mapping, "traces by their question's place").items():
            checks.whole("known", place, 0, len(questions) - 1, "the place of a question")
            for trace in checks.instances("known", traces, KnownTrace, "a KnownTrace"):
                self._take_known(self.problems[place], trace)
        for problem in self.problems:
            self._value(problem)

    @property
    def generated(self) -> int:
        """Tokens so far, of ended and of running traces."""
        return self._ended + sum(self._tokens.values())

    @property
    def ended_tokens(self) -> int:
        """Of the traces that have ended."""
        return self._ended

    @property
    def limit(self) -> float:
        """The budget in tokens, by the traces so far; infinite while there are none."""
        mean = self._mean()
        return self.pool.budget.limit(len(self.problems), mean) if mean else math.inf

    @property
    def expected(self) -> int:
        """Traces that there will be, those that are there among them, as far as their lengths tell: n of each at most."""
        done, whole = sum(problem.ended for problem in self.problems), len(self.problems) * self.pool.n
        if not done or math.isinf(self.limit):
            return whole
        return min(whole, max(done, round(done * self.limit / max(self._ended, 1))))

    def __iter__(self) -> Iterator[PoolProgress]:
        """Run to the end. Where the engine gives a trace up no further one starts; EngineError when the others have ended."""
        prepare(self.engine, self.pool.needs())
        seconds = self.pool.budget.seconds
        end = math.inf if seconds is None else time.monotonic() + seconds
        lost = ""
        self._fill()
        yield from self._flush()
        with closing(self.engine.stream()) as stream:
            for chunk in stream:
                problem = None if chunk is None else self._running.get(chunk.trace_id)
                if chunk is None or problem is None:
                    continue
                self._tokens[chunk.trace_id] += len(chunk.token_ids)
                over = time.monotonic() >= end
                if chunk.finish_reason == "stopped":  # nobody asked for it: the engine gave the trace up
                    lost = lost or self._lose(problem, chunk.trace_id)
                elif chunk.finish_reason is not None:
                    trace = self.engine.trace(chunk.trace_id)
                    self._end(problem, trace)
                    if not (over or lost):
                        self._fill()
                    yield PoolProgress(problem.place, trace)
                    yield from self._flush()
                if over:
                    break
        if math.isfinite(end):
            yield from self.interrupt()
        if lost:
            raise EngineError(lost)

    def _lose(self, problem: PoolProblem, trace_id: str) -> str:
        """The engine gave a trace up: it does not vote, and its tokens count. Returns a sentence about it."""
        trace = self.engine.trace(trace_id)
        problem.running -= 1
        problem.stopped += len(trace.token_ids)
        self._ended += len(trace.token_ids)
        del self._running[trace_id], self._tokens[trace_id]
        why = getattr(trace, "error", "") or "the engine gave it up"
        return f"trace {trace.index} of the problem {problem.question!r} is lost: {why}"

    def interrupt(self) -> list[PoolProgress]:
        """Stop every trace that still runs. Those that have ended vote; those among them that had not been told of yet are."""
        for trace_id in list(self._running):
            self.engine.stop(trace_id)
        with closing(self.engine.stream()) as stream:
            for _ in stream:
                pass
        found = []
        for trace_id, problem in list(self._running.items()):
            trace = self.engine.trace(trace_id)
            if trace.state == "finished":  # in the step in which it was to stop
                self._end(problem, trace)
                found.append(PoolProgress(problem.place, trace))
                continue
            problem.running -= 1
            problem.stopped += len(trace.token_ids)
            self._ended += len(trace.token_ids)
        self._running.clear()
        self._tokens.clear()
        return found

    # ---- what is worth starting ------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start what is worth most until the batch is full or the budget is spoken for."""
        while len(self._running) < self.pool.parallel:
            problem = min(self.problems, key=self._rank)
            if self._rank(problem) == NOTHING or not self._affordable(problem):
                return
            self._start(problem)

    def _rank(self, problem: PoolProblem) -> tuple[float, float]:
        """The smallest is started first: problems with fewer than their first traces, then, once these have ended, by worth a
        token. A trace that starts before its problem's first ones have told anything is one of a plain vote."""
        if problem.refused or not problem.waiting:
            return NOTHING
        if problem.started < self.pool.first:
            return (problem.started - self.pool.first, 0.0)
        if problem.ended < self.pool.first:
            return NOTHING
        return (0, -problem.worth / self._length(problem))

    def _value(self, problem: PoolProblem) -> None:
        """What one more of its traces is worth, after one has started or ended."""
        counts = [len(vote.traces) for vote in problem.votes]
        problem.worth = worth(counts, problem.ended, len(problem.waiting), problem.running)

    def _length(self, problem: PoolProblem) -> float:
        """Of the problem's next trace, in tokens: the mean of its own, and one of the mean trace of all."""
        return (problem.tokens + self._mean()) / (problem.ended + 1) or 1.0

    def _mean(self) -> float:
        """Of a trace, every problem's counted alike; 0 while none has ended."""
        return self._means / self._measured if self._measured else 0.0

    def _affordable(self, problem: PoolProblem) -> bool:
        """Whether one more of its traces is as likely as not to end within the budget, if all that run come to the lengths
        that are expected of them. While none has ended no length is expected: of a budget of tokens then as many run as are
        sure to end within it, at least one."""
        if self.pool.budget.seconds is not None:
            return True
        if not self._measured:
            tokens, traces = self.pool.budget.tokens, self.pool.budget.traces or 0
            if tokens is None:
                return len(self._running) < traces * len(self.problems)
            longest = max(getattr(each, "max_new_tokens", 1) for each in self.samplings)
            return self.generated < tokens and (len(self._running) + 1) * longest <= max(tokens, longest)
        running = sum(max(self._tokens[name], self._length(owner)) for name, owner in self._running.items())
        return self._ended + running + self._length(problem) / 2 <= self.limit

    # ---- traces ----------------------------------------------------------------------------------------------------

    def _start(self, problem: PoolProblem) -> None:
        if not problem.ids and not self._submit(problem):
            return
        index = problem.waiting.pop(0)
        trace_id = problem.ids[index]
        self.engine.resume(trace_id)
        problem.running += 1
        self._running[trace_id] = problem
        self._tokens[trace_id] = 0
        self._value(problem)

    def _submit(self, problem: PoolProblem) -> bool:
        """A trace's random stream goes by its place among the n, so all are submitted, and wait."""
        try:
            prompt = self.engine.render(problem.question)
            problem.ids = self.engine.submit(prompt, self.samplings[problem.place], self.pool.n)
        except LaconicError as error:
            problem.refused = str(error)
            self._messages.append(PoolProgress(problem.place, None, problem.refused))
            return False
        for trace_id in problem.ids:
            self.engine.stop(trace_id)
        return True

    def _end(self, problem: PoolProblem, trace: TraceView) -> None:
        del self._running[trace.id], self._tokens[trace.id]
        problem.running -= 1
        self._add(problem, len(trace.token_ids))
        answer = answers.answer_of(trace)
        if answer is not None:
            tie = mean_confidence(trace) if self.pool.ties == "confidence" else 0.0
            problem.tally.add(trace.index, answer, tie=tie)
        self._value(problem)

    def _add(self, problem: PoolProblem, tokens: int) -> None:
        """One more of its traces has ended."""
        before = problem.tokens / problem.ended if problem.ended else 0.0
        self._measured += not problem.ended
        self._ended += tokens
        problem.ended += 1
        problem.tokens += tokens
        self._means += problem.tokens / problem.ended - before

    def _take_known(self, problem: PoolProblem, trace: KnownTrace) -> None:
        if trace.index in problem.waiting:
            problem.waiting.remove(trace.index)
            self._add(problem, trace.tokens)
            if trace.answer is not None:
                problem.tally.add(trace.index, trace.answer, tie=trace.confidence)

    def _flush(self) -> Iterator[PoolProgress]:
        messages, self._messages = self._messages, []
        yield from messages

    def to_json(self) -> dict[str, Any]:
        """What was spent, and how."""
        return {
            "budget": str(self.pool.budget),
            "limit": None if math.isinf(self.limit) else round(self.limit),
            "tokens": self.generated,
            "traces": [problem.ended for problem in self.problems],
        }
