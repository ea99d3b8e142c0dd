"""The pair encoder as what is trained: what it learns, and what it keeps of excerpts meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laconic.errors import LaconicError
from laconic.judges.input_spec import EncoderInputSpec
from laconic.judges.network import EncoderConfig
from laconic.judges.vectors import ReasonerStates
from laconic.lab.judges.pairs import Pairs
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.trainable import TrainableEncoder
from laconic.lab.judges.training import fit, predict
from laconic.prune.judge import Excerpt, judge_pairs

KIND = "tokens:5"
TOKENS = EncoderConfig(vocabulary=40, embedding=8, tokens=5, width=16, heads=2, pools=2, encoding=8, hidden=8)
STATES = replace(TOKENS, given=6, vocabulary=0)


class Engine:
    """States that say which trace and position they are of; knows how many tokens it ran for them."""

    def __init__(self, width: int = 6, layers: tuple[int, ...] = (-1,), reads: int = 0) -> None:
        self.width, self.state_layers, self.reads = width, layers, reads
        self.stats = SimpleNamespace(side_tokens=100)
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        self.asked.append((tuple(trace_ids), tokens))
        self.stats.side_tokens += self.reads
        seeds = [sum(map(ord, trace_id)) for trace_id in trace_ids]
        rows = [torch.randn(32, self.width, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(rows)[:, :tokens]


def excerpt(name: str, *ids: int, kind: str = KIND, prompt: tuple[int, ...] = (1, 2, 3)) -> Excerpt:
    return Excerpt(name, kind, "what ?", prompt, ids, " ".join(map(str, ids)))


def plain(seed: int = 0, shape: EncoderConfig = TOKENS, **made: Any) -> TrainableEncoder:
    return TrainableEncoder(EncoderInputSpec(KIND, **made), shape, seed=seed)


def of_states(engine_width: int = 6) -> TrainableEncoder:
    return TrainableEncoder(
        EncoderInputSpec(KIND, "states", (-1,)), replace(STATES, given=engine_width), ReasonerStates(engine_width)
    )


def toy(problems: int, start: int = 0) -> Pairs:
    """Traces of five tokens whose answer is the second token; the others are noise."""
    generator = torch.Generator().manual_seed(start)
    excerpts: list[Excerpt] = []
    columns, answers = [], []
    for number in range(problems):
        rows = torch.randint(4, 40, (6, 5), generator=generator)
        rows[:, 1] = torch.randint(4, 8, (6,), generator=generator)
        both = torch.combinations(torch.arange(6), 2)
        same = rows[both[:, 0], 1] == rows[both[:, 1], 1]
        columns.append((both + len(excerpts), same, torch.full((len(both),), number)))
        excerpts += [excerpt(f"{start}.{number}#{i}", *row.tolist()) for i, row in enumerate(rows)]
        answers += [str(int(row[1])) for row in rows]
    ends, same, problem = (torch.cat(c) for c in zip(*columns, strict=True))
    return Pairs(
        tuple(excerpts),
        ends[:, 0].clone(),
        ends[:, 1].clone(),
        same,
        problem,
        tuple(map(str, range(problems))),
        tuple(answers),
    )


def test_it_learns_what_can_be_read_from_the_tokens(tmp_path: Path) -> None:
    train, held = toy(60), toy(12, start=1)
    judge = plain(seed=1)
    settings = TrainSettings(epochs=6, batch=2, rate=1e-2, patience=0)
    found = fit(judge, train, held, settings, tmp_path)
    assert found.best.auroc > 0.97
    logits = predict(judge, held)
    judge.calibrate(logits, held.same)
    assert (judge.scale, judge.shift) != (1.0, 0.0)
    probabilities = judge_pairs(
        judge, [(held.excerpts[a], held.excerpts[b]) for a, b in zip(held.left, held.right, strict=True)]
    )
    expected = (judge.scale * logits + judge.shift).sigmoid()
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-5)


def test_remembered_excerpts_are_not_asked_for_again() -> None:
    judge, engine, pairs = of_states(), Engine(), toy(2)
    assert judge.remember(pairs.excerpts, engine) == 0  # type: ignore[arg-type]
    asked = len(engine.asked)
    logits = judge.loss_logits(pairs)
    assert len(engine.asked) == asked
    readings = dict(zip(pairs.excerpts, judge.read(pairs.excerpts, engine), strict=True))  # type: ignore[arg-type]
    live = judge.compare(
        [
            (readings[pairs.excerpts[a]], readings[pairs.excerpts[b]])
            for a, b in zip(pairs.left, pairs.right, strict=True)
        ]
    )
    assert logits.sigmoid().tolist() == pytest.approx(live, abs=2e-3)  # kept in half precision
    judge.forget()
    with pytest.raises(LaconicError, match="no engine was given"):
        judge.loss_logits(pairs)
