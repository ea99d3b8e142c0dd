"""The ablation: which cells there are, how each is trained, and that finished ones are not trained again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.errors import LaconicError
from laconic.journal import Journal
from laconic.lab.judges.ablation import FORMAT, VARIANTS, run_ablation
from laconic.lab.judges.losses import Loss
from laconic.lab.judges.pairs import Pairs
from laconic.lab.judges.recipe import TrainedJudge, TrainingData
from laconic.lab.judges.scoring import score
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.judges.training import TrainingHistory, ValidationCheck
from laconic.prune.judge import Excerpt

BASE = TrainSettings(loss=Loss(True, 0.3, 1.5), oversample=3)


def held_out(fold: int) -> Pairs:
    """Four problems of a fold, ten pairs each."""
    excerpts = tuple(Excerpt(f"{fold}/{i}", "tokens:3", f"q{fold} ?", (1,), (i,), "x") for i in range(2))
    place = torch.arange(40) // 10 + 4 * fold
    ends = torch.zeros(40, dtype=torch.int64)
    return Pairs(
        excerpts, ends, ends + 1, torch.arange(40) % 3 == 0, place, tuple(f"p{i}" for i in range(12)), ("a", "b")
    )


class Trainer:
    """Notes what it is asked to train; its judges differ by their settings."""

    def __init__(self, fail_after: int = 99, folds: int = 1) -> None:
        self.folds = folds
        self.trained: list[tuple[str, TrainSettings]] = []
        self.cut: list[str] = []
        self.fail_after = fail_after

    def data(self, excerpt: str) -> list[TrainingData]:
        self.cut.append(excerpt)
        return [TrainingData(excerpt, {"test": held_out(fold)}) for fold in range(self.folds)]

    def train(self, data: TrainingData, settings: TrainSettings) -> TrainedJudge:
        if len(self.trained) >= self.fail_after:
            raise KeyboardInterrupt
        self.trained.append((data.excerpt, settings))
        test = data.parts["test"]
        noise = torch.rand(len(test), generator=torch.Generator().manual_seed(len(self.trained)), dtype=torch.float64)
        said = (test.same.double() + noise) / 2
        look = ValidationCheck(7, 9, 0.1, 0.8, True)
        return TrainedJudge(None, TrainingHistory((look,), look, False), said, score(said, test.same, test.problem, 3))


def run(trainer: Trainer, path: Path, excerpts: Any = ("tokens:3", "words:2"), base: TrainSettings = BASE) -> Any:
    with Journal(path, FORMAT, {}) as journal:
        return run_ablation(excerpts, base, trainer.data, trainer.train, journal, trainer.folds)


def test_two_by_two_for_each_kind(tmp_path: Path) -> None:
    trainer = Trainer()
    rows = run(trainer, tmp_path / "c.jsonl")
    assert [(row["excerpt"], row["variant"]) for row in rows] == [
        (excerpt, variant.label) for excerpt in ("tokens:3", "words:2") for variant in VARIANTS
    ]
    plain, both = Loss(focal=False), BASE.loss
    assert [(s.loss, s.oversample) for _, s in trainer.trained[:4]] == [(plain, 1), (both, 1), (plain, 3), (both, 3)]
    assert all(replace(s, loss=both, oversample=3) == BASE for _, s in trainer.trained)
    assert trainer.cut == ["tokens:3", "words:2"]
    assert rows[0]["auroc"]["value"] == 1.0
    assert rows[0]["steps"] == 7


def test_folds_are_scored_together(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Trainer(fail_after=4, folds=3), tmp_path / "c.jsonl", ("tokens:3",))
    second = Trainer(folds=3)
    rows = run(second, tmp_path / "c.jsonl", ("tokens:3",))
    assert len(second.trained) == 8
    assert [row["problems"] for row in rows] == [12] * 4
    assert [row["pairs"] for row in rows] == [120] * 4
    assert rows[0]["to_first"] is None
    for row in rows[1:]:
        assert row["to_first"]["value"] == pytest.approx(row["auroc"]["value"] - rows[0]["auroc"]["value"])
        assert row["to_first"]["low"] <= row["to_first"]["value"] <= row["to_first"]["high"]


def test_finished_cells_are_not_trained_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Trainer(fail_after=5), tmp_path / "c.jsonl")
    second = Trainer()
    rows = run(second, tmp_path / "c.jsonl")
    assert [excerpt for excerpt, _ in second.trained] == ["words:2"] * 3
    assert second.cut == ["words:2"]
    assert len(rows) == 8
    third = Trainer()
    assert run(third, tmp_path / "c.jsonl") == rows
    assert third.cut == []


@pytest.mark.parametrize("excerpts", [(), ("tokens:3", "tokens:3")])
def test_excerpts_that_make_no_table_are_refused(tmp_path: Path, excerpts: Any) -> None:
    with pytest.raises(LaconicError, match="expected at least one, each once"):
        run(Trainer(), tmp_path / "c.jsonl", excerpts)


@pytest.mark.parametrize("base", [replace(BASE, oversample=1), replace(BASE, loss=Loss(focal=False))])
def test_nothing_to_switch_off_is_refused(tmp_path: Path, base: TrainSettings) -> None:
    with pytest.raises(LaconicError, match="begin with focal loss and a factor of 2"):
        run(Trainer(), tmp_path / "c.jsonl", base=base)
