"""Batches of traces: a stream that depends on its seed and cursor only, so training can stop anywhere and go on.

Traces come in chunks. A chunk's traces are sorted into buckets of equal padded length, so a compiled step sees few
shapes; a batch holds about ``tokens`` tokens. The stream's place is (chunk, offset): nothing else has to be saved.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laconic.problems.programs import LETTERS, MAX_STEPS, sample_program
from training.reasoner.traces import FLAWLESS, Habits, Trace, write_trace
from training.reasoner.vocabulary import IDS

# The weight of a token in the loss, by its tag; keyed tokens and digits weigh KEYED_WEIGHT.
WEIGHTS = {".": 0.0, "w": 1.0, "f": 1.0}
KEYED_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """What traces a stage trains on: lengths of programs (drawn evenly), the teacher's habits, the share of drills.

    hint: how often a draft takes a hint, where that is not the recipe's habit.
    """

    shortest: int = 1
    longest: int = MAX_STEPS
    flawless: bool = False
    drills: float = 0.03
    hint: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest <= MAX_STEPS:
            raise ValueError(
                f"Mixture needs 1 <= shortest <= longest <= {MAX_STEPS}, not {self.shortest} and {self.longest}."
            )
        if not 0 <= self.drills < 1:
            raise ValueError(f"Mixture.drills must be in [0, 1), not {self.drills!r}.")


@dataclass(frozen=True, slots=True)
class Batch:
    """Ids and loss weights [B, L], padded on the right."""

    ids: Tensor
    weights: Tensor


def drill(rng: random.Random, length: int) -> Trace:
    """Sums and differences, nothing else."""
    words: list[str] = []
    while len(words) + 7 <= length:
        a, b, sign = rng.randrange(10), rng.randrange(10), rng.choice("+-")
        words += ["so", str(a), sign, str(b), "=", str((a + b if sign == "+" else a - b) % 10), ","]
    return Trace(tuple(IDS[word] for word in words), ".....aw" * (len(words) // 7), 0, "")


def line_drill(rng: random.Random, length: int) -> Trace:
    """Single steps as a draft has them, after their two values: ``k=7 w=9 h:w h+k 9 + 7 = 6 h=6``."""
    words: list[str] = []
    while len(words) + 10 <= length:
        letter, first, second = rng.sample(LETTERS, 3)
        a, b, sign = rng.randrange(10), rng.randrange(10), rng.choice("+-")
        result = (a + b if sign == "+" else a - b) % 10
        words += [*rng.sample([f"{first}={a}", f"{second}={b}"], 2), f"{letter}:{first}", f"{letter}{sign}{second}"]
        words += [str(a), sign, str(b), "=", str(result), f"{letter}={result}"]
    return Trace(tuple(IDS[word] for word in words), "....dwdwas" * (len(words) // 10), 0, "")


def training_trace(rng: random.Random, mixture: Mixture, habits: Habits) -> Trace:
    """A trace of the training split."""
    habits = habits_of(mixture, habits)
    while True:
        program = sample_program(rng, rng.randint(mixture.shortest, mixture.longest), hints=not mixture.flawless)
        if program.split() == "train":
            return write_trace(program, rng, habits)


def habits_of(mixture: Mixture, habits: Habits) -> Habits:
    """A recipe's habits as a stage has them."""
    if mixture.flawless:
        return FLAWLESS
    return habits if mixture.hint is None else replace(habits, hint=mixture.hint)


def chunk(
    seed: int, index: int, mixture: Mixture, habits: Habits, size: int, buckets: tuple[int, ...], tokens: int
) -> list[Batch]:
    """The batches of one chunk: ``size`` traces; what is longer than the last bucket is left out."""
    rng = random.Random(f"laconic.reasoner/{seed}/{index}")
    rows: dict[int, list[Trace]] = {bucket: [] for bucket in buckets}
    for _ in range(size):
        is_drill = rng.random() < mixture.drills
        if is_drill:
            trace = rng.choice((drill, line_drill))(rng, buckets[0])
        else:
            trace = training_trace(rng, mixture, habits)
        bucket = next((b for b in buckets if len(trace.ids) <= b), None)
        if bucket is not None:
            rows[bucket].append(trace)
    batches = []
    for bucket, traces in rows.items():
        height = max(1, tokens // bucket)
        if traces:  # the last batch is filled up from the front: shapes stay few and no length is left out
            traces = (traces * height)[: -(-len(traces) // height) * height]
        batches += [_batch(traces[i : i + height], bucket) for i in range(0, len(traces), height)]
    rng.shuffle(batches)
    return batches


def _batch(traces: list[Trace], length: int) -> Batch:
    ids = torch.zeros(len(traces), length, dtype=torch.long)
    weights = torch.zeros(len(traces), length)
    for row, trace in enumerate(traces):
        ids[row, : len(trace.ids)] = torch.tensor(trace.ids)
        weights[row, : len(trace.ids)] = torch.tensor([WEIGHTS.get(tag, KEYED_WEIGHT) for tag in trace.tags])
    return Batch(ids, weights)


def heldout_traces(seed: int, mixture: Mixture, count: int, habits: Habits) -> list[Trace]:
    """Traces of the held-out split, for teacher-forced diagnostics."""
    rng = random.Random(f"laconic.reasoner.heldout/{seed}")
    traces: list[Trace] = []
    while len(traces) < count:
        program = sample_program(rng, rng.randint(mixture.shortest, mixture.longest), hints=not mixture.flawless)
        if program.split() == "heldout":
            traces.append(write_trace(program, rng, habits_of(mixture, habits)))
    return traces
