"""The bundled problems by seed, level and split."""

from __future__ import annotations

import random

from laconic import checks
from laconic.problems.base import Problem
from laconic.problems.programs import MAX_STEPS, SPLITS, ArithmeticProgram, sample_program

LEVELS = range(1, MAX_STEPS + 1)  # a level is the number of steps
MOST = 1_000_000  # problems of one list
MIXTURE = (5, 6, 7, 8)  # the levels of `level=None`, evenly: what published figures are measured on


def generate(count: int, seed: int = 0, level: int | None = None, split: str = "heldout") -> list[Problem]:
    """``count`` distinct problems, the same for the same arguments.

    ``level`` 1 to 8 is the number of steps; ``None`` is the mixture that figures are reported on (levels 5 to 8,
    evenly). A longer list starts with the shorter one. ``InputError`` for a level, count or split out of range.
    """
    return [
        Problem(
            id=f"steps{len(program.steps)}-{split}-s{seed}-{index}",
            question=program.question(),
            answer=program.answer,
            level=len(program.steps),
            meta={"hints": len(program.hints), "facts": len(program.facts)},
        )
        for index, program in enumerate(generate_programs(count, seed, level, split))
    ]


def generate_programs(
    count: int, seed: int = 0, level: int | None = None, split: str = "heldout"
) -> list[ArithmeticProgram]:
    """The programs behind :func:`generate`, in the same order."""
    count = checks.whole("count", count, 0, MOST, "problems")
    seed = checks.seed("seed", seed)
    if level is not None:
        level = checks.whole("level", level, LEVELS[0], LEVELS[-1], "steps; without it the mixture")
    checks.word("split", split, SPLITS)
    rng = random.Random(f"laconic.problems/{seed}/{level}/{split}")
    found: list[ArithmeticProgram] = []
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
