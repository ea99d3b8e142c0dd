"""Parallel thinking on a file of recorded traces alone: every strategy is played back, and no model is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.compress import parse as parse_policy
from laconic.engines.base import Sampling
from laconic.engines.replay import ReplayEngine
from laconic.errors import InputError
from laconic.judges.registry import open_judge
from laconic.lab.parallel.lineup import ComparedStrategy, LabelledPolicy
from laconic.lab.parallel.run import Answers
from laconic.lab.parallel.setup import Maker
from laconic.problems import Problem
from laconic.prune.judge import Judge
from laconic.prune.strategies.base import Strategy
from laconic.prune.trace_engine import TraceEngine
from laconic.traces import TraceRecord

DRAWN_BY = ("max_new_tokens", "temperature", "top_p", "top_k", "policy", "model")
"""Settings in which all traces of one run agree."""


@dataclass(frozen=True)
class RecordedSetup:
    """What `run_parallel` is given. by_problem: traces with full KV, those of a problem in the order of their indices.
    tokenizer: tells their texts token by token; None: a judge that reads such texts is refused."""

    by_problem: Mapping[str, Sequence[TraceRecord]]
    make: Maker
    tokenizer: Any = None

    def traces(self, compression: LabelledPolicy) -> Mapping[str, Sequence[TraceRecord]]:
        return self.by_problem

    def replay(
        self,
        compression: LabelledPolicy,
        records: Sequence[TraceRecord],
        rows: int | None = None,
        acts_at: int | None = None,
    ) -> TraceEngine:
        rows = rows or max(1, len(records))
        return ReplayEngine(records, compression.policy, rows, tokenizer=self.tokenizer, acts_at=acts_at)

    def live(self, compression: LabelledPolicy) -> TraceEngine:
        raise InputError("recorded traces are played back and nothing runs live: leave --timed out, or give a model")

    def judge(self, spec: str, answers: Answers) -> Judge:
        return open_judge(spec, tokenizer=self.tokenizer, answers=answers)

    def strategy(self, entry: ComparedStrategy, judge: Judge | None) -> Strategy:
        strategy = self.make(entry.strategy, entry.n, judge)
        needs = strategy.needs()
        if needs.probe or needs.state_tokens or needs.kept:
            raise InputError(
                f"{entry.family} reads the model that wrote the traces (hidden states, probes, or what compression kept), and "
                "with --traces there is none: leave it out, or run it with --model"
            )
        return strategy


def digest_of_traces(records: Iterable[TraceRecord]) -> str:
    """16 hex digits that tell these traces from others of the same problems, whatever their order or their file's name."""
    lines = sorted(json.dumps([r.problem, r.index, r.seed, r.answer, list(r.token_ids)]) for r in records)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def problems_of(by_problem: Mapping[str, Sequence[TraceRecord]], most: int | None, path: Path) -> list[Problem]:
    """The first `most` problems of a file (None: all). Raises InputError for traces without a reference answer."""
    found = []
    for name, records in list(by_problem.items())[:most]:
        first = records[0]
        if not first.gold:
            raise InputError(
                f"the traces of problem {name} in {path} have no reference answer, so nothing tells which are right; collect "
                "them from problems with answers"
            )
        found.append(Problem(name, first.question, first.gold, first.level))
    return found


def sampling_of(by_problem: Mapping[str, Sequence[TraceRecord]], path: Path, confidence_top_k: int) -> Sampling:
    """How all traces of a file were drawn; a strategy's run takes each problem's seed from its records.

    Raises InputError where they were drawn in several ways, under another policy than full KV, or without the confidences that
    a strategy needs.
    """
    first: dict[str, Any] | None = None
    for records in by_problem.values():
        for record in records:
            mine = {name: record.settings.get(name) for name in DRAWN_BY}
            first = mine if first is None else first
            for name in DRAWN_BY:
                if mine[name] != first[name]:
                    raise InputError(
                        f"{path} holds traces with {name} {first[name]!r} and {mine[name]!r}; expected one: take them apart"
                    )
            recorded = record.settings.get("logprobs") if record.confidences is not None else 0
            if confidence_top_k and recorded != confidence_top_k:
                raise InputError(
                    f"a strategy reads confidences over {confidence_top_k} candidates, and the traces in {path} were recorded "
                    f"with {recorded or 'none'}: collect them with --confidence-top-k {confidence_top_k}, or leave it out"
                )
    assert first is not None  # `read_traces` refuses a file without traces
    if first["policy"] is None or parse_policy(str(first["policy"])) != parse_policy("full"):
        raise InputError(
            f"the traces in {path} were written under {first['policy']}; expected full KV, which the others are compared with"
        )
    return Sampling(
        max_new_tokens=int(first["max_new_tokens"]),
        temperature=float(first["temperature"]),
        top_p=float(first["top_p"]),
        top_k=int(first["top_k"]),
    )
