"""What a set of problems came to: each one's verdict in brief, a file of verdicts that a run goes on from, and a summary.

The file is a journal of two kinds of lines: `verdict`, one a problem, and `trace`, one a finished trace of problems that share
a budget, which are settled late. Of several verdicts of a problem the last counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.answers import equivalent
from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.problems.base import Problem
from laconic.problems.sets import problem_digest
from laconic.prune.pool import KnownTrace
from laconic.prune.verdict import Verdict
from laconic.prune.voting import Tally
from laconic.statistics import Interval, mean_interval, paired_difference

FORMAT = "laconic.verdicts/1"


@dataclass(frozen=True, slots=True)
class SolvedTrace:
    """A trace that came to its end: which of the problem's it is, its answer, its tokens and their mean confidence (None: not
    known)."""

    index: int
    answer: str | None
    tokens: int
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SolvedProblem:
    """A problem's verdict in brief. gold, right: None where the problem has no reference answer. votes: answers and weights,
    the heaviest first. traces: that were started. generated, judged: tokens. finished: in the order of their index."""

    problem: str
    gold: str | None
    answer: str | None
    right: bool | None
    votes: tuple[tuple[str, float], ...]
    traces: int
    generated: int
    judged: int
    finished: tuple[SolvedTrace, ...]
    note: str = ""

    @classmethod
    def of(cls, problem: Problem, verdict: Verdict) -> SolvedProblem:
        ended = sorted((t for t in verdict.traces if t.fate == "finished"), key=lambda trace: trace.index)
        return cls(
            problem.id,
            problem.answer or None,
            verdict.answer,
            equivalent(verdict.answer, problem.answer) if problem.answer else None,
            tuple((vote.answer, vote.weight) for vote in verdict.votes),
            sum(bool(trace.tokens) for trace in verdict.traces),
            verdict.tokens.generated,
            verdict.tokens.judged,
            tuple(SolvedTrace(t.index, t.answer, t.tokens, t.confidence) for t in ended),
            verdict.note,
        )

    @classmethod
    def from_line(cls, record: Mapping[str, Any]) -> SolvedProblem:
        """Of a line of the file. Raises KeyError or TypeError for one that is none."""
        ended = sorted((t for t in record["traces"] if t["fate"] == "finished"), key=lambda trace: trace["index"])
        return cls(
            record["problem"],
            record["gold"],
            record["answer"],
            record["right"],
            tuple((vote["answer"], vote["weight"]) for vote in record["votes"]),
            sum(bool(trace["tokens"]) for trace in record["traces"]),
            record["tokens"]["generated"],
            record["tokens"]["judged"],
            tuple(SolvedTrace(t["index"], t["answer"], t["tokens"], t.get("confidence")) for t in ended),
            record["note"],
        )

    @property
    def tokens(self) -> int:
        return self.generated + self.judged

    @property
    def sure(self) -> bool:
        """Whether the confidence of every finished trace is known."""
        return all(trace.confidence is not None for trace in self.finished)

    def plain_answer(self, traces: int) -> str | None:
        """Of a plain vote of the first so many finished traces, or of all that there are; ties go to the more confident ones
        where all confidences are known, else to the first."""
        tally, sure = Tally(), self.sure
        for trace in self.finished[:traces]:
            if trace.answer is not None:
                tally.add(trace.index, trace.answer, tie=(trace.confidence or 0.0) if sure else 0.0)
        votes = tally.votes()
        return votes[0].answer if votes else None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def open_verdicts(path: str | Path, settings: Mapping[str, Any]) -> Journal:
    """The file of a set's verdicts, found or new; a context manager. Texts are not kept in memory. settings: what must be equal
    for verdicts to stand in one file; files of before judges were told apart by more than their specs have no
    "judge_identity". Raises InputError as `Journal`; broken lines are passed over."""
    return Journal(
        path,
        FORMAT,
        settings,
        remember=_brief,
        skip_broken=True,
        may_grow=lambda key, lacking: lacking and key.startswith("judge_identity"),
    )


def _brief(record: Record) -> Record:
    """What is remembered of a line. Raises InputError for one that is neither kind."""
    try:
        brief = {"kind": record["kind"], "problem": record["problem"], "digest": record["digest"]}
        if record["kind"] == "trace":
            trace = KnownTrace(record["index"], record["answer"], record["tokens"], record["confidence"])
            return {**brief, "trace": trace}
        if record["kind"] == "verdict":
            return {**brief, "solved": SolvedProblem.from_line(record)}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"lacks {error}") from error
    raise InputError(f"its kind is {record['kind']!r}, not verdict or trace")


class SetResults:
    """The verdicts of a set as they come, in a file where there is one.

    Raises InputError where the file holds another problem under one of the ids.
    """

    def __init__(self, problems: Sequence[Problem], journal: Journal | None = None) -> None:
        self.problems, self.journal = problems, journal
        self.solved: dict[str, SolvedProblem] = {}
        self.traces: dict[str, dict[int, KnownTrace]] = {problem.id: {} for problem in problems}
        self.refused: list[tuple[str, str]] = []
        self._digests = {p.id: problem_digest(p.question, p.answer) for p in problems}
        for record in journal.records if journal is not None else ():
            name = record["problem"]
            if record["digest"] != self._digests.get(name, record["digest"]):
                raise InputError(
                    f"{journal.path if journal else ''} holds verdicts of another problem with the id {name}; nothing was "
                    "changed: give the problems that it was made of, or name another file"
                )
            if name not in self._digests:
                continue
            if record["kind"] == "trace":
                self.traces[name][record["trace"].index] = record["trace"]
            else:
                self.solved[name] = record["solved"]

    def add(self, problem: Problem, verdict: Verdict) -> SolvedProblem:
        """A problem is settled; it is in the file before this returns, unless it stands there already."""
        found = SolvedProblem.of(problem, verdict)
        if self.solved.get(problem.id) != found:
            self._write(problem, {"kind": "verdict", "right": found.right, **verdict.to_dict()})
        self.solved[problem.id] = found
        return found

    def add_trace(self, problem: Problem, trace: KnownTrace, text: str) -> None:
        """A trace of a problem that is not settled yet has ended."""
        self.traces[problem.id][trace.index] = trace
        self._write(problem, {"kind": "trace", **dataclasses.asdict(trace), "text": text})

    def refuse(self, problem: Problem, why: str) -> None:
        self.refused.append((problem.id, why))

    def _write(self, problem: Problem, record: Record) -> None:
        if self.journal is None:
            return
        about = {"problem": problem.id, "question": problem.question, "gold": problem.answer or None}
        self.journal.append([{**record, **about, "digest": self._digests[problem.id]}])

    def summary(self) -> SetSummary:
        """Of the problems that have a verdict by now."""
        return sum_up([self.solved[p.id] for p in self.problems if p.id in self.solved], self.refused)


@dataclass(frozen=True, slots=True)
class PlainSetVote:
    """What a plain vote of as many traces of each problem would have said for the same tokens, as far as the finished traces
    tell. Its ties are broken as `SolvedProblem.plain_answer` has it.

    traces: of each that the tokens pay for, at the mean length of the finished ones. accuracy: linear between the votes of the
    whole numbers around it; None without reference answers. ahead: the verdicts' accuracy minus it, paired. otherwise:
    problems whose plain vote says something else. fewer: problems of which fewer traces have finished; there the vote of these
    stands in. by_confidence: whether ties go by confidence everywhere.
    """

    traces: float
    accuracy: Interval | None
    ahead: Interval | None
    otherwise: int
    fewer: int
    by_confidence: bool


@dataclass(frozen=True, slots=True)
class SetSummary:
    """What a set came to. problems: with a verdict; answered: of these with an answer; scored: of these with a reference
    answer, over which accuracy is taken. traces: started. generated, judged: tokens. plain: None before a trace has finished.
    refused: (problem's id, why)."""

    problems: int
    answered: int
    scored: int
    traces: int
    generated: int
    judged: int
    accuracy: Interval | None
    plain: PlainSetVote | None
    refused: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        record["accuracy"] = _named(self.accuracy)
        if self.plain is not None:
            record["plain"] |= {"accuracy": _named(self.plain.accuracy), "ahead": _named(self.plain.ahead)}
        return record


def sum_up(solved: Sequence[SolvedProblem], refused: Sequence[tuple[str, str]] = ()) -> SetSummary:
    """The summary of these problems."""
    scored = [found for found in solved if found.right is not None]
    return SetSummary(
        problems=len(solved),
        answered=sum(found.answer is not None for found in solved),
        scored=len(scored),
        traces=sum(found.traces for found in solved),
        generated=sum(found.generated for found in solved),
        judged=sum(found.judged for found in solved),
        accuracy=mean_interval([[float(bool(found.right))] for found in scored]) if scored else None,
        plain=_plain(solved, scored),
        refused=tuple(refused),
    )


def _plain(solved: Sequence[SolvedProblem], scored: Sequence[SolvedProblem]) -> PlainSetVote | None:
    means = [sum(t.tokens for t in found.finished) / len(found.finished) for found in solved if found.finished]
    mean = sum(means) / len(means) if means else 0.0
    if not mean:
        return None
    traces = max(1.0, sum(found.tokens for found in solved) / (len(solved) * mean))
    shares = [_right_share(found, traces) for found in scored]
    near = round(traces)
    return PlainSetVote(
        traces,
        mean_interval([[share] for share in shares]) if scored else None,
        paired_difference([[float(bool(found.right))] for found in scored], [[share] for share in shares])
        if scored
        else None,
        sum(not _same(found.plain_answer(near), found.answer) for found in solved),
        sum(len(found.finished) < near for found in solved),
        all(found.sure for found in solved),
    )


def _right_share(found: SolvedProblem, traces: float) -> float:
    """How right the plain vote of so many traces is: between those of the whole numbers around it."""
    low = math.floor(traces)
    part = traces - low
    return (1 - part) * _right(found, low) + (part * _right(found, low + 1) if part else 0.0)


def _right(found: SolvedProblem, traces: int) -> float:
    answer = found.plain_answer(traces)
    return float(bool(found.right) if answer == found.answer else equivalent(answer, found.gold))


def _same(one: str | None, other: str | None) -> bool:
    return one == other or (one is not None and other is not None and equivalent(one, other))


def _named(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval._asdict()
