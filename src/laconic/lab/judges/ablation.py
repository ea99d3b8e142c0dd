"""The paper's ablation: focal loss x oversampling, for several kinds of excerpts, scored on problems held out.

Each cell trains a pair encoder of its own from the same split and seed; finished cells are written at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from laconic.errors import InputError
from laconic.journal import Journal, Record
from laconic.lab.judges.losses import Loss
from laconic.lab.judges.recipe import TrainedJudge, TrainingData
from laconic.lab.judges.train_settings import TrainSettings
from laconic.lab.shared.progress import Progress, Watcher

FORMAT = "laconic.judge-ablation/1"


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
    data_of: Callable[[str], TrainingData],
    train: Callable[[TrainingData, TrainSettings], TrainedJudge],
    journal: Journal,
    watch: Watcher | None = None,
) -> list[dict[str, Any]]:
    """Train and score what the journal lacks; a row a cell: variant, excerpt, test figures, epochs run.

    data_of: the pairs of a kind of excerpts, asked for once a kind. base: with focal loss and oversampling on. watch: label,
    cells done, cells in all. Raises InputError for no excerpts, or a base that has one of the two switched off.
    """
    if not excerpts or len(set(excerpts)) < len(excerpts):
        raise InputError(f"The excerpts are {', '.join(excerpts) or 'none'}; expected at least one, each once")
    if not base.loss.focal or base.oversample < 2:
        raise InputError(
            "An ablation switches focal loss and oversampling off; begin with focal loss and a factor of 2"
        )
    have: dict[tuple[str, str], Record] = {
        (r["excerpt"], r["variant"]): r for r in journal.records if r["kind"] == "cell"
    }
    total = len(excerpts) * len(VARIANTS)
    done = 0
    for excerpt, group in itertools.groupby(itertools.product(excerpts, VARIANTS), key=lambda cell: cell[0]):
        missing = [variant for _, variant in group if (excerpt, variant.label) not in have]
        done += len(VARIANTS) - len(missing)
        data = data_of(excerpt) if missing else None
        for variant in missing:
            assert data is not None
            trained = train(data, variant.settings(base))
            record = {
                "kind": "cell",
                "excerpt": excerpt,
                "variant": variant.label,
                "steps": trained.fit.looks[-1].step,
                "validation_auroc": trained.fit.best.auroc,
                **trained.test.to_dict(),
            }
            journal.append([record])
            have[excerpt, variant.label] = record
            done += 1
            if watch:
                watch(Progress(f"{variant.label}, {excerpt}", done, total))
    return [
        {key: value for key, value in have[excerpt, variant.label].items() if key != "kind"}
        for excerpt in excerpts
        for variant in VARIANTS
    ]
