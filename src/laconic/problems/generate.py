"""The bundled problems by seed, level and split."""

from __future__ import annotations

import random

from laconic.errors import LaconicError
from laconic.problems.base import Problem
from laconic.problems.programs import MAX_STEPS, SPLITS, Program, sample_program

LEVELS = range(1, MAX_STEPS + 1)  # a level is the number of steps
MIXTURE = (5, 6, 7, 8)  # the levels of `level=None`, evenly: what published figures are measured on


def generate(count: int, seed: int = 0, level: int | None = None, split: str = "heldout") -> list[Problem]:
    """``count`` distinct problems, the same for the same arguments.

    ``level`` 1 to 8 is the number of steps; ``None`` is the mixture that figures are reported on (levels 5 to 8,
    evenly). A longer list starts with the shorter one. ``LaconicError`` for a level, count or split out of range.
    """
    return [
        Problem(
            id=f"steps{len(program.steps)}-{split}-s{seed}-{index}",
            question=program.question(),
            answer=program.answer,
            level=len(program.steps),
            meta={"hints": len(program.hints), "facts": len(program.facts)},
        )
        for index, program in enumerate(programs(count, seed, level, split))
    ]


def programs(count: int, seed: int = 0, level: int | None = None, split: str = "heldout") -> list[Program]:
    """The programs behind :func:`generate`, in the same order."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise LaconicError(f"The number of problems must be a whole number of at least 0, not {count!r}.")
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or level not in LEVELS):
        raise LaconicError(f"The level must be {LEVELS[0]} to {LEVELS[-1]}, or None for the mixture, not {level!r}.")
    if split not in SPLITS:
        raise LaconicError(f"The split must be one of {', '.join(SPLITS)}, not {split!r}.")
    rng = random.Random(f"laconic.problems/{seed}/{level}/{split}")
    found: list[Program] = []
    seen: set[str] = set()
    while len(found) < count:
        # The level goes round instead of being drawn, so any count holds the levels as evenly as it can.
        steps = MIXTURE[len(found) % len(MIXTURE)] if level is None else level
        program = sample_program(rng, steps)
        question = program.question()
        if program.split() == split and question not in seen:
            seen.add(question)
            found.append(program)
    return found
