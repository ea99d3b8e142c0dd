"""Tables of judges: compared with each other, the ablation, one training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from laconic.cli.tables import MISSING, Table, difference, interval, number
from laconic.lab.shared.reporting import Report

_FIGURES = 'AUROC and TNR at FNR 0.2 in per cent; positive is "same". In brackets: 95 % intervals over problems.'
_WITHIN = (
    "Within: the mean of each problem's own AUROC, of those with pairs of both kinds: what helps a strategy, which compares "
    "traces of one problem."
)
_ALONE = "Pairs of one problem alone have no interval."


def judges_table(report: Report) -> Table:
    """A row a judge and set of traces."""
    rows = []
    for row in report["rows"]:
        rows.append(
            [
                row["judge"],
                row["set"],
                row["excerpt"],
                number(row["pairs"]),
                _interval(row["auroc"]),
                _difference(row["to_first"]),
                _interval(row["within"]),
                _interval(row["tnr"]),
                number(row["ece"], 3),
                number(row["tokens_per_pair"], 1),
                number(row["pairs_per_second"]),
            ]
        )
    return Table(
        title="Judges on recorded traces",
        columns=[
            ("judge", "left"),
            ("traces", "left"),
            ("excerpt", "left", 3),
            ("pairs", "right", 3),
            ("AUROC", "right"),
            ("to the first", "right", 1),
            ("within", "right", 2),
            ("TNR@FNR.2", "right", 2),
            ("ECE", "right", 4),
            ("tokens a pair", "right", 5),
            ("judgements/s", "right", 6),
        ],
        rows=rows,
        notes=[
            *_notes(report["rows"]),
            "To the first: AUROC less that of the first judge on the same traces, in points, paired.",
            _WITHIN,
            "ECE: mean distance of probabilities from what was observed; jaccard, facts and embedding give similarities.",
            "Tokens a pair: that a model ran for the judge, over all pairs of a problem; judgements/s: reading included.",
        ],
    )


def ablation_table(report: Report) -> Table:
    """The paper's table: a row a way of training, two columns a kind of excerpt."""
    excerpts = list(dict.fromkeys(row["excerpt"] for row in report["rows"]))
    variants = list(dict.fromkeys(row["variant"] for row in report["rows"]))
    cells = {(row["variant"], row["excerpt"]): row for row in report["rows"]}
    return Table(
        title="Focal loss and oversampling, by kind of excerpt",
        columns=[
            ("training", "left"),
            *(
                (f"{excerpt} {figure}", "right")
                for excerpt in excerpts
                for figure in ("AUROC", "to plain", "within", "TNR@FNR.2")
            ),
        ],
        rows=[
            [
                variant,
                *itertools.chain.from_iterable(
                    (
                        _interval(cell["auroc"]),
                        _difference(cell["to_first"]),
                        _interval(cell["within"]),
                        _interval(cell["tnr"]),
                    )
                    for cell in (cells[variant, e] for e in excerpts)
                ),
            ]
            for variant in variants
        ],
        notes=[
            *_notes(report["rows"]),
            "Test problems that the judges asked were not trained on; all trainings from one seed.",
            "To plain: AUROC less that of plain training on the same pairs, in points, paired.",
            _WITHIN,
        ],
    )


def training_table(record: Report) -> Table:
    """One training, from its training.json: what it was given and how it does on its test part."""
    test = record["test"]
    rows = [
        [name, number(part["problems"]), number(part["pairs"]), number(100 * part["same"], 1)]
        for name, part in record["parts"].items()
    ]
    return Table(
        title=f"TrainedJudge on excerpts {record['excerpt']}",
        columns=[("part", "left"), ("problems", "right"), ("pairs", "right"), ("same, %", "right")],
        rows=rows,
        notes=[
            f"Test part: AUROC {_interval(test['auroc'])} (within problems {_interval(test['within'])}), "
            f"TNR at FNR 0.2 {_interval(test['tnr'])}, ECE {test['ece']:.3f}, "
            f"Brier {test['brier']:.3f}.",
            f"Best on the validation part after step {record['best_step']} of {record['looks'][-1]['of']}.",
            *_notes([test]),
        ],
    )


def folds_table(record: Report) -> Table:
    """A training of several folds: each by itself, and all together."""
    rows = [
        [
            str(place),
            number(fold["parts"]["train"]["problems"]),
            number(fold["parts"]["test"]["problems"]),
            _interval(fold["test"]["auroc"]),
            _interval(fold["test"]["within"]),
            _interval(fold["test"]["tnr"]),
        ]
        for place, fold in enumerate(record["folds"], 1)
    ]
    test = record["test"]
    figures = [_interval(test[key]) for key in ("auroc", "within", "tnr")]
    rows.append(["all", MISSING, number(test["problems"]), *figures])
    return Table(
        title=f"Judges on excerpts {record['excerpt']}, trained crosswise",
        columns=[
            ("fold", "left"),
            ("trained on", "right"),
            ("problems", "right"),
            ("AUROC", "right"),
            ("within", "right"),
            ("TNR@FNR.2", "right"),
        ],
        rows=rows,
        notes=[_WITHIN, f"All together: ECE {test['ece']:.3f}, Brier {test['brier']:.3f}.", *_notes([test])],
    )


def _notes(rows: Iterable[Report]) -> list[str]:
    return [_FIGURES, _ALONE] if any(row.get("problems") == 1 for row in rows) else [_FIGURES]


def _difference(figure: Mapping[str, Any] | None) -> str:
    return MISSING if figure is None else difference(figure["value"], figure["low"], figure["high"])


def _interval(figure: Mapping[str, Any]) -> str:
    return interval(figure["value"], figure["low"], figure["high"])
