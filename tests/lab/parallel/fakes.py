"""A bench without a model or the real strategies: scripted traces, and strategies whose outcome is known by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from torch import Tensor

from laconic.compress import RPC
from laconic.engines.base import Chunk, Sampling, Trace
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.parallel.lineup import ComparedStrategy, LabelledPolicy, compressions, lineup
from laconic.lab.parallel.run import FORMAT, Answers, ParallelExperiment, Watcher, run_parallel
from laconic.problems import Problem
from laconic.prune.judge import Cost, Excerpt, Judge
from laconic.prune.strategies.base import Strategy, StrategyRun
from laconic.prune.trace_engine import TraceEngine
from laconic.prune.verdict import Tokens as Bill
from laconic.prune.verdict import TraceFate, Verdict, Vote
from laconic.traces import TraceRecord

PROBLEMS = [Problem(f"q{index}", f"question {index}", str(index)) for index in range(6)]
SAMPLING = Sampling(max_new_tokens=100, seed=3)
RPC8 = LabelledPolicy("rpc", RPC(interval=8, ratio=2, window=4))
PROMPT = (7, 8, 9)
CUT = 5  # tokens an excerpt has
SECONDS = 2.0  # a live run's, a trace


def experiment(
    timed: int = 2,
    ns: Sequence[int] = (4, 6),
    judges: Sequence[str] = ("oracle",),
    problems: Sequence[Problem] = PROBLEMS,
    orders: int = 1,
) -> ParallelExperiment:
    """18 entries: under two compressions, cons@2 and four strategies at each n."""
    compress = compressions([RPC8])
    entries = lineup(ns, compress, ["prune"], judges, lambda spec: spec == "prune", few=(2,))
    return ParallelExperiment(problems, compress, entries, SAMPLING, timed, orders)


def run(path: Path, bench: FakeBench, experiment: ParallelExperiment, watch: Watcher | None = None) -> list[Record]:
    with Journal(path, FORMAT, {}) as journal:
        return list(run_parallel(experiment, bench, journal, watch))


def record(problem: Problem, index: int, compression: LabelledPolicy, seed: int = 40) -> TraceRecord:
    """Trace `index`: its length and its luck are drawn from what it is, and compression makes it less lucky."""
    rng = random.Random(f"{problem.id}/{index}")
    length, luck = rng.randint(8, 30), rng.random()
    answer = problem.answer if luck < (0.75 if compression.full else 0.6) else rng.choice(["90", "91", None])
    return TraceRecord(
        problem=problem.id,
        question=problem.question,
        gold=problem.answer,
        level=0,
        index=index,
        seed=seed,
        settings={},
        prompt_ids=PROMPT,
        token_ids=tuple(range(length)),
        text="" if answer is None else f"\\boxed{{{answer}}}",
        answer=answer,
        correct=answer == problem.answer,
        finish_reason="stop",
    )


class ScriptedSource:
    """Plays records back, a token a trace a step; every step attends to prompt and tokens (full KV)."""

    def __init__(self, bench: FakeBench, records: Sequence[TraceRecord]) -> None:
        self.setup, self.records = bench, list(records)
        self.traces: dict[str, Trace] = {}
        self.steps = 0

    def submit(self, prompt: Any, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        assert prompt == f"user: {self.records[0].question}"
        assert n <= len(self.records)
        assert not self.traces  # the last strategy left the engine clean
        self.setup.solve(sampling)
        assert ids is not None
        self.setup.names.append(list(ids))
        names = list(ids)
        self.traces = {name: Trace(name, i, PROMPT, sampling) for i, name in enumerate(names)}
        return names

    def stream(self) -> Generator[Chunk, None, None]:
        while True:
            active = [t for t in self.traces.values() if t.state in ("waiting", "running")]
            if not active:
                return
            for trace in active:
                script = self.records[trace.index]
                trace.state = "running"
                if trace.token_ids:
                    self.steps += len(PROMPT) + len(trace.token_ids)
                trace.token_ids.append(script.token_ids[len(trace.token_ids)])
                reason: Literal["stop"] | None = None
                if len(trace.token_ids) == min(len(script.token_ids), trace.sampling.max_new_tokens):
                    trace.state, trace.text, reason = "finished", script.text, "stop"
                yield Chunk(trace.id, tuple(trace.token_ids[-1:]), "", None, reason)

    def stop(self, trace_id: str) -> None:
        if self.traces[trace_id].state != "finished":
            self.traces[trace_id].state = "stopped"

    def resume(self, trace_id: str) -> None:
        self.traces[trace_id].state = "running"

    def trace(self, trace_id: str) -> Trace:
        return self.traces[trace_id]

    def forget(self, trace_ids: Sequence[str]) -> None:
        for name in trace_ids:
            del self.traces[name]

    def render(self, question: str) -> str:
        return f"user: {question}"

    def decode(self, token_ids: Sequence[int]) -> str:
        raise InputError("no tokenizer")

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        raise InputError("no states")

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        raise InputError("nothing to ask")

    def kept(self, trace_id: str) -> list[int]:
        raise InputError("nothing is kept")

    @property
    def stats(self) -> Any:
        return SimpleNamespace(kv_token_steps=self.steps)


@dataclass
class OracleJudge:
    """Two traces agree where their answers do; three tokens an excerpt."""

    name: str
    answers: Answers
    excerpt: str | None = None
    cost: Cost = field(default_factory=Cost)

    def read(self, excerpts: Sequence[Excerpt], engine: TraceEngine | None = None) -> list[str | None]:
        self.cost.tokens += 3 * len(excerpts)
        return [self.answers(excerpt) for excerpt in excerpts]

    def compare(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[float]:
        return [float(a is not None and a == b) for a, b in pairs]


@dataclass(frozen=True)
class FakeVote(Strategy):
    """Plain voting; with a judge, traces that agree with trace 0 are stopped after CUT tokens and still count for it."""

    n: int
    judge: Judge | None = None
    cut: int = CUT
    name: str = "vote"

    def begin(self, engine: TraceEngine, question: str, sampling: Any) -> StrategyRun:
        raise NotImplementedError

    def solve(self, engine: TraceEngine, question: str, sampling: Any) -> Verdict:
        before = self.judge.cost.tokens if self.judge else 0
        steps = engine.stats.kv_token_steps
        ids = engine.submit(engine.render(question), sampling, self.n)
        pruned: set[int] = set()
        for chunk in engine.stream():
            assert chunk is not None
            trace = engine.trace(chunk.trace_id)
            if self.judge and trace.index and len(trace.token_ids) == self.cut and trace.state != "finished":
                both = [Excerpt(name, "cut", question, PROMPT, (), "") for name in (ids[0], trace.id)]
                a, b = self.judge.read(both)
                if self.judge.compare([(a, b)])[0] > 0.5:
                    engine.stop(trace.id)
                    pruned.add(trace.index)
        traces = [engine.trace(name) for name in ids]
        answers = [t.text[7:-1] if t.text else None for t in traces]
        votes = Counter(answers[0] if i in pruned else a for i, a in enumerate(answers))
        del votes[None]
        fates = tuple(
            TraceFate(t.id, t.index, "pruned" if t.index in pruned else "finished", "", len(t.token_ids))
            for t in reversed(traces)
        )
        generated = sum(len(t.token_ids) for t in traces)
        judged = self.judge.cost.tokens - before if self.judge else 0
        engine.forget(ids)
        return Verdict(
            strategy=self.name,
            n=self.n,
            answer=votes.most_common(1)[0][0] if votes else None,
            votes=tuple(Vote(str(answer), count, ()) for answer, count in votes.most_common()),
            traces=fates,
            tokens=Bill(generated, judged),
            clusters=(tuple(sorted(pruned)),),
            seconds={"finish": SECONDS * (self.n - len(pruned)), "total": SECONDS * (self.n - len(pruned))},
            kv={
                "token_steps": engine.stats.kv_token_steps - steps,
                "steps": max(len(t.token_ids) for t in traces) - 1,
                "peak_bytes": 100 * (self.n - len(pruned)),
            },
        )


class FakeBench:
    """Counts what it is asked for. crash_after: raise KeyboardInterrupt when a strategy begins after so many. shorter:
    index of a trace that live runs end one token early."""

    def __init__(self, problems: Sequence[Problem], n: int) -> None:
        self.problems, self.n = problems, n
        self.replays: list[str] = []
        self.lives: list[str] = []
        self.generated: list[str] = []
        self.judges: list[str] = []
        self.seeds: list[int] = []
        self.names: list[list[str]] = []
        self.crash_after: int | None = None
        self.shorter: int | None = None
        self.cut = CUT

    def solve(self, sampling: Sampling) -> None:
        if len(self.seeds) == self.crash_after:
            raise KeyboardInterrupt
        self.seeds.append(sampling.seed)

    def traces(self, compression: LabelledPolicy) -> Mapping[str, Sequence[TraceRecord]]:
        self.generated.append(compression.label)
        return {p.id: [record(p, i, compression) for i in range(self.n)] for p in self.problems}

    def replay(
        self,
        compression: LabelledPolicy,
        records: Sequence[TraceRecord],
        rows: int | None = None,
        acts_at: int | None = None,
    ) -> TraceEngine:
        self.replays.append(compression.label)
        return ScriptedSource(self, records)

    def live(self, compression: LabelledPolicy) -> TraceEngine:
        self.lives.append(compression.label)
        return LiveSource(self, compression)

    def judge(self, spec: str, answers: Answers) -> Judge:
        self.judges.append(spec)
        return OracleJudge(spec, answers)

    def strategy(self, entry: ComparedStrategy, judge: Judge | None) -> Strategy:
        return FakeVote(entry.n, judge, self.cut)


class LiveSource(ScriptedSource):
    """Knows which problem it is only once it is asked."""

    def __init__(self, bench: FakeBench, compression: LabelledPolicy) -> None:
        super().__init__(bench, [])
        self.compression = compression

    def submit(self, prompt: Any, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        problem = next(p for p in self.setup.problems if prompt == f"user: {p.question}")
        self.records = [record(problem, i, self.compression) for i in range(n)]
        if self.setup.shorter is not None and self.setup.shorter < n:
            old = self.records[self.setup.shorter]
            values = {name: getattr(old, name) for name in TraceRecord.__slots__}
            self.records[self.setup.shorter] = TraceRecord(**values | {"token_ids": old.token_ids[:-1]})
        return super().submit(prompt, sampling, n, ids)
