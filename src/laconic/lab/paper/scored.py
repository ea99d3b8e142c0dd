"""What lm-eval and lighteval wrote for a paper's cells: read from their own files of results, and checked against the cell.

lm-eval writes what laconic's model was told and took under ``config.laconic``; lighteval keeps a model's name alone, which
holds its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.checks import is_whole
from laconic.errors import InputError
from laconic.jsonl import read_object
from laconic.lab.harness.arguments import ModelArguments, parse_arguments, read_arguments
from laconic.lab.paper.cells import HARNESSES, AccuracyCell, Paper
from laconic.lab.paper.found import FoundResults, check_alike, check_once
from laconic.lab.paper.rpc import FULL

FREE = ("pretrained", "policy", "batch", "device", "engine_set", "max_num_seqs")
"""Arguments that may differ between the methods of one table, and between machines: the weights' fingerprint tells a model."""
Z = 1.96  # of a 95 % interval, to a harness's standard error


@dataclass(frozen=True, slots=True)
class HarnessScore:
    """A harness's figures of one run. values: score and standard error by name, the error None where there is none. problems:
    None where the file doesn't say. told: lm-eval's entry of laconic's model, empty of lighteval."""

    file: Path
    values: Mapping[str, tuple[float, float | None]]
    arguments: ModelArguments
    problems: int | None
    told: Mapping[str, Any]

    def to_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """As a row of laconic's own accuracy table has it. names: the scores that are wanted, the table's first."""
        value, error = self.values[names[0]]
        spread = None if error is None else Z * error
        totals = self.told.get("totals") or {}
        traces = totals.get("traces")
        return {
            "accuracy": {
                "mean": value,
                "low": None if spread is None else max(0.0, value - spread),
                "high": None if spread is None else min(1.0, value + spread),
            },
            "difference": None,
            "mean_kv_tokens": totals.get("mean_kv_tokens"),
            "mean_length": totals["generated"] / traces if traces else None,
            "problems": self.problems,
            "scores": {name: self.values[name][0] for name in names},
        }


def read_scores(files: Mapping[str, list[Path]], paper: Paper) -> dict[str, HarnessScore]:
    """By the cell's name. files: those found in each cell's place.

    Raises InputError for a file that isn't a harness's, or not of the cell's task and policy, a cell with two, and methods of
    one table that were not run alike.
    """
    cells = {cell.name: cell for cell in harness_cells(paper)}
    found = {name: _read(cells[name], check_once(paths, name)) for name, paths in files.items()}
    for place in {cells[name].place for name in found}:
        check_alike([_settings(place, score) for name, score in found.items() if cells[name].place == place], _is_free)
    return found


def harness_cells(paper: Paper) -> Iterator[AccuracyCell]:
    """The cells that a harness scores."""
    return (cell for cell in paper.cells if isinstance(cell, AccuracyCell) and cell.benchmark.harness)


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _settings(place: str, score: HarnessScore) -> FoundResults:
    weights = {name: score.told[name] for name in ("weights", "dtype") if name in score.told}
    return FoundResults(score.file, place, {**score.arguments.to_json(), **weights, "problems": score.problems})


def _is_free(key: str) -> bool:
    return key.partition(".")[0] in FREE


def _read(cell: AccuracyCell, path: Path) -> HarnessScore:
    report = read_object(path)
    read = {"lm_eval": _of_lm_eval, "lighteval": _of_lighteval}[cell.benchmark.harness]
    try:
        score = read(cell.benchmark.task, path, report)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is no file of results that {HARNESSES[cell.benchmark.harness]} wrote of {cell.benchmark.task} with "
            f"laconic's model; run the command of {cell.name} again, or leave the file out"
        ) from None
    lacking = [name for name in cell.benchmark.scores if name not in score.values]
    if lacking:
        raise InputError(
            f"{path} lacks {', '.join(lacking)}; expected the scores of {cell.benchmark.task}, and it has "
            f"{', '.join(score.values) or 'none'}"
        )
    _check_policy(cell, score)
    return score


def _check_policy(cell: AccuracyCell, score: HarnessScore) -> None:
    if score.arguments.strategy is not None:
        raise InputError(
            f"{score.file} is of a vote ({score.arguments.strategy}); expected single traces, which {cell.name} is of: leave "
            "the file out"
        )
    policy = FULL if score.arguments.policy == "none" else score.arguments.policy
    mine = policy.partition(":")[0] if cell.share is not None else policy
    if mine != cell.policy:
        raise InputError(
            f"{score.file} is of the policy {policy}; expected {cell.policy}, which {cell.name} is of: leave the file out"
        )


def _of_lm_eval(task: str, path: Path, report: Mapping[str, Any]) -> HarnessScore:
    told = report["config"]["laconic"]
    samples = report.get("n-samples", {}).get(task, {}).get("effective")
    values = {}
    for key, value in report["results"][task].items():
        name, _, filtered = key.partition(",")
        if filtered and _is_score(value) and not name.endswith("_stderr"):
            error = report["results"][task].get(f"{name}_stderr,{filtered}")
            values[name] = (float(value), float(error) if _is_score(error) else None)
    return HarnessScore(path, values, read_arguments(told["arguments"]), samples if is_whole(samples) else None, told)


def _of_lighteval(task: str, path: Path, report: Mapping[str, Any]) -> HarnessScore:
    """A task's name is TASK|SHOTS, with a suite before it in older versions."""
    (key,) = {name for name in report["results"] if task in name.split("|")} or {task}
    found = report["results"][key]
    values = {
        name: (float(value), float(error) if _is_score(error := found.get(f"{name}_stderr")) else None)
        for name, value in found.items()
        if _is_score(value) and not name.endswith("_stderr")
    }
    config = report.get("config_tasks", {}).get(key)
    problems = config.get("effective_num_docs") if isinstance(config, Mapping) else None
    arguments = read_arguments(parse_arguments(report["config_general"]["model_name"]))
    return HarnessScore(path, values, arguments, problems if is_whole(problems) else None, {})
