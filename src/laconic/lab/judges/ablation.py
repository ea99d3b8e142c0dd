"""The paper's ablation: focal loss x oversampling, for several kinds of excerpts, scored on problems held out.

Each cell trains a pair encoder of its own, or one a fold, from the same split and seed; what is trained is written at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.judges.losses import Loss
from laconic.lab.judges.recipe import TrainedJudge, TrainingData
from laconic.lab.judges.scoring import difference, score
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.shared.progress import Progress, Watcher

FORMAT = "laconic.judge-ablation/2"


@dataclass(frozen=True, slots=True)
class AblationVariant:
    """One row of the table. label: as the paper names it."""

    label: str
    focal: bool
    oversampled: bool

    def settings(self, base: TrainSettings) -> TrainSettings:
        """The base's, with what the row leaves out switched off."""
        loss = base.loss if self.focal else Loss(focal=False)
        return replace(base, loss=loss, oversample=base.oversample if self.oversampled else 1)


VARIANTS = (
    AblationVariant("plain", False, False),
    AblationVariant("+ focal loss", True, False),
    AblationVariant("+ oversampling", False, True),
    AblationVariant("both", True, True),
)


def run_ablation(
    excerpts: Sequence[str],
    base: TrainSettings,
    data_of: Callable[[str], Sequence[TrainingData]],
    train: Callable[[TrainingData, TrainSettings], TrainedJudge],
    journal: Journal,
    folds: int = 1,
    watch: Watcher | None = None,
) -> list[dict[str, Any]]:
    """Train and score what the journal lacks; a row a cell: variant, excerpt, test figures of all folds together, AUROC less
    that of the first variant on the same pairs (paired), means over folds of the steps run and the validation's AUROC.

    data_of: the pairs of a kind of excerpts, split, `folds` times; asked for once a kind. base: with focal loss and
    oversampling on. watch: label, trainings done, trainings in all. Raises InputError for no excerpts, or a base that has one
    of the two switched off.
    """
    if not excerpts or len(set(excerpts)) < len(excerpts):
        raise InputError(f"The excerpts are {', '.join(excerpts) or 'none'}; expected at least one, each once")
    if not base.loss.focal or base.oversample < 2:
        raise InputError(
            "An ablation switches focal loss and oversampling off; begin with focal loss and a factor of 2"
        )
    have: dict[tuple[str, str, int], Record] = {
        (r["excerpt"], r["variant"], r["fold"]): r for r in journal.records if r["kind"] == "trained"
    }
    cells = [(excerpt, variant) for excerpt in excerpts for variant in VARIANTS]
    done = 0
    for excerpt in excerpts:
        missing = [(v, fold) for v in VARIANTS for fold in range(folds) if (excerpt, v.label, fold) not in have]
        done += len(VARIANTS) * folds - len(missing)
        data = data_of(excerpt) if missing else ()
        for variant, fold in missing:
            trained = train(data[fold], variant.settings(base))
            test = data[fold].parts["test"]
            record = {
                "kind": "trained",
                "excerpt": excerpt,
                "variant": variant.label,
                "fold": fold,
                "steps": trained.fit.looks[-1].step,
                "validation_auroc": trained.fit.best.auroc,
                "said": trained.said.tolist(),
                "same": test.same.tolist(),
                "problem": test.problem.tolist(),
            }
            journal.append([record])
            have[excerpt, variant.label, fold] = record
            done += 1
            if watch:
                watch(Progress(f"{variant.label}, {excerpt}", done, len(cells) * folds))
    return [
        _row(
            [have[excerpt, variant.label, fold] for fold in range(folds)],
            [have[excerpt, VARIANTS[0].label, fold] for fold in range(folds)],
        )
        for excerpt, variant in cells
    ]


def _row(records: Sequence[Record], first: Sequence[Record]) -> dict[str, Any]:
    """A cell of its trainings. first: those of the first variant on the same excerpts."""
    said, same, problem = (_joined(records, key) for key in ("said", "same", "problem"))
    plain = None if records[0] is first[0] else difference(said, _joined(first, "said"), same, problem)
    return {
        "excerpt": records[0]["excerpt"],
        "variant": records[0]["variant"],
        "steps": sum(record["steps"] for record in records) / len(records),
        "validation_auroc": sum(record["validation_auroc"] for record in records) / len(records),
        **score(said, same, problem).to_dict(),
        "to_first": None if plain is None else plain.to_dict(),
    }


def _joined(records: Sequence[Record], key: str) -> Tensor:
    kind = {"said": torch.float64, "same": torch.bool, "problem": torch.int64}[key]
    return torch.cat([torch.tensor(record[key], dtype=kind) for record in records])
