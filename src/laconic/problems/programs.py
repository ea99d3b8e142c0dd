"""Straight-line programs over single digits: the problems that the bundled reasoner solves.

A program has *facts* (letters with a digit), *steps* (a letter that is the sum or difference, mod 10, of two letters
known by then) and *hints* (a tempting wrong second operand for a step). Its steps are listed in shuffled order;
arrows say which comes first (``*>h``), which follows (``h>n``) and which is last (``n>.``). The answer is the last
step's digit.

Every word of the question is one token that carries its own key (``h=6``, ``h:w`` with ``h+k`` for h = w + k), so that
looking something up is a single hop for a small model. Every step's result is used by a later step: what a solver
forgets it has to derive again from the facts.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from laconic.errors import InputError

LETTERS = "bcdfghjkmnprstvw"
MAX_STEPS = 8
SPLITS = ("train", "heldout")
_HELDOUT_SHARE = 16  # one canonical problem in this many is held out
_SPLIT_KEY = b"laconic.problems.split.1"


@dataclass(frozen=True, slots=True)
class ArithmeticStep:
    """``letter = first sign second`` (mod 10)."""

    letter: str
    first: str
    sign: str
    second: str

    def __post_init__(self) -> None:
        if self.sign not in ("+", "-"):
            raise InputError(f"ArithmeticStep.sign must be '+' or '-', not {self.sign!r}")
        if self.letter in (self.first, self.second):
            raise InputError(f"ArithmeticStep.letter {self.letter!r} must not be one of its own operands")

    def apply(self, first: int, second: int) -> int:
        return (first + second if self.sign == "+" else first - second) % 10


@dataclass(frozen=True, slots=True)
class ArithmeticProgram:
    """A problem of the bundled generator, as the steps that solve it. Raises InputError for steps that can't be run."""

    facts: Mapping[str, int]
    """Letter -> digit, given in the question."""
    steps: tuple[ArithmeticStep, ...]
    """In the order in which they are to be run."""
    hints: Mapping[str, str]
    """A step's letter -> the wrong second operand that the question hints at."""
    listing: tuple[int, ...]
    """The order in which the question lists the steps: indices into `steps`."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise InputError(f"ArithmeticProgram.steps must number 1 to {MAX_STEPS}, not {len(self.steps)}")
        if sorted(self.listing) != list(range(len(self.steps))):
            raise InputError(f"ArithmeticProgram.listing must order the {len(self.steps)} steps, not {self.listing!r}")
        known = set(self.facts)
        for step in self.steps:
            if step.letter in known:
                raise InputError(f"ArithmeticProgram.steps define the letter {step.letter!r} twice")
            needed = {step.first, step.second} | ({self.hints[step.letter]} if step.letter in self.hints else set())
            if not needed <= known:
                raise InputError(f"ArithmeticProgram.steps use {sorted(needed - known)} before they are known")
            known.add(step.letter)

    @property
    def successor(self) -> Mapping[str, str]:
        """What follows each letter: ``'*'`` stands for the start, ``'.'`` for the end."""
        letters = [step.letter for step in self.steps]
        return MappingProxyType(dict(zip(["*", *letters], [*letters, "."], strict=True)))

    def values(self) -> dict[str, int]:
        """The digit of every letter, facts included."""
        values = dict(self.facts)
        for step in self.steps:
            values[step.letter] = step.apply(values[step.first], values[step.second])
        return values

    @property
    def answer(self) -> str:
        return str(self.values()[self.steps[-1].letter])

    def question(self) -> str:
        """The user message."""
        after = self.successor
        parts = ["given", *(f"{letter}={digit}" for letter, digit in self.facts.items())]
        for index in self.listing:
            step = self.steps[index]
            letter = step.letter
            parts += [";", f"{letter}:{step.first}", f"{letter}{step.sign}{step.second}", f"{letter}>{after[letter]}"]
            if letter in self.hints:
                parts += ["hint", f"{letter}{step.sign}{self.hints[letter]}"]
        parts += ["; start", f"*>{self.steps[0].letter}", "; find", self.steps[-1].letter, "?"]
        return " ".join(parts)

    def canonical(self) -> str:
        """The problem without what does not matter: the letters' names, the order of facts and of lines, and the hints.

        Two programs that compute the same thing in the same order from the same digits share this string, so they fall
        into the same split.
        """
        names: dict[str, str] = {}
        lines = []
        for step in self.steps:
            operands = []
            for operand in (step.first, step.second):
                if operand in self.facts:
                    operands.append(f"{self.facts[operand]}")
                else:
                    operands.append(names[operand])
            if step.sign == "+":
                operands.sort()
            names[step.letter] = f"s{len(names)}"
            lines.append(operands[0] + step.sign + operands[1])
        return ";".join(lines)

    def split(self) -> str:
        """``'heldout'`` or ``'train'``: a keyed hash of the canonical problem decides, so the two can't overlap."""
        digest = hashlib.blake2b(self.canonical().encode(), key=_SPLIT_KEY, digest_size=8).digest()
        return "heldout" if int.from_bytes(digest, "big") % _HELDOUT_SHARE == 0 else "train"


def sample_program(rng: random.Random, steps: int, hints: bool = True) -> ArithmeticProgram:
    """A random program of ``steps`` steps, of either split."""
    letters = rng.sample(LETTERS, len(LETTERS))
    fact_letters = letters[: rng.randint(2, 5)]
    step_letters = letters[len(fact_letters) : len(fact_letters) + steps]
    facts = {letter: rng.randrange(10) for letter in fact_letters}
    made = _sample_steps(rng, fact_letters, step_letters)
    chosen: dict[str, str] = {}
    if hints:
        # Early steps are hinted more often: traces that go wrong then differ early in their text.
        count = min(steps, rng.choices((0, 1, 2, 3), (0.2, 0.35, 0.3, 0.15))[0])
        weights = {index: 2.0 * steps - index for index in range(steps)}
        for _ in range(count):
            index = rng.choices(list(weights), list(weights.values()))[0]
            del weights[index]
            step = made[index]
            wrong = [x for x in fact_letters + step_letters[:index] if x not in (step.first, step.second)]
            if wrong:
                chosen[step.letter] = rng.choice(wrong)
    listing = list(range(steps))
    rng.shuffle(listing)
    return ArithmeticProgram(facts, tuple(made), chosen, tuple(listing))


def _sample_steps(rng: random.Random, facts: list[str], letters: list[str]) -> list[ArithmeticStep]:
    """Steps such that every result but the last is an operand of a later step."""
    unused: list[str] = []
    used: list[str] = []
    steps = []
    for index, letter in enumerate(letters):
        left = len(letters) - index - 1
        # Each later step can shrink `unused` by one at most (it takes two and adds its own), and one must remain.
        feasible = [take for take in (0, 1, 2) if take <= len(unused) and len(unused) - take <= left]
        take = rng.choices(feasible, [(0.25, 0.45, 0.3)[t] for t in feasible])[0]
        operands = rng.sample(unused, take)
        for operand in operands:
            unused.remove(operand)
        fresh = list(operands)
        while len(operands) < 2:
            source = used if used and rng.random() < 0.4 else facts
            operand = rng.choice(source)
            if operand not in operands:
                operands.append(operand)
            elif source is used and len(used) == 1:
                operands.append(rng.choice(facts))
        used += fresh
        rng.shuffle(operands)
        steps.append(ArithmeticStep(letter, operands[0], rng.choice("+-"), operands[1]))
        unused.append(letter)
    return steps
