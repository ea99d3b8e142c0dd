"""Free-running figures of an exported model on held-out problems, as one JSON record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from laconic.answers import equivalent, extract
from laconic.problems.generate import generate_programs
from laconic.statistics import mean_interval
from training.reasoner.diagnostics import count_right
from training.reasoner.model import Student
from training.reasoner.sampling import sample
from training.reasoner.traces import prompt
from training.reasoner.vocabulary import EOS, IDS, TOKENS, encode


@dataclass(frozen=True, slots=True)
class Settings:
    """What to evaluate on; ``level=None`` is the bundled mixture."""

    problems: int = 200
    samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    level: int | None = None
    seed: int = 0
    split: str = "heldout"
    max_new_tokens: int = 1024
    rows: int = 320  # traces decoded together

    def __post_init__(self) -> None:
        for name in ("problems", "samples", "max_new_tokens", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"Settings.{name} must be at least 1, not {getattr(self, name)!r}.")


def vote(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer (the earliest of equals); traces without one have no vote."""
    given = Counter(answer for answer in answers if answer is not None)
    return given.most_common(1)[0][0] if given else None


def bootstrap(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values`` (one a problem); a formula serves where resamples know too little."""
    _, low, high = mean_interval([[value] for value in values], resamples=draws, seed=seed)
    return round(low, 4), round(high, 4)


def evaluate(student: Student, settings: Settings) -> dict[str, Any]:
    """Samples every problem and summarises; the record holds each problem's answers too."""
    began = time.perf_counter()
    chosen = generate_programs(settings.problems, settings.seed, settings.level, settings.split)
    prompts = [encode(prompt(program.question())) for program in chosen]
    jobs = sorted((p for p in range(len(chosen)) for _ in range(settings.samples)), key=lambda p: len(chosen[p].steps))
    texts: list[list[str]] = [[] for _ in chosen]
    lengths, finished = [], 0
    counts: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for start in range(0, len(jobs), settings.rows):
        batch = jobs[start : start + settings.rows]
        new = sample(
            student,
            [prompts[p] for p in batch],
            settings.temperature,
            settings.seed + start,
            settings.max_new_tokens,
            settings.top_p,
        )
        for problem, ids in zip(batch, new, strict=True):
            words = [TOKENS[i] for i in ids]
            texts[problem].append(" ".join(words))
            lengths.append(len(ids))
            finished += ids[-1] == IDS[EOS]
            for kind, (right, total) in count_right(chosen[problem], words).items():
                counts[kind] += right
                totals[kind] += total
    answers = [[extract(text) for text in group] for group in texts]
    record = summarise(answers, [program.answer for program in chosen])
    by_level: dict[int, list[float]] = {}
    for group, program in zip(answers, chosen, strict=True):
        by_level.setdefault(len(program.steps), []).append(_share(group, program.answer))
    lengths.sort()
    return record | {
        "by_level": {level: round(sum(v) / len(v), 4) for level, v in sorted(by_level.items())},
        "finished": round(finished / len(jobs), 4),
        "length": {f"p{q}": lengths[min(len(lengths) - 1, q * len(lengths) // 100)] for q in (1, 10, 50, 90, 99)},
        "right_by_kind": {kind: round(counts[kind] / totals[kind], 4) for kind in totals if totals[kind]},
        "seconds": round(time.perf_counter() - began, 1),
        "answers": answers,
    }


def summarise(answers: Sequence[Sequence[str | None]], references: Sequence[str]) -> dict[str, Any]:
    """pass@1 and cons@k with intervals, the share of equal pairs and of traces without an answer."""
    shares = [_share(group, reference) for group, reference in zip(answers, references, strict=True)]
    k = min(len(group) for group in answers)
    record: dict[str, Any] = {"pass@1": _mean(shares), "pass@1_95%": bootstrap(shares)}
    for size in sorted({s for s in (4, 8, 16) if s <= k} | {k}):
        if size > 1:
            votes = [float(equivalent(vote(g[:size]), r)) for g, r in zip(answers, references, strict=True)]
            record |= {f"cons@{size}": _mean(votes), f"cons@{size}_95%": bootstrap(votes)}
    pairs = [equivalent(a, b) for group in answers for a, b in combinations(group, 2)]
    if pairs:
        record["equal_pairs"] = _mean(pairs)
    record["no_answer"] = _mean([answer is None for group in answers for answer in group])
    return record


def _share(group: Sequence[str | None], reference: str) -> float:
    return sum(equivalent(answer, reference) for answer in group) / len(group)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
