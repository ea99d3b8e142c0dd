"""The teacher: writes a chain of thought for a program, with the slips and second looks that a student should learn.

A thought begins with a *draft*, nine tokens a step, that already commits to an answer; what follows does everything again
in full sentences, compares with the draft, and may check all of it once or twice more. Who misread a hint in the draft
mostly misreads it again: like large reasoning models, most traces end where their first attempt did.

Each token carries a tag, so that what a model gets right can be told apart: ``c`` an operand copied from the question,
``p`` an arrow, ``r`` a value recalled, ``a`` arithmetic, ``d`` a digit copied, ``s`` a result written down, ``l`` a
letter that is determined, ``h`` a hinted operand (a gamble), ``f`` free choice, ``w`` other words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

from laconic.problems.programs import ArithmeticProgram, ArithmeticStep
from training.reasoner.vocabulary import ASSISTANT, END_THINK, EOS, IDS, THINK, USER


@dataclass(frozen=True, slots=True)
class Habits:
    """How often the teacher does what: probabilities per step, but ``passes``: of 0, 1 or 2 check passes.

    A hint is taken with probability ``hint`` in the draft. Later, a hint taken before is taken again with probability
    ``again`` (``again_checking`` in a check pass), one not taken before with ``anew`` (``anew_checking``).
    """

    hint: float = 0.4
    again: float = 0.95
    anew: float = 0.02
    again_checking: float = 0.9
    anew_checking: float = 0.01
    alarm: float = 0.04  # reads again although nothing was wrong
    dead_end: float = 0.08  # tries a step whose operands are not all known
    restate: float = 0.12  # says what is known so far
    filler: float = 0.12
    keep: float = 0.4  # in a check pass, keeps an earlier result without checking it
    passes: tuple[float, float, float] = (0.1, 0.5, 0.4)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(0 <= v <= 1 for v in values):
                raise ValueError(f"Habits.{field.name} must be between 0 and 1, not {value!r}.")
        if abs(sum(self.passes) - 1) > 1e-9:
            raise ValueError(f"Habits.passes must add up to 1, not {self.passes!r}.")


FLAWLESS = Habits(
    hint=0, again=0, anew=0, again_checking=0, anew_checking=0,
    alarm=0, dead_end=0, restate=0, filler=0, passes=(0.5, 0.5, 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trace:
    """Token ids of prompt and chain of thought, a tag per token, the prompt's length, and the answer reached."""

    ids: tuple[int, ...]
    tags: str
    prompt_length: int
    answer: str


def prompt(question: str) -> str:
    """What the chat template makes of one user message."""
    return f"{USER} {question} {ASSISTANT} {THINK}"


_OPENINGS = ("draft :", "quick draft :", "a draft first :")
_PROPER = ("now step by step .", "now let me do it with care .", "okay , now one step at a time .")
_DO = ("let me do", "next is", "now i do", "now", "then compute")
_RECALL = ("recall", "earlier", "i need", "from above", "i know")
_FILLERS = (
    "okay .",
    "good , keep going .",
    "that seems right .",
    "hmm , let me think for a moment .",
    "i must be careful here .",
    "there are still some steps to do .",
    "fine .",
)
_ALARM = ("wait , is that right ? let me read it again .", "hmm , let me look at this once more .")
_TRY = ("could i do", "let me try")
_CHECKS = (
    "wait , let me double check all of it .",
    "hmm , let me verify the steps again .",
    "wait , let me check this .",
)
_CHECK = ("check", "verify", "look at")


class _Writer:
    """Writes one trace: ``memory`` is what the text says so far; ``known`` are the letters done in full sentences."""

    def __init__(self, program: ArithmeticProgram, rng: random.Random, habits: Habits) -> None:
        self.program, self.rng, self.habits = program, rng, habits
        self.words: list[str] = []
        self.tags: list[str] = []
        self.memory = dict(program.facts)
        self.readings: dict[str, str] = {}  # the second operand of each step, as last read
        self.known = set(program.facts)
        self.tried: set[str] = set()

    def say(self, text: str, tag: str = "w") -> None:
        words = text.split()
        self.words += words
        self.tags += tag * len(words)

    def choose(self, phrases: tuple[str, ...]) -> None:
        """One of several phrases: where it begins is free, what follows is not judged either."""
        self.say(self.rng.choice(phrases), "f")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def write(self) -> str:
        program, rng = self.program, self.rng
        self.choose(_OPENINGS)
        self.draft()
        self.choose(_PROPER)
        self.arrow("*", program.steps[0].letter, "first")
        for index, step in enumerate(program.steps):
            if self.chance(self.habits.dead_end):
                self.dead_end(program.steps[index + 1 :])
            if self.chance(self.habits.filler):
                self.choose(_FILLERS)
            self.choose(_DO)
            self.do(step)
            if index and self.chance(self.habits.restate):
                self.restate([s.letter for s in program.steps[: index + 1]])
            self.arrow(step.letter, program.successor[step.letter])
        last = program.steps[-1].letter
        for _ in range(rng.choices((0, 1, 2), self.habits.passes)[0]):
            self.conclude(last)
            self.check_pass()
        self.conclude(last)
        digit = str(self.memory[last])
        self.say("the answer is")
        self.say(digit, "d")
        self.say(f". {END_THINK} \\boxed{{")
        self.say(digit, "d")
        self.say(f"}} {EOS}")
        return digit

    def draft(self) -> None:
        """Every step in nine tokens: its two halves, the sum of the values they name, the result, what comes next."""
        self.say(f"*>{self.program.steps[0].letter}", "p")
        for step in self.program.steps:
            first, second = self.look(step, self.habits.hint, 0)
            self.memory[step.letter] = self.compute(step, first, second)
            self.say(f"{step.letter}={self.memory[step.letter]}", "s")
            self.say(f"{step.letter}>{self.program.successor[step.letter]}", "p")
        self.say(".")
        last = self.program.steps[-1].letter
        self.say("so draft")
        self.say(f"{last}={self.memory[last]}", "r")
        self.say(".")

    def arrow(self, letter: str, after: str, opener: str = "then") -> None:
        self.say(opener)
        if letter != "*":
            self.say(letter, "l")
        self.say(f"{letter}>{after}", "p")
        self.say(".")

    def look(self, step: ArithmeticStep, anew: float, again: float) -> tuple[str, str]:
        """The two halves of a step's line; a hint may be taken for its second operand, mostly by who took it before."""
        wrong = self.program.hints.get(step.letter)
        taken = self.readings.get(step.letter) == wrong
        second = wrong if wrong and self.chance(again if taken else anew) else step.second
        self.readings[step.letter] = second
        self.say(f"{step.letter}:{step.first}", "c")
        self.say(f"{step.letter}{step.sign}{second}", "h" if wrong else "c")
        return step.first, second

    def read(self, step: ArithmeticStep, anew: float, again: float) -> tuple[str, str]:
        self.say(step.letter, "l")
        operands = self.look(step, anew, again)
        self.say(".")
        return operands

    def recall(self, first: str, second: str) -> None:
        for joint, letter in (("", first), ("and", second)):
            self.say(joint)
            self.say(letter, "l")
            self.say(f"{letter}={self.memory[letter]}", "r")

    def compute(self, step: ArithmeticStep, first: str, second: str) -> int:
        """Writes ``a sign b = result``."""
        a, b = self.memory[first], self.memory[second]
        result = step.apply(a, b)
        self.say(str(a), "d")
        self.say(step.sign)
        self.say(str(b), "d")
        self.say("=")
        self.say(str(result), "a")
        return result

    def store(self, letter: str, value: int, words: str = ",") -> None:
        self.say(words)
        self.say(letter, "l")
        self.say(f"{letter}={value}", "s")
        self.memory[letter] = value

    def do(self, step: ArithmeticStep) -> None:
        self.attempt(step, self.habits.anew, self.habits.again)
        if self.chance(self.habits.alarm):
            self.choose(_ALARM)
            self.attempt(step, 0, 1)
        self.known.add(step.letter)

    def attempt(self, step: ArithmeticStep, anew: float, again: float) -> None:
        """Does one step and compares with the draft."""
        first, second = self.read(step, anew, again)
        self.choose(_RECALL)
        self.recall(first, second)
        self.say(". so")
        result = self.compute(step, first, second)
        if result == self.memory[step.letter]:
            self.store(step.letter, result)
        else:
            self.say(", wait , i had")
            self.say(step.letter, "l")
            self.say(f"{step.letter}={self.memory[step.letter]}", "r")
            self.store(step.letter, result, ", so now")
        self.say(".")

    def dead_end(self, later: tuple[ArithmeticStep, ...]) -> None:
        """Tries a later step that misses an operand, once."""
        candidates = [s for s in later if s.letter not in self.tried and not {s.first, s.second} <= self.known]
        if not candidates:
            return
        step = self.rng.choice(candidates)
        self.tried.add(step.letter)
        self.choose(_TRY)
        self.say(step.letter, "f")
        self.say("?")
        self.say(step.letter, "l")
        self.say(f"{step.letter}:{step.first}", "c")
        self.say(f"{step.letter}{step.sign}{step.second}", "h" if step.letter in self.program.hints else "c")
        self.say(".")
        self.say(step.first if step.first not in self.known else step.second, "l")
        self.say("is not done yet , a dead end .")

    def restate(self, done: list[str]) -> None:
        """What is known so far: two or three results."""
        self.say("so far")
        for index, letter in enumerate(self.rng.sample(done, min(len(done), self.rng.choice((2, 3))))):
            self.say("and" if index else "")
            self.say(letter, "f")
            self.say(f"{letter}={self.memory[letter]}", "r")
        self.say(".")

    def conclude(self, letter: str) -> None:
        self.say("so")
        self.say(letter, "l")
        self.say(f"{letter}={self.memory[letter]}", "r")
        self.say(".")

    def check_pass(self) -> None:
        """Goes through the steps again; after a correction every later step is checked, before it some are kept."""
        self.choose(_CHECKS)
        self.arrow("*", self.program.steps[0].letter, "first")
        corrected = False
        for step in self.program.steps:
            if not corrected and self.chance(self.habits.keep):
                self.say("keep", "f")
                self.say(step.letter, "l")
                self.say(f"{step.letter}={self.memory[step.letter]}", "r")
                self.say(".")
            else:
                corrected |= self.check(step)
            self.arrow(step.letter, self.program.successor[step.letter])

    def check(self, step: ArithmeticStep) -> bool:
        """Does one step again and compares with what was written; returns whether that changed."""
        self.choose(_CHECK)
        first, second = self.read(step, self.habits.anew_checking, self.habits.again_checking)
        self.say("with")
        self.recall(first, second)
        self.say(",")
        result = self.compute(step, first, second)
        had = self.memory[step.letter]
        self.say(". i had")
        self.say(step.letter, "l")
        self.say(f"{step.letter}={had}", "r")
        if result == had:
            self.say(", okay .")
            return False
        self.store(step.letter, result, ", so now")
        self.say(".")
        return True


def write_trace(program: ArithmeticProgram, rng: random.Random, habits: Habits = Habits()) -> Trace:
    """A chain of thought for ``program``, prompt included; it may end in a wrong answer."""
    writer = _Writer(program, rng, habits)
    opening = prompt(program.question()).split()
    answer = writer.write()
    ids = tuple(IDS[word] for word in [*opening, *writer.words])
    return Trace(ids, "." * len(opening) + "".join(writer.tags), len(opening), answer)
