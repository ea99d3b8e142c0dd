"""The real bench of parallel thinking: one model, its engines, and a directory of recorded traces."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.cli.common import choose_strategy
from laconic.compress import Policy
from laconic.engines.base import Sampling
from laconic.engines.chat import Chat
from laconic.engines.hf import HFEngine
from laconic.engines.replay import ReplayEngine
from laconic.errors import InputError
from laconic.judges.baselines import RandomJudge
from laconic.judges.registry import open_judge
from laconic.lab.collect.run import TraceProvenance, collect, open_file
from laconic.lab.parallel.lineup import ComparedStrategy, LabelledPolicy
from laconic.lab.parallel.run import Answers
from laconic.lab.shared.progress import Progress
from laconic.problems import Problem
from laconic.prune.budget import PoolBudget
from laconic.prune.judge import Judge
from laconic.prune.pool import Pool
from laconic.prune.strategies.base import Strategy
from laconic.prune.trace_engine import TraceEngine
from laconic.traces import TraceRecord, read_traces

COLLECT_CHUNK = 16


Maker = Callable[[str, int, Judge | None], Strategy]


@dataclass
class HFSetup:
    """What `run_parallel` is given. model, tokenizer: an HFEngine's. origin: of the traces under a policy, for their files.

    sampling: of all traces, without confidences. n: traces a problem. confidence_top_k: candidates whose mean log-probability
    is recorded with each token, 0 for none. batch: rows that run at once while traces are generated. make: a strategy from
    its spec, the number of traces and the judge. device: for judges with a network. chat: as HFEngine's.
    check_question: raises InputError for a question that the model can't read. watch: called with the
    compression and the progress after every generated trace.
    """

    model: Any
    tokenizer: Any
    origin: Callable[[LabelledPolicy], TraceProvenance]
    problems: Sequence[Problem]
    sampling: Sampling
    n: int
    directory: Path
    make: Maker
    confidence_top_k: int = 0
    batch: int = 64
    device: str = "auto"
    chat: Chat | None = None
    check_question: Callable[[str], None] | None = None
    watch: Callable[[str, Progress], None] | None = None

    def traces(self, compression: LabelledPolicy) -> Mapping[str, Sequence[TraceRecord]]:
        """Generated where the compression's file lacks them, as `laconic collect` does."""
        sampling = dataclasses.replace(self.sampling, confidence_top_k=self.confidence_top_k)
        origin = self.origin(compression)
        path = self.directory / f"traces-{slug(compression.label)}.jsonl"
        with open_file(path, origin, sampling) as journal:
            engine = self._engine(compression.policy, self.batch)
            engine.chunk_tokens = COLLECT_CHUNK
            found = collect(
                self.problems,
                engine,
                journal,
                n=self.n,
                sampling=sampling,
                settings=origin.line(sampling),
                batch=self.batch,
                check_question=self.check_question,
                watch=lambda event: self.watch(compression.label, event) if self.watch else None,
            )
        if found.refused:
            problem, why = found.refused[0]
            raise InputError(
                f"{len(found.refused)} of {len(self.problems)} problems can't be run, the first, {problem}: {why}; leave "
                "them out: what is compared must have run on all"
            )
        return read_traces(path).rescored().by_problem()

    def replay(
        self,
        compression: LabelledPolicy,
        records: Sequence[TraceRecord],
        rows: int | None = None,
        acts_at: int | None = None,
    ) -> TraceEngine:
        # Nothing runs on the model's engine by itself: it is there for what only a model can tell.
        engine = self._engine(compression.policy, self.n)
        return ReplayEngine(records, compression.policy, max_batch=rows or self.n, model_engine=engine, acts_at=acts_at)

    def live(self, compression: LabelledPolicy) -> TraceEngine:
        return self._engine(compression.policy, self.n)

    def _engine(self, policy: Policy, rows: int) -> HFEngine:
        return HFEngine(self.model, self.tokenizer, policy, max_batch=rows, chat=self.chat)

    def judge(self, spec: str, answers: Answers) -> Judge:
        return open_judge(spec, model=self.model, tokenizer=self.tokenizer, answers=answers, device=self.device)

    def strategy(self, entry: ComparedStrategy, judge: Judge | None) -> Strategy:
        return self.make(entry.strategy, entry.n, judge)


def confidence_top_k_of(specs: Sequence[str], pools: bool = False) -> int:
    """How many candidates' mean log-probability the strategies, and pools beside them, need with each token; 0 for none.

    Raises InputError where two need different ones: a trace is recorded with one.
    """
    # No judge reads confidences, so any will do.
    needed = {spec: choose_strategy(spec, 1, RandomJudge(), False).needs().confidence_top_k for spec in specs}
    if pools:
        needed["pool"] = Pool(1, PoolBudget(traces=1)).needs().confidence_top_k
    found = {count: spec for spec, count in needed.items() if count}
    if len(found) > 1:
        raise InputError(
            f"The strategies {' and '.join(found.values())} read confidences over different numbers of candidates "
            f"({', '.join(map(str, found))}), and traces are recorded with one: run them apart"
        )
    return next(iter(found), 0)


def slug(label: str) -> str:
    """A label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")
