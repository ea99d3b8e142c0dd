"""Traces for a model that has none yet: drawn from it with full KV, into a file that goes on as `laconic collect`'s."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic.cli.questions import Question, check_vocabulary
from laconic.compress import FullKV
from laconic.engines.base import Sampling
from laconic.engines.chat import Chat
from laconic.engines.hf import HFEngine
from laconic.errors import InputError
from laconic.fingerprint import fingerprint
from laconic.lab.collect.run import TraceProvenance, collect, open_file
from laconic.lab.learn.progress import PhaseProgress
from laconic.lab.learn.prompts import PROMPTS, general_problems
from laconic.lab.learn.traces import usable
from laconic.problems import Problem, generate
from laconic.problems.benchmarks import find_benchmark
from laconic.problems.sets import prompt_of, set_name
from laconic.problems.sources import load_problems
from laconic.traces import TraceRecord, read_traces, tokenizer_fingerprint

PROBLEMS = 200
PROMPTED = "prompts"
"""The source of a model that names none: the list of general questions."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What traces are drawn of: n of each of the problems, of a set of that name. prompt: as of `TraceProvenance`."""

    problems: list[Problem]
    n: int
    name: str
    prompt: str = ""


def choose_problems(source: str | None, count: int | None, seed: int, small: bool) -> Asked:
    """What traces are drawn of where nobody gives any.

    source: as `load_problems` takes it; None: train problems of the bundled set for the bundled reasoner (small), else the
    general prompts, of which several traces are drawn if there are to be more than prompts. count: of problems, or of traces of
    prompts; None: 200, or all of a file or data set. Raises InputError as `load_problems`.
    """
    if count is not None and count < 1:
        raise InputError(f"--problems is {count}; expected at least 1")
    if source is None and small:
        wanted = PROBLEMS if count is None else count
        return Asked(generate(wanted, seed, None, "train"), 1, f"bundled, train, seed {seed}")
    if source is None:
        wanted = PROBLEMS if count is None else count
        return Asked(general_problems(wanted), -(-wanted // len(PROMPTS)), PROMPTED)
    named = find_benchmark(source)
    asked = load_problems(source, count, seed if named else 0)  # other sources are the same whatever is drawn of them
    return Asked(asked, 1, set_name(source, seed), prompt_of(source))


def sample_traces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    sampling: Sampling,
    directory: Path,
    name: str,
    batch: int,
    chat: Chat,
    small: bool,
    progress: PhaseProgress,
) -> list[TraceRecord]:
    """The traces that are asked for, from a file of the directory that holds those of earlier runs with the same settings.

    name: the model's, without directories. small: it is the bundled reasoner. Raises InputError as `collect`.
    """
    origin = TraceProvenance(
        model=name,
        weights=fingerprint(model),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer=tokenizer_fingerprint(tokenizer),
        policy=FullKV().spec(),
        problems=asked.name,
        chat=chat.to_json(),
        prompt=asked.prompt,
    )
    header = json.dumps(origin.header(sampling), sort_keys=True).encode()
    path = directory / f"traces-{hashlib.blake2b(header, digest_size=6).hexdigest()}.jsonl"
    engine = HFEngine(model, tokenizer, max_batch=batch, chunk_tokens=16, chat=chat)
    with open_file(path, origin, sampling) as journal:
        collect(
            asked.problems,
            engine,
            journal,
            n=asked.n,
            sampling=sampling,
            settings=origin.line(sampling),
            batch=batch,
            check_question=(lambda text: check_vocabulary(tokenizer, Question(text))) if small else None,
            watch=progress.watcher("sampling", "traces"),
        )
    wanted = {problem.id for problem in asked.problems}
    found = usable(read_traces(path).records, str(path))
    return [record for record in found if record.problem in wanted and record.index < asked.n]
