"""The commands that fill a cell, made from its data: one function, so that no cell's command is written by hand.

A command is a list of words that begins with `laconic`, or with `python -m` and the module of a harness.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from laconic.cli.common import PUBLISHED_JUDGE
from laconic.errors import InputError
from laconic.lab.paper.cells import (
    HARNESSES,
    AccuracyCell,
    Cell,
    JudgeCell,
    Paper,
    PaperBenchmark,
    PaperModel,
    SpeedCell,
    TracesCell,
    VotesCell,
)
from laconic.lab.paper.deepprune import CONS, EXCERPT
from laconic.lab.paper.rpc import FULL
from laconic.problems.benchmarks import find_benchmark

EVERY = ""  # the key of what stands for all models, or all benchmarks
CONFIDENCES = 20  # candidates that DeepConf's confidence is over
Command = list[str]


@dataclass(frozen=True, slots=True)
class RunChoices:
    """What a run changes in the published settings. None, and nothing in a mapping: as published.

    out: the directory of all results. models, sources: by the paper's name, EVERY for all others. n: traces of each problem.
    mean_length: generated tokens of a trace under full KV, for budgets that are a share of it. judge: DeepPrune's.
    """

    out: Path
    models: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    problems: int | None = None
    n: int | None = None
    repeats: int | None = None
    max_new_tokens: int | None = None
    mean_length: float | None = None
    judge: str | None = None
    engine: str = "hf"
    engine_set: Sequence[str] = ()
    batch: int = 16
    dtype: str = "bfloat16"
    device: str = "auto"

    def model_of(self, model: PaperModel) -> str:
        return self.models.get(model.name) or self.models.get(EVERY) or model.hub

    def source_of(self, benchmark: PaperBenchmark) -> str:
        return self.sources.get(benchmark.name) or self.sources.get(EVERY) or benchmark.name

    def at(self, place: str) -> str:
        return str(self.out / place)


def chosen_models(given: Sequence[str], paper: Paper) -> dict[str, str]:
    """`NAME=MODEL` of the paper's names, or MODEL for all. Raises InputError for one given twice."""
    names = {cell.model.name for cell in paper.cells if isinstance(cell, (AccuracyCell, VotesCell, TracesCell))}
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        key, model = (name, value) if equals and name in names else (EVERY, text)
        if not model:
            raise InputError(f"--model {text} names no model; expected {name}=MODEL")
        if key in found:
            raise InputError(
                f"--model {text} and {found[key]} are for the same models; expected one MODEL for all, and NAME=MODEL for "
                f"single ones, whose names are {', '.join(sorted(names))}"
            )
        found[key] = model
    return found


def chosen_sources(given: Sequence[str], paper: Paper) -> dict[str, str]:
    """`NAME:FILE` for a benchmark of the paper, any other source for all. Raises InputError for one given twice, or a benchmark
    that the paper has not, or whose harness brings its own problems."""
    own = {cell.benchmark.name: cell.benchmark for cell in paper.cells if not isinstance(cell, (SpeedCell, JudgeCell))}
    found: dict[str, str] = {}
    for text in given:
        named = find_benchmark(text)
        key = EVERY if named is None else named.benchmark.name
        if key != EVERY and key not in own:
            raise InputError(f"--source {text} is of {key}, which this paper has no cell of; it has {', '.join(own)}")
        if key != EVERY and own[key].harness:
            raise InputError(
                f"--source {text} has no effect: {HARNESSES[own[key].harness]} brings the problems of {key} along; leave it out"
            )
        if key in found:
            raise InputError(f"--source {text} and {found[key]} are for the same cells; give one of them")
        found[key] = text
    return found


def lacking(cell: Cell, how: RunChoices, full_length: float | None = None) -> str:
    """Why a cell has no command; "" where it has. full_length: full KV's mean generated length, as its cell found it."""
    if isinstance(cell, AccuracyCell):
        if cell.lacks:
            return cell.lacks
        if cell.share is not None and full_length is None and how.mean_length is None:
            first = "" if cell.benchmark.harness else ", or --run this cell, which runs full KV first where it lacks"
            return f"its budget is {100 * cell.share:g} % of full KV's mean length, not known yet: give --mean-length{first}"
    return ""


def commands(cell: Cell, how: RunChoices, full_length: float | None = None) -> list[Command]:
    """The commands of a cell in their order; none where it `lacks` something. full_length: as of `lacking`."""
    if lacking(cell, how, full_length):
        return []
    match cell:
        case AccuracyCell():
            policy = cell.policy
            length = full_length if full_length is not None else how.mean_length
            if cell.share is not None and length is not None:
                policy = f"{policy}:budget={max(2, round(cell.share * length))}"
            return [_ACCURACY[cell.benchmark.harness](cell, policy, how)]
        case SpeedCell():
            return [_speed(cell, how)]
        case VotesCell():
            return _votes(cell, how)
        case TracesCell():
            return [_collect(cell.model, cell.benchmark, how, cell.place)]
        case JudgeCell():
            return _judge(cell, how)


def shown(command: Command) -> str:
    """A command as it is typed."""
    return shlex.join(command)


def _sampling(model: PaperModel, how: RunChoices) -> Command:
    limit = how.max_new_tokens if how.max_new_tokens is not None else model.max_new_tokens
    given = {
        "--temperature": model.temperature,
        "--top-p": model.top_p,
        "--top-k": model.top_k,
        "--max-new-tokens": limit,
    }
    return [word for name, value in given.items() if value is not None for word in (name, str(value))]


def _problems(benchmark: PaperBenchmark, how: RunChoices) -> Command:
    """--problems where fewer are asked for, or where the paper takes a part of a source."""
    count = how.problems if how.problems is not None else benchmark.problems if benchmark.part else None
    return [] if count is None else ["--problems", str(count)]


def _engine(how: RunChoices) -> Command:
    if how.engine == "hf":
        return []
    return ["--engine", how.engine, *(word for text in how.engine_set for word in ("--engine-set", text))]


def _machine(how: RunChoices) -> Command:
    device = [] if how.device == "auto" else ["--device", how.device]
    return ["--batch", str(how.batch), "--dtype", how.dtype, *device]


def _asked(model: PaperModel, benchmark: PaperBenchmark, how: RunChoices) -> Command:
    """Which model on which problems."""
    return ["--model", how.model_of(model), "--source", how.source_of(benchmark), *_problems(benchmark, how)]


def _accuracy(cell: AccuracyCell, policy: str, how: RunChoices) -> Command:
    n = how.n if how.n is not None else cell.benchmark.samples
    return [
        *("laconic", "bench", "accuracy", *_asked(cell.model, cell.benchmark, how), "--n", str(n), "--policies", policy),
        *(*_sampling(cell.model, how), *_engine(how), *_machine(how), "--out", how.at(cell.place)),
    ]  # fmt: skip


def _model_arguments(cell: AccuracyCell, policy: str, how: RunChoices) -> dict[str, str]:
    """Of a harness's model: name and value, in which + stands for a comma."""
    model = cell.model
    limit = how.max_new_tokens if how.max_new_tokens is not None else model.max_new_tokens
    given: dict[str, object] = {
        "policy": None if policy == FULL else policy.replace(",", "+"),
        "max_gen_toks": limit,
        "temperature": model.temperature,
        "top_p": model.top_p,
        "top_k": model.top_k,
        "batch": how.batch,
        "dtype": how.dtype,
        "device": None if how.device == "auto" else how.device,
        "engine": None if how.engine == "hf" else how.engine,
        "engine_set": "+".join(how.engine_set) or None,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _joined(arguments: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in arguments.items())


def _lm_eval(cell: AccuracyCell, policy: str, how: RunChoices) -> Command:
    arguments = {"pretrained": how.model_of(cell.model)} | _model_arguments(cell, policy, how)
    limit = [] if how.problems is None else ["--limit", str(how.problems)]
    return [
        *("python", "-m", "laconic.lab.lm_eval", "run", "--model", "laconic", "--model_args", _joined(arguments)),
        *("--tasks", cell.benchmark.task, "--apply_chat_template", *limit, "--output_path", how.at(cell.name)),
    ]


def _lighteval(cell: AccuracyCell, policy: str, how: RunChoices) -> Command:
    arguments = f"{how.model_of(cell.model)},{_joined(_model_arguments(cell, policy, how))}"
    limit = [] if how.problems is None else ["--max-samples", str(how.problems)]
    return [
        *("python", "-m", "laconic.lab.lighteval", arguments, cell.benchmark.task, *limit),
        *("--save-details", "--output-dir", how.at(cell.name)),
    ]


_ACCURACY = {"": _accuracy, "lm_eval": _lm_eval, "lighteval": _lighteval}


def _speed(cell: SpeedCell, how: RunChoices) -> Command:
    policies = ";".join(method for method in cell.published if method != FULL)
    repeats = [] if how.repeats is None else ["--repeats", str(how.repeats)]
    device = [] if how.device == "auto" else ["--device", how.device]
    return [
        *("laconic", "bench", "throughput", "--shapes", cell.shape, "--batches", str(cell.batch)),
        *("--prompt", str(cell.prompt), "--lengths", str(cell.length), "--policies", policies, *repeats),
        *("--dtype", how.dtype, *device, "--out", how.at(cell.place)),
    ]


def _collect(
    model: PaperModel, benchmark: PaperBenchmark, how: RunChoices, place: str, confidences: int = 0
) -> Command:
    n = how.n if how.n is not None else benchmark.samples
    sure = ["--confidence-top-k", str(confidences)] if confidences else []
    return [
        *("laconic", "collect", *_asked(model, benchmark, how), "--n", str(n), *sure, *_sampling(model, how)),
        *(*_engine(how), *_machine(how), "--out", how.at(place)),
    ]


def _votes(cell: VotesCell, how: RunChoices) -> list[Command]:
    """With another engine than transformers' the traces are collected first, into the file that the bench then finds."""
    first = []
    if how.engine != "hf":
        first = [_collect(cell.model, cell.benchmark, how, f"{cell.place}/traces-none.jsonl", CONFIDENCES)]
    n = how.n if how.n is not None else cell.benchmark.samples
    strategies = ";".join(name for name in cell.published if name != CONS)
    bench = [
        *("laconic", "bench", "parallel", *_asked(cell.model, cell.benchmark, how), "--n", str(n), "--few", ""),
        *("--policies", "none", "--strategies", strategies, "--judges", how.judge or PUBLISHED_JUDGE),
        *("--excerpt", EXCERPT, "--timed", "0", *_sampling(cell.model, how), *_machine(how)),
        *("--out", how.at(cell.place)),
    ]
    return [*first, bench]


def _judge(cell: JudgeCell, how: RunChoices) -> list[Command]:
    """A training, where there is one, then an evaluation on each model's traces: tokenizers differ, so each by itself."""
    device = [] if how.device == "auto" else ["--device", how.device]
    found, own = [], f"{cell.place}/judge"
    if cell.trained is not None:
        loss = [] if cell.focal else ["--cross-entropy"]
        found.append(
            [
                *("laconic", "judge", "train", "--traces", how.at(cell.trained.place)),
                *("--model", how.model_of(cell.trained.model), "--kind", "llm", "--base", cell.base),
                *(
                    "--excerpt",
                    cell.excerpt,
                    *loss,
                    "--oversample",
                    str(cell.oversample),
                    *device,
                    "--out",
                    how.at(own),
                ),
            ]
        )
    judge = cell.judge or f"llm:{how.at(own)}"
    excerpt = ["--excerpt", cell.excerpt] if cell.judge else []
    for traces in cell.read:
        found.append(
            [
                *("laconic", "judge", "eval", "--traces", how.at(traces.place), "--model", how.model_of(traces.model)),
                *("--judges", judge, *excerpt, *device, "--out", how.at(f"{cell.place}/{traces.model.name}")),
            ]
        )
    return found
