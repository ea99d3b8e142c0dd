"""`laconic problems`: the bundled generator's problems, one a line."""

from __future__ import annotations

import json

import typer

from laconic.cli.options import (
    AsJson,
    Level,
    Problems,
    Seed,
    Split,
)


def problems(
    problems: Problems = 10,
    seed: Seed = 0,
    level: Level = None,
    split: Split = "heldout",
    as_json: AsJson = False,
) -> None:
    """Print problems that the bundled reasoner solves, one a line; the same for the same options.

    --json prints JSON lines: id, question, answer, level.
    """
    from laconic.problems import generate

    for problem in generate(problems, seed, level, split or "heldout"):
        if as_json:
            record = {"id": problem.id, "question": problem.question, "answer": problem.answer, "level": problem.level}
            typer.echo(json.dumps(record))
        else:
            typer.echo(problem.question)
