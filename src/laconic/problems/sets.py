"""The problems of an experiment: checked, told apart from others of the same id, and named in what records must agree on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from laconic import checks
from laconic.engines.base import Sampling
from laconic.environment import hide_directories
from laconic.errors import InputError
from laconic.problems import Problem
from laconic.problems.benchmarks import find_benchmark


def set_name(source: str, seed: int = 0) -> str:
    """What settings call the problems of a source other than the bundled one: of a benchmark also where it came from and, where
    the seed changes what is asked, the seed."""
    named = find_benchmark(source)
    if named is None:
        return hide_directories(source)
    benchmark, file = named
    hub = ":".join(filter(None, (benchmark.dataset, benchmark.config, benchmark.split)))
    place = hub if file is None else hide_directories(str(file))
    return f"{benchmark.name}, {place}" + (f", choices by seed {seed}" if benchmark.shuffled else "")


def prompt_of(source: str) -> str:
    """How a benchmark's problems are asked, with the places of a record in braces; "" where a source has its prompts itself."""
    named = find_benchmark(source)
    return "" if named is None else named.benchmark.prompt


def refuse_unscored(source: str) -> None:
    """InputError for a benchmark that no reference answer scores."""
    named = find_benchmark(source)
    if named is not None and named.benchmark.harness:
        raise InputError(
            f"{named.benchmark.name} has no reference answers, so no right ones can be counted here: the field's own harness "
            f"scores it, {named.benchmark.harness}; its prompts are for collect, learn and bench fidelity"
        )


def check_scored(problems: Sequence[Problem]) -> None:
    """As `check_problems`; also refuses a problem without a reference answer."""
    check_problems(problems)
    for problem in problems:
        if not problem.answer:
            raise InputError(
                f"The problem {problem.id} has no reference answer, so nothing tells what is right; expected one for each"
            )


def check_problems(problems: Sequence[Problem]) -> None:
    """Raises InputError for what are no problems, for none, or for two with one id."""
    checks.instances("problems", problems, Problem, "problems")
    if not problems:
        raise InputError("There are no problems to solve; expected at least one")
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise InputError(f"Two problems have the id {twice!r}; expected each id once")


def problem_digest(question: str, answer: str) -> str:
    """8 bytes in hex of what a problem asks and what the answer is."""
    return hashlib.blake2b(f"{question}\0{answer}".encode(), digest_size=8).hexdigest()


def problem_settings(
    *,
    model: Mapping[str, Any],
    problem_set: str,
    problems: Sequence[Problem],
    sampling: Sampling,
    chat: Mapping[str, Any] | None = None,
    prompt: str = "",
) -> dict[str, Any]:
    """What records of traces must agree on to belong to one run, for `Journal`: JSON values.

    model: whatever says which weights and number format (name, fingerprint, dtype). The problems themselves enter by a
    digest of their ids, questions and answers. chat: `Chat.to_json`; nothing stands for nothing, so that files from before
    there was one can be continued. prompt: `prompt_of`; nothing stands for nothing, too.
    """
    content = json.dumps([[p.id, p.question, p.answer] for p in problems])
    return {
        "model": dict(model),
        "problems": {
            "set": problem_set,
            "count": len(problems),
            "digest": hashlib.blake2b(content.encode(), digest_size=8).hexdigest(),
            **({"prompt": prompt} if prompt else {}),
        },
        "sampling": sampling_settings(sampling),
        **({"chat": dict(chat)} if chat else {}),
    }


def sampling_settings(sampling: Sampling) -> dict[str, Any]:
    """A Sampling as headers of results files say it. The words are those of the first files, so that a run which an older
    version began goes on: there `logprobs` is how many candidates a confidence is over."""
    said = dataclasses.asdict(sampling) | {"stop_token_ids": list(sampling.stop_token_ids)}
    said["logprobs"] = said.pop("confidence_top_k")
    return said
