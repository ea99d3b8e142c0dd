"""Pairs of excerpts with labels: all pairs of a problem's traces, labelled by a rule, split by problem.

Problems are what a judge must generalise over, so a problem's traces are never in two parts of a split.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from laconic.answers import group_equivalent
from laconic.engines.replay import ReplayEngine, recorded_sampling
from laconic.engines.text import decode
from laconic.errors import InputError
from laconic.prune.excerpts import Excerpts, parse
from laconic.prune.judge import Excerpt
from laconic.traces import TraceFile, TraceRecord

PARTS = ("train", "validation", "test")
SHARES = (0.7, 0.15, 0.15)
EXACT_SPLIT_LIMIT = 100  # problems: up to here a split is exact


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """P pairs over E excerpts of some problems. Raises InputError for tensors of other shapes or kinds, or indices out of
    range."""

    excerpts: tuple[Excerpt, ...]
    """Each of the E excerpts once."""
    left: Tensor
    """int64 [P]: index of a pair's first excerpt."""
    right: Tensor
    """int64 [P]: index of its second."""
    same: Tensor
    """bool [P]: whether the two traces end in the same answer."""
    problem: Tensor
    """int64 [P]: index into `problems`."""
    problems: tuple[str, ...]
    """The problems' ids."""
    answers: tuple[str | None, ...]
    """What the traces behind the E excerpts end in; None for no answer."""

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.excerpts):
            raise InputError(f"Pairs.answers has {len(self.answers)} entries; expected {len(self.excerpts)}")
        for name, kind, most in (
            ("left", torch.int64, len(self.excerpts)),
            ("right", torch.int64, len(self.excerpts)),
            ("same", torch.bool, 2),
            ("problem", torch.int64, len(self.problems)),
        ):
            value: Tensor = getattr(self, name)
            if value.dtype != kind or value.dim() != 1 or len(value) != len(self.left):
                raise InputError(
                    f"Pairs.{name} is {value.dtype} {list(value.shape)}; expected {kind} [{len(self.left)}]"
                )
            if len(value) and not 0 <= int(value.min()) <= int(value.max()) < most:
                raise InputError(f"Pairs.{name} has an index out of range; expected 0 to {most - 1}")

    def __len__(self) -> int:
        return len(self.left)

    def take(self, index: Tensor) -> Pairs:
        """The pairs at `index` (int64 [Q], repeats allowed), with only the excerpts that they need."""
        ends = torch.stack([self.left[index], self.right[index]])
        needed, places = ends.unique(return_inverse=True)
        excerpts = tuple(self.excerpts[i] for i in needed.tolist())
        answers = tuple(self.answers[i] for i in needed.tolist())
        return Pairs(excerpts, places[0], places[1], self.same[index], self.problem[index], self.problems, answers)

    def of_problems(self, problems: Iterable[str]) -> Pairs:
        """The pairs of these problems."""
        wanted = set(problems)
        chosen = torch.tensor([name in wanted for name in self.problems], dtype=torch.bool)
        return self.take(torch.nonzero(chosen[self.problem]).flatten())

    def require_both_classes(self, what: str) -> Pairs:
        """Itself. Raises InputError, naming `what`, where one class is missing: nothing can be learnt or scored then."""
        count, same = len(self), int(self.same.sum())
        if not 0 < same < count:
            found = f"{count} pairs, all {'the same' if same else 'different'}" if count else "no pairs"
            raise InputError(
                f"{what} has {found}; expected pairs of both classes: give more problems, or traces that disagree more"
            )
        return self


def make_pairs(
    traces: TraceFile | Sequence[TraceRecord],
    kind: str,
    tokenizer: Any = None,
    model_engine: Any = None,
    prefix: str = "",
) -> Pairs:
    """All C(n, 2) pairs of every problem's n traces, labelled by the equivalence of their answers.

    A trace without an answer is different from every other. kind: of the excerpts. tokenizer: decodes excerpts' tokens;
    model_engine: an HFEngine on the model and policy of the traces, which `kept` excerpts are cut with. prefix: of trace ids,
    to tell the traces of several files apart.

    Raises InputError for an unknown kind, or an excerpt that can't be cut.
    """
    records = traces if isinstance(traces, TraceFile) else TraceFile(tuple(traces))
    tokenizer = tokenizer if tokenizer is not None else getattr(model_engine, "tokenizer", None)
    cutter = parse(kind, decode=None if tokenizer is None else lambda ids: decode(tokenizer, ids))
    excerpts: list[Excerpt] = []
    answers: list[str | None] = []
    columns: list[Tensor] = []
    problems: list[str] = []
    for problem, group in records.by_problem().items():
        names = [f"{prefix}{problem}#{place}" for place in range(len(group))]
        cut = (
            _cut_during_replay(cutter, group, names, model_engine)
            if cutter.fresh
            else _cut_recorded(cutter, group, names)
        )
        classes = group_equivalent([record.answer for record in group])
        known = torch.tensor([-1 - i if c is None else c for i, c in enumerate(classes)], dtype=torch.int64)
        both = torch.combinations(torch.arange(len(group)), 2)
        same = known[both[:, 0]] == known[both[:, 1]]
        place = torch.full((len(both), 1), len(problems))
        columns.append(torch.cat([both + len(excerpts), same[:, None].long(), place], dim=1))
        problems.append(problem)
        excerpts += cut
        answers += [record.answer for record in group]
    left, right, same, place = (torch.cat(columns) if columns else torch.zeros(0, 4, dtype=torch.int64)).unbind(1)
    return Pairs(tuple(excerpts), left, right, same.bool(), place, tuple(problems), tuple(answers))


def split_problems(problems: Iterable[str], shares: Sequence[float] = SHARES, seed: int = 0) -> dict[str, list[str]]:
    """Which problems are for what: {"train": ids, "validation": ids, "test": ids}.

    A keyed hash of a problem's id decides, so it stays where it is when a file grows, and `shares` are met on average. Up to
    EXACT_SPLIT_LIMIT problems, where chance would make a part half or double its share, they are met to the nearest problem,
    and each part that has one gets at least one: by the order of the same hashes, so that growth moves only problems between
    two parts.
    Raises InputError for shares that are none, or fewer problems than parts.
    """
    if len(shares) != len(PARTS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise InputError(
            f"the shares of {', '.join(PARTS)} are {list(shares)}; expected three from 0 to 1 that add up to 1"
        )
    names = list(problems)
    key = f"laconic.judges.split/{seed}".encode()
    at = [int.from_bytes(hashlib.blake2b(n.encode(), key=key, digest_size=8).digest(), "big") / 2**64 for n in names]
    ends = (shares[0], shares[0] + shares[1])
    if len(names) <= EXACT_SPLIT_LIMIT:
        counts = _exact_counts(len(names), shares)
        for rank, i in enumerate(sorted(range(len(names)), key=lambda i: (at[i], names[i]))):
            at[i] = float(rank)
        ends = (counts[0], counts[0] + counts[1])
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for problem, place in zip(names, at, strict=True):
        parts[PARTS[0] if place < ends[0] else PARTS[1] if place < ends[1] else PARTS[2]].append(problem)
    for (part, found), share in zip(parts.items(), shares, strict=True):
        if share and not found:
            count = sum(len(ids) for ids in parts.values())
            raise InputError(
                f"of {count} problems none fell to the {part} part (share {share:g}): collect more problems, or split "
                "with another seed"
            )
    return parts


def split_folds(problems: Iterable[str], folds: int, seed: int = 0) -> list[dict[str, list[str]]]:
    """The parts of each fold, as `split_problems` has them: each problem is tested on in one fold and watched in the one
    before, and trains the others. By the order of a keyed hash of a problem's id; folds differ by one problem at most.

    Raises InputError for fewer than 3 folds, or fewer problems than folds.
    """
    names = list(problems)
    if not 3 <= folds <= len(names):
        raise InputError(
            f"the folds are {folds} of {len(names)} problems; expected at least 3 (one is tested on, one watched, the others "
            "train), and a problem for each"
        )
    key = f"laconic.judges.folds/{seed}".encode()
    names.sort(key=lambda name: (hashlib.blake2b(name.encode(), key=key, digest_size=8).digest(), name))
    held_out = [names[fold::folds] for fold in range(folds)]
    found = []
    for fold in range(folds):
        watched = (fold + 1) % folds
        train = [name for other in range(folds) if other not in (fold, watched) for name in held_out[other]]
        found.append({"train": train, "validation": held_out[watched], "test": held_out[fold]})
    return found


def _exact_counts(count: int, shares: Sequence[float]) -> list[int]:
    """How many of `count` fall to each share: the nearest whole numbers that add up to it (the largest remainders are rounded
    up), but none for a share only where there are fewer than shares."""
    counts = [math.floor(share * count + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i] * count, i))
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        if share and not counts[i] and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def oversampled_indices(same: Tensor, factor: int) -> Tensor:
    """Indices of all pairs, those of the rarer class `factor` times: int64, sorted. 1 is off. same: bool [P]."""
    if factor < 1:
        raise InputError(f"the oversampling factor is {factor}; expected at least 1 (off)")
    rare = same if int(same.sum()) * 2 < len(same) else ~same
    return torch.arange(len(same)).repeat_interleave(torch.where(rare, factor, 1))


@dataclass(slots=True)
class _RecordedTrace:
    """A finished record as a `TraceView`."""

    record: TraceRecord
    id: str
    token_ids: list[int]
    confidences: list[float] = field(default_factory=list)
    state: str = "finished"

    @property
    def index(self) -> int:
        return self.record.index

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.record.prompt_ids

    @property
    def text(self) -> str:
        return self.record.text

    @property
    def kv_tokens(self) -> int:
        return 0

    @property
    def finish_reason(self) -> str:
        return self.record.finish_reason

    @property
    def thinking(self) -> bool:
        return self.record.thinking


def _cut_recorded(cutter: Excerpts, records: Sequence[TraceRecord], names: Sequence[str]) -> list[Excerpt]:
    return [
        cutter.cut(_RecordedTrace(record, name, list(record.token_ids)), record.question)
        for record, name in zip(records, names, strict=True)
    ]


def _cut_during_replay(
    cutter: Excerpts, records: Sequence[TraceRecord], names: Sequence[str], engine: Any
) -> list[Excerpt]:
    """Played back and cut when they are ready: what compression kept can only be asked at that moment."""
    found = []
    for record, name in zip(records, names, strict=True):
        replay = ReplayEngine([replace(record, index=0)], model_engine=engine)
        replay.submit(record.prompt_ids, recorded_sampling(record), ids=[name])
        for _ in replay.stream():
            trace = replay.trace(name)
            if cutter.ready(trace):
                found.append(cutter.cut(trace, record.question, replay))
                break
    return found
