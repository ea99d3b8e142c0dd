"""n traces of every problem into a file of traces, as they finish; a run that was cut short goes on where it stopped.

Traces that belong together differ in nothing but the problem and their index, so a file can grow: the same settings with
a larger n or with more problems add what is missing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.answers import answer_of, equivalent
from laconic.engines.base import Engine, Sampling, Trace
from laconic.errors import InputError, LaconicError
from laconic.journal import Journal, Record
from laconic.lab.collect.summary import CollectionSummary, sum_up
from laconic.lab.shared.progress import Progress, Watcher
from laconic.problems import Problem
from laconic.problems.base import problem_seed
from laconic.problems.sets import check_problems, problem_digest, sampling_settings
from laconic.prune.alike import warn_alike
from laconic.prune.budget import PoolBudget
from laconic.prune.pool import KnownTrace, Pool, PoolRun
from laconic.traces import TraceRecord

FORMAT = "laconic.traces/1"
SYNC_SECONDS = 1.0
MAX_N = 65536


@dataclass(frozen=True, slots=True)
class TraceProvenance:
    """What wrote a file's traces. model: a name; weights, tokenizer: fingerprints; policy: a spec; problems: the set's name.

    chat: `Chat.to_json`; prompt: how a benchmark's problems were asked (`prompt_of`). Where these are empty, files say nothing
    of them, as they did before there were any.
    """

    model: str
    weights: str
    dtype: str
    tokenizer: str
    policy: str
    problems: str
    chat: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""

    def header(self, sampling: Sampling) -> dict[str, Any]:
        """What must be equal for traces to stand in one file: for `open_file`."""
        mine = {n: value for n, value in dataclasses.asdict(self).items() if n not in ("chat", "prompt") or value}
        return {**mine, "sampling": sampling_settings(sampling)}

    def line(self, sampling: Sampling) -> dict[str, Any]:
        """`TraceRecord.settings`."""
        names = ("temperature", "top_p", "top_k", "max_new_tokens")
        return {
            "model": self.model,
            "weights": self.weights,
            "policy": self.policy,
            **{name: getattr(sampling, name) for name in names},
            "logprobs": sampling.confidence_top_k,
            "tokenizer": self.tokenizer,
            **({"chat": dict(self.chat)} if self.chat else {}),
        }


def open_file(path: str | Path, origin: TraceProvenance, sampling: Sampling) -> Journal:
    """The file to collect into, found or new; a context manager. It holds no whole trace in memory.

    Raises InputError as `Journal`: other settings, another kind of file, one in use. Broken lines are passed over.
    """
    return Journal(path, FORMAT, origin.header(sampling), remember=_brief, skip_broken=True)


def collect(
    problems: Sequence[Problem],
    engine: Engine,
    journal: Journal,
    *,
    n: int,
    sampling: Sampling,
    settings: Mapping[str, Any],
    batch: int = 64,
    budget: PoolBudget | None = None,
    check_question: Callable[[str], None] | None = None,
    watch: Watcher | None = None,
) -> CollectionSummary:
    """Run what the file lacks of n traces of every problem, and sum up what it then holds.

    Trace i of a problem is drawn by (`problem_seed` of the sampling's seed and the problem's id, i), so the first 16 of 64
    traces are those of n = 16. Every finished trace is handed to the system at once, and flushed to the disk every second and
    at the end; unfinished ones leave nothing. batch: rows that the engine runs at once; so many traces of further problems
    wait their turn that it never runs half empty. settings: `TraceProvenance.line`. check_question: raises InputError for a
    question that the model can't read.

    budget: all problems share it (`laconic.prune.pool`): each gets two traces, further ones go where they are worth most, n at
    most. What the file holds counts as spent. Ties of votes go to the more confident traces where confidences are recorded.

    A problem that the engine or check_question refuses (longer than the model's context, say) is skipped. Raises InputError
    for no problems, two with one id, n out of range, a budget for problems without reference answers, a file that holds another
    problem under one of the ids, a full disk, or if every problem is refused.
    """
    _check(problems, n)
    if budget is not None:
        check_votes(problems)
    checks.instance("engine", engine, Engine, "an engine")
    checks.instance("journal", journal, Journal, "an open Journal, as `open_file` gives it")
    checks.instance("sampling", sampling, Sampling, "a Sampling")
    checks.instance("settings", settings, Mapping, "a mapping, as `TraceProvenance.line` gives it")
    batch = checks.whole("batch", batch, 1)
    warn_alike(n, sampling)
    if budget is not None:
        checks.instance("budget", budget, PoolBudget, "a PoolBudget, or None")
    run = _CollectRun(problems, engine, journal, n, sampling, settings, check_question, watch)
    start = time.monotonic()
    if budget is None:
        run.run(ahead=2 * batch)
    else:
        run.run_pool(budget, batch)
    if len(run.refused) == len(problems):
        first, why = run.refused[0]
        raise InputError(f"None of the problems can be run; {first}, the first of {len(problems)}: {why}")
    return run.summary(time.monotonic() - start)


def trace_record(problem: Problem, trace: Trace, settings: Mapping[str, Any], bytes_per_token: int = 0) -> TraceRecord:
    """A finished trace of a problem as a record. settings: `TraceProvenance.line`; bytes_per_token: of KV over all
    layers, 0 unknown."""
    if trace.finish_reason is None:
        raise InputError(f"trace {trace.id!r} is {trace.state}; only a finished one is recorded")
    answer = answer_of(trace)
    confidences = tuple(round(value, 6) for value in trace.confidences) if trace.sampling.confidence_top_k else None
    kv: dict[str, float] = {"peak": trace.peak_kv_tokens, "mean": round(trace.mean_kv_tokens, 3)}
    return TraceRecord(
        problem=problem.id,
        question=problem.question,
        gold=problem.answer,
        level=problem.level,
        index=trace.index,
        seed=trace.sampling.seed,
        settings=settings,
        prompt_ids=tuple(trace.prompt_ids),
        token_ids=tuple(trace.token_ids),
        text=trace.text,
        answer=answer,
        correct=equivalent(answer, problem.answer),
        finish_reason=trace.finish_reason,
        confidences=confidences,
        kv=kv | ({"bytes_per_token": bytes_per_token} if bytes_per_token else {}),
    )


class _CollectRun:
    """What one run knows: which traces the file has, which wait or run, which problems were refused."""

    def __init__(
        self,
        problems: Sequence[Problem],
        engine: Engine,
        journal: Journal,
        n: int,
        sampling: Sampling,
        settings: Mapping[str, Any],
        check_question: Callable[[str], None] | None,
        watch: Watcher | None,
    ) -> None:
        self.problems, self.engine, self.journal, self.n = problems, engine, journal, n
        self.sampling, self.settings = sampling, settings
        self.check_question, self.watch = check_question, watch
        self.have = {(r["problem"], r["index"]): r for r in journal.records}
        self._check_known()
        self.queue = deque(p for p in problems if any((p.id, i) not in self.have for i in range(n)))
        self.running: dict[str, Problem] = {}
        self.refused: list[tuple[str, str]] = []
        self.done = sum((p.id, i) in self.have for p in problems for i in range(n))
        self.new = self.tokens = self.bytes_per_token = 0
        self.pool: PoolRun | None = None
        self.asked: list[Problem] = []  # those in the pool, in its order

    def _check_known(self) -> None:
        asked = {problem.id: problem_digest(problem.question, problem.answer) for problem in self.problems}
        for (name, _), record in self.have.items():
            if record["digest"] != asked.get(name, record["digest"]):
                raise InputError(
                    f"{self.journal.path} holds traces of another problem with the id {name}; nothing was changed: give the "
                    "problems that it was made of, or name another file"
                )

    def run(self, ahead: int) -> None:
        synced = time.monotonic()
        self._submit(ahead)
        try:
            for chunk in self.engine.stream():
                if chunk.finish_reason is None or chunk.trace_id not in self.running:
                    continue
                self._write(self.running.pop(chunk.trace_id), self.engine.trace(chunk.trace_id))
                self.engine.forget([chunk.trace_id])
                if time.monotonic() - synced > SYNC_SECONDS:
                    self.journal.sync()
                    synced = time.monotonic()
                self._tell()
                self._submit(ahead)
        finally:
            self.journal.sync()

    def run_pool(self, budget: PoolBudget, batch: int) -> None:
        """As `run`, of traces that share a budget."""
        asked = self.asked = self._readable()
        if not asked:
            return
        top_k = self.sampling.confidence_top_k
        pool = Pool(self.n, budget, parallel=batch, ties="confidence" if top_k else "index", top_k=top_k or 20)
        known = {
            place: [
                KnownTrace(i, r["answer"], r["tokens"], r["confidence"] or 0.0)
                for i in range(self.n)
                if (r := self.have.get((problem.id, i))) is not None
            ]
            for place, problem in enumerate(asked)
        }
        samplings = [dataclasses.replace(self.sampling, seed=problem_seed(self.sampling.seed, p)) for p in asked]
        self.pool = pool.begin(self.engine, [problem.question for problem in asked], samplings, known)
        synced = time.monotonic()
        try:
            for event in self.pool:
                problem = asked[event.problem]
                if event.trace is None:
                    self._refuse(problem, event.message)
                    continue
                self._write(problem, self.engine.trace(event.trace.id))
                self.engine.forget([event.trace.id])
                if time.monotonic() - synced > SYNC_SECONDS:
                    self.journal.sync()
                    synced = time.monotonic()
                self._tell()
        finally:
            self.journal.sync()

    def _readable(self) -> list[Problem]:
        """Those that check_question lets pass; the others are refused."""
        found = []
        for problem in self.problems:
            try:
                if self.check_question is not None:
                    self.check_question(problem.question)
                found.append(problem)
            except LaconicError as error:
                self._refuse(problem, str(error))
        return found

    def _refuse(self, problem: Problem, why: str) -> None:
        self.refused.append((problem.id, why))
        self._tell(f"problem {problem.id} is skipped: {why}")

    def _submit(self, ahead: int) -> None:
        """Further problems join the queue of the engine until `ahead` traces wait or run."""
        while self.queue and len(self.running) < ahead:
            problem = self.queue.popleft()
            sampling = dataclasses.replace(self.sampling, seed=problem_seed(self.sampling.seed, problem))
            try:
                if self.check_question is not None:
                    self.check_question(problem.question)
                ids = self.engine.submit(self.engine.render(problem.question), sampling, self.n)
            except LaconicError as error:
                self._refuse(problem, str(error))
                continue
            for index, trace_id in enumerate(ids):
                if (problem.id, index) in self.have:
                    # A trace's random stream goes by its place among the n, so those done already are submitted too, and
                    # stopped before they cost anything.
                    self.engine.stop(trace_id)
                    self.engine.forget([trace_id])
                else:
                    self.running[trace_id] = problem

    def _write(self, problem: Problem, trace: Trace) -> None:
        if not self.bytes_per_token:
            stats = self.engine.stats
            self.bytes_per_token = stats.peak_kv_bytes // max(stats.peak_kv_tokens, 1)
        record = trace_record(problem, trace, self.settings, self.bytes_per_token)
        self.journal.append([record.to_json()], sync=False)
        self.have[problem.id, trace.index] = self.journal.records[-1]
        self.done += 1
        self.new += 1
        self.tokens += len(trace.token_ids)

    def _tell(self, message: str = "") -> None:
        if self.watch:
            self.watch(Progress("traces", self.done, self._expected(), self.tokens, message=message))

    def _expected(self) -> int:
        """Traces that there will be; of a pool as far as their lengths tell."""
        return len(self.problems) * self.n if self.pool is None else self.pool.expected

    def summary(self, seconds: float) -> CollectionSummary:
        found = [[self.have[p.id, i] for i in range(self.n) if (p.id, i) in self.have] for p in self.problems]
        pooled: dict[str, Any] = {}
        if self.pool is not None:
            right = {
                problem.id: float(equivalent(state.answer, problem.answer))
                for problem, state in zip(self.asked, self.pool.problems, strict=True)
            }
            with_traces = [problem.id for problem, records in zip(self.problems, found, strict=True) if records]
            pooled = {
                "votes": [right.get(name, 0.0) for name in with_traces],
                "budget": str(self.pool.pool.budget),
                "limit": round(self.pool.limit),
            }
        return sum_up(
            [records for records in found if records],
            path=str(self.journal.path),
            n=self.n,
            missing=0 if self.pool is not None else len(self.problems) * self.n - sum(map(len, found)),
            refused=self.refused,
            new=self.new,
            new_tokens=self.tokens,
            seconds=seconds,
            scored=all(problem.answer for problem in self.problems),
            **pooled,
        )


def _brief(record: Record) -> Record:
    """What is remembered of a line: enough to go on and to sum up. Raises InputError for a line that is no whole trace."""
    if record.get("kind") != "trace":
        raise InputError(f"its kind is {record.get('kind')!r}, not trace")
    trace = TraceRecord.from_json(record)
    return {
        "kind": "trace",
        "problem": trace.problem,
        "index": trace.index,
        "digest": problem_digest(trace.question, trace.gold),
        "answer": trace.answer,
        "correct": trace.correct,
        "tokens": len(trace.token_ids),
        "confidence": math.fsum(trace.confidences) / len(trace.confidences) if trace.confidences else None,
    }


def check_votes(problems: Sequence[Problem]) -> None:
    """Raises InputError for problems whose traces end in nothing to vote on."""
    for problem in problems:
        if not problem.answer:
            raise InputError(
                f"--spend goes by votes on answers, but the problem {problem.id} asks for a text that no answer sums up (it "
                "has no reference answer); leave it out"
            )


def _check(problems: Sequence[Problem], n: int) -> None:
    check_problems(problems)
    checks.whole("n", n, 1, MAX_N)
