"""`laconic problems`: the bundled generator's problems, one a line."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def problems(
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 10,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Another seed, other problems.")] = 0,
    level: Annotated[
        int | None, typer.Option("--level", "-l", help="Steps of each problem, 1 to 8; without it a mixture of 5 to 8.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="heldout, or train: what the bundled model saw.")] = "heldout",
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines: id, question, answer, level.")] = False,
) -> None:
    """Print problems that the bundled reasoner solves, one a line; the same for the same options."""
    from laconic.problems import generate

    for problem in generate(count, seed, level, split):
        if as_json:
            record = {"id": problem.id, "question": problem.question, "answer": problem.answer, "level": problem.level}
            typer.echo(json.dumps(record))
        else:
            typer.echo(problem.question)
