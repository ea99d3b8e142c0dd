"""Results of a paper's cells, merged from several directories, with the published figure beside each: rows, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from laconic.compress import parse
from laconic.errors import InputError
from laconic.journal import Record
from laconic.jsonl import read_object
from laconic.lab.accuracy import run as accuracy
from laconic.lab.accuracy.rows import BASELINE, AccuracyRow, summarise
from laconic.lab.judges import run as judging
from laconic.lab.paper.cells import AccuracyCell, Cell, JudgeCell, Paper, PaperModel, SpeedCell, VotesCell
from laconic.lab.paper.deepprune import CONS
from laconic.lab.paper.found import (
    FoundResults,
    check_alike,
    check_once,
    find_results,
    find_score_files,
    read_results,
)
from laconic.lab.paper.scored import HarnessScore, harness_cells, read_scores
from laconic.lab.parallel import run as parallel
from laconic.lab.shared.policies import ComparedPolicy
from laconic.lab.throughput import rows as speed_rows
from laconic.lab.throughput import run as throughput
from laconic.lab.throughput.decoding import DecodingCase
from laconic.problems import Problem
from laconic.statistics import mean_interval

Row = dict[str, Any]
NAMES = ("model.name", "problems.set")
"""Settings that machines may call otherwise: the weights' fingerprint and the problems' digests tell what they are."""


def merge(roots: Sequence[Path], paper: Paper, cells: Sequence[Cell]) -> dict[str, list[Row]]:
    """Rows by the kind of cell (accuracy, speed, votes, judge), one a line of a table, and `other`: in which settings ours are
    not the paper's. A row's `ours` is None where no directory has it. cells: those of the paper that the rows are of.

    Raises InputError as `find_results`, and for results that can't stand in one table: other settings, another problem under
    one id, a row that is not on all problems and samples, a cell twice that is measured in one piece; and as `read_scores`.
    """
    scored = [cell.name for cell in harness_cells(paper)]
    found = find_results(roots, paper, scored)
    scores = read_scores(find_score_files(roots, scored), paper)
    report: dict[str, list[Row]] = {"accuracy": [], "speed": [], "votes": [], "judge": [], "other": []}
    read: dict[str, Any] = {}
    for place, directories in found.items():
        kind = place.partition("/")[0]
        if kind == "accuracy":
            read[place] = _read_accuracy([read_results(path, place, accuracy.FORMAT) for path in directories])
        elif kind == "votes":
            read[place] = _read_votes([read_results(path, place, parallel.FORMAT) for path in directories])
        elif kind == "speed":
            read[place] = read_results(check_once(directories, place), place, throughput.FORMAT)
        else:
            read[place] = _read_judge(directories, place)
    for shape in {cell.shape for cell in paper.cells if isinstance(cell, SpeedCell)}:
        speeds = [each for place, each in read.items() if place.startswith(f"speed/{shape}/")]
        check_alike(speeds, lambda key: key in ("cells", "methods"))
    for cell in cells:
        mine = read.get(cell.place)
        match cell:
            case AccuracyCell() if cell.benchmark.harness:
                score = scores.get(cell.name)
                ours = None if score is None else score.to_json(cell.benchmark.scores)
                report["accuracy"].append(_empty_row(cell) | {"ours": ours})
                if score is not None and (told := _scored_otherwise(cell, score)):
                    report["other"].append({"place": cell.name, "differs": told})
            case AccuracyCell():
                report["accuracy"].append(_accuracy_row(cell, mine))
            case SpeedCell():
                report["speed"] += _speed_rows(cell, mine)
            case VotesCell():
                report["votes"] += _votes_rows(cell, mine)
            case JudgeCell():
                report["judge"].append(_judge_row(cell, mine))
            case _:
                continue
        if isinstance(mine, dict) and "settings" in mine and isinstance(cell, (AccuracyCell, VotesCell)):
            note = {"place": cell.place, "differs": _differs(cell, mine)}
            if note["differs"] and note not in report["other"]:
                report["other"].append(note)
    return report


# ---- accuracy ---------------------------------------------------------------------------------------------------------


def _read_accuracy(found: Sequence[FoundResults]) -> Row:
    """settings; policies and traces by row, each trace once; and the (problem, sample) pairs that all rows have."""
    check_alike(found, lambda key: key in NAMES or accuracy.may_grow(key, lacking=True), accuracy.IMPLIED)
    policies: dict[str, str] = {}
    traces: dict[str, dict[tuple[str, int], Record]] = {}
    digests: dict[str, str] = {}
    for each in found:
        for record in each.records:
            if record["kind"] == "policy":
                old = policies.setdefault(record["row"], record["policy"])
                if old != record["policy"]:
                    raise InputError(
                        f"The row {record['row']} is {old} in one directory of {each.place} and {record['policy']} in "
                        f"{each.directory}, as budgets follow each run's own full KV; leave one of them out"
                    )
            elif record["kind"] == "trace":
                if digests.setdefault(record["problem"], record["digest"]) != record["digest"]:
                    raise InputError(
                        f"{each.directory} has another problem with the id {record['problem']} than the rest of {each.place}; "
                        "leave it out, or run it again on the same problems"
                    )
                traces.setdefault(record["row"], {}).setdefault((record["problem"], record["sample"]), record)
    if not traces:
        raise InputError(f"{found[0].directory} holds no finished trace; run its command again, or leave it out")
    rows = {label: sorted(each) for label, each in traces.items()}
    base = BASELINE if BASELINE in rows else next(iter(rows))
    for label, pairs in rows.items():
        if pairs != rows[base]:
            raise InputError(
                f"In {found[0].place} the row {label} has {_counted(pairs)} and {base} {_counted(rows[base])}; run the lacking "
                "ones (the same command goes on), or leave a directory out"
            )
    return {"settings": found[0].settings, "policies": policies, "traces": traces, "pairs": rows[base]}


def _counted(pairs: Sequence[tuple[str, int]]) -> str:
    problems = len({problem for problem, _ in pairs})
    return f"{len(pairs):,} traces of {problems:,} problems"


def _empty_row(cell: AccuracyCell) -> Row:
    return {
        "cell": cell.name,
        "model": cell.model.name,
        "benchmark": cell.benchmark.name,
        "method": cell.method,
        "published": cell.published,
        "lacks": cell.lacks,
        "ours": None,
    }


def _accuracy_row(cell: AccuracyCell, mine: Row | None) -> Row:
    row = _empty_row(cell)
    labels = [] if mine is None or not cell.policy else [label for label in mine["traces"] if _is_of(cell, label)]
    if mine is None or not labels:
        return row
    if len(labels) > 1:
        raise InputError(f"{cell.name} has several rows, {' and '.join(labels)}; leave all but one directory out")
    return row | {"ours": _summed_up(labels[0], mine).to_json()}


def _is_of(cell: AccuracyCell, label: str) -> bool:
    return label == cell.policy or (cell.share is not None and label.partition(":")[0] == cell.policy)


def _summed_up(label: str, mine: Row) -> AccuracyRow:
    pairs = mine["pairs"]
    problems = [Problem(name, name, "0") for name in dict.fromkeys(problem for problem, _ in pairs)]
    samples = len({sample for _, sample in pairs})
    contender = ComparedPolicy(label, label.partition(":")[0], parse(mine["policies"].get(label, label)))
    baseline = mine["traces"].get(BASELINE)
    return summarise(
        contender,
        problems,
        samples,
        list(mine["traces"][label].values()),
        None if baseline is None else list(baseline.values()),
    )


# ---- votes ------------------------------------------------------------------------------------------------------------


def _read_votes(found: Sequence[FoundResults]) -> Row:
    """settings; and by entry its settings and a result a problem."""
    check_alike(found, lambda key: key in NAMES)
    entries: dict[str, Record] = {}
    results: dict[str, dict[str, Record]] = {}
    for each in found:
        for record in each.records:
            if record["kind"] == "entry":
                if entries.setdefault(record["entry"], record["settings"]) != record["settings"]:
                    raise InputError(
                        f"{record['entry']} has other settings in {each.directory} than elsewhere; leave one out"
                    )
            elif record["kind"] == "result":
                results.setdefault(record["entry"], {}).setdefault(record["problem"], record)
    count = found[0].settings["problems"]["count"]
    for entry in entries:
        have = len(results.get(entry, {}))
        if have != count:
            raise InputError(
                f"In {found[0].place} {entry} has {have:,} of {count:,} problems; run the rest (the same command goes "
                "on), or leave the directory out"
            )
    return {"settings": found[0].settings, "entries": entries, "results": results}


def _votes_rows(cell: VotesCell, mine: Row | None) -> list[Row]:
    rows = []
    for strategy, published in cell.published.items():
        row: Row = {
            "cell": cell.name,
            "model": cell.model.name,
            "benchmark": cell.benchmark.name,
            "strategy": strategy,
            "published": {"accuracy": published.accuracy, "tokens": published.tokens},
            "ours": None,
        }
        entries = [] if mine is None else [name for name, told in mine["entries"].items() if _family(told) == strategy]
        if mine is None or not entries:
            rows.append(row)
            continue
        for entry in entries:
            rows.append(row | {"ours": _voted(mine["entries"][entry], list(mine["results"][entry].values()))})
    return rows


def _family(settings: Record) -> str:
    """Of an entry, the strategy that it was asked for as: its family without the judge."""
    family = str(settings["family"])
    judged = settings.get("judge") is not None
    return family.rpartition(", ")[0] if judged else family


def _voted(settings: Record, results: Sequence[Record]) -> Row:
    return {
        "n": settings["n"],
        "judge": str(settings["family"]).rpartition(", ")[2] if settings.get("judge") is not None else None,
        "problems": len(results),
        "accuracy": mean_interval([record["right"] for record in results])._asdict(),
        "trace_tokens": sum(record["generated"] for record in results),
        "judge_tokens": sum(record["judged"] for record in results),
    }


# ---- speed ------------------------------------------------------------------------------------------------------------


def _speed_rows(cell: SpeedCell, mine: FoundResults | None) -> list[Row]:
    ours: Mapping[str, Row] = {}
    if mine is not None:
        case = DecodingCase(cell.shape, cell.batch, cell.prompt, cell.length)
        if case.key not in mine.settings["cells"]:
            raise InputError(
                f"{mine.directory} holds {', '.join(mine.settings['cells'])}; expected {case.key}: run its cell's own command"
            )
        experiment = throughput.ThroughputExperiment(
            [case], mine.settings["methods"], getattr(torch, mine.settings["dtype"]), torch.device("cpu")
        )
        ours = {row["method"]: row for row in speed_rows.summarise(experiment, mine.records)}
    return [
        {
            "cell": cell.name,
            "shape": cell.shape,
            "batch": cell.batch,
            "length": cell.length,
            "method": method,
            "published": {
                "tokens_per_second": published.tokens_per_second,
                "gigabytes": published.gigabytes,
                "to_full": published.to_full,
                "out_of_memory": published.out_of_memory,
            },
            "device": None if mine is None else mine.settings["device"],
            "ours": ours.get(method),
        }
        for method, published in cell.published.items()
    ]


# ---- judges -----------------------------------------------------------------------------------------------------------


def _read_judge(directories: Sequence[Path], place: str) -> dict[str, Row]:
    """The only row of each model's results.json, by the directory's name."""
    found: dict[str, Row] = {}
    for directory in directories:
        if directory.name in found:
            check_once([path for path in directories if path.name == directory.name], f"{place}/{directory.name}")
        report = read_object(directory / "results.json")
        rows = report.get("rows")
        if report.get("format") != judging.FORMAT or not isinstance(rows, list) or len(rows) != 1:
            raise InputError(
                f"{directory / 'results.json'} is not of one judge on one set of traces; run its cell again"
            )
        found[directory.name] = rows[0]
    excerpts = {row["excerpt"] for row in found.values()}
    if len(excerpts) > 1:
        raise InputError(
            f"{place} was scored on different excerpts, {' and '.join(sorted(excerpts))}; expected one kind"
        )
    return found


def _judge_row(cell: JudgeCell, mine: Mapping[str, Row] | None) -> Row:
    row: Row = {
        "cell": cell.name,
        "excerpt": cell.excerpt,
        "variant": cell.variant,
        "published": {"auroc": cell.published[0], "tnr": cell.published[1]},
        "ours": None,
    }
    known = [] if mine is None else [mine[t.model.name] for t in cell.read if t.model.name in mine]
    if known:
        row["ours"] = {key: _mean(each[key]["value"] for each in known) for key in ("auroc", "tnr")} | {
            "models": len(known),
            "of": len(cell.read),
        }
    return row


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


# ---- what is not as published -----------------------------------------------------------------------------------------


def _differs(cell: AccuracyCell | VotesCell, mine: Row) -> list[str]:
    """In which settings ours are not the paper's, as clauses: `3 problems (30)`."""
    settings, benchmark = mine["settings"], cell.benchmark
    if isinstance(cell, AccuracyCell):
        problems = len({problem for problem, _ in mine["pairs"]})
        samples = len({sample for _, sample in mine["pairs"]})
    else:
        problems = settings["problems"]["count"]
        samples = max((told["n"] for told in mine["entries"].values() if told["family"] == CONS), default=0)
    told = [
        *_clause("problems", problems, benchmark.problems),
        *_clause("traces of each", samples, benchmark.samples),
        *_sampled(cell.model, settings["sampling"]),
    ]
    number = settings["model"].get("dtype", "bfloat16") if isinstance(cell, AccuracyCell) else "bfloat16"
    told += _loaded_otherwise(cell.model, number, str(settings["model"]["name"]))
    source = str(settings["problems"]["set"])
    if source.partition(",")[0] != benchmark.name:
        told.append(f"the problems {source} ({benchmark.name})")
    return told


def _scored_otherwise(cell: AccuracyCell, score: HarnessScore) -> list[str]:
    """The same of a harness's run. What its arguments don't say was the task's or the model's own affair."""
    arguments, benchmark = score.arguments, cell.benchmark
    told = [
        *_clause("problems", score.problems, benchmark.problems),
        *_clause("traces of each", benchmark.drawn or None, benchmark.samples),
        *_sampled(cell.model, arguments.sampling),
    ]
    number = str(score.told.get("dtype") or arguments.dtype)
    name = str(arguments.pretrained or arguments.engine.partition(":")[2])
    return told + _loaded_otherwise(cell.model, number, name)


def _loaded_otherwise(model: PaperModel, number: str, name: str) -> list[str]:
    """number: the format of our weights; name: what the model is called here."""
    told = [] if number == "bfloat16" else [f"weights in {number} (bfloat16)"]
    if name.rpartition("/")[2] != model.hub.rpartition("/")[2]:
        told.append(f"the model {name} ({model.hub})")
    return told


def _clause(what: str, ours: float | None, published: float | None) -> list[str]:
    if ours is None or published is None or ours == published:
        return []
    return [f"{ours:,} {what} ({published:,})"]


def _sampled(model: PaperModel, sampling: Mapping[str, Any]) -> list[str]:
    names = ("temperature", "top_p", "top_k", "max_new_tokens")
    return [
        f"{name} {f'{sampling[name]:,}' if name in sampling else 'not given'} ({getattr(model, name):,})"
        for name in names
        if getattr(model, name) is not None and sampling.get(name) != getattr(model, name)
    ]
