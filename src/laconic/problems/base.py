"""The record every problem source yields, and the one place that decides whether an answer counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic import checks
from laconic.answers import equivalent, extract
from laconic.errors import InputError


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer, if it has one.

    Raises InputError for an empty id or question, an answer of nothing but white space, or a level below 0.
    """

    id: str
    question: str
    """The user's message; a chat template turns it into a prompt."""
    answer: str
    """The reference answer; "" where the problem set has none, since it is scored otherwise."""
    level: int = 0
    """Difficulty within the problem set that it is from; 0 where that knows none."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else the problem set says of it."""

    def __post_init__(self) -> None:
        for name in ("id", "question", "answer"):
            checks.text(f"Problem.{name}", getattr(self, name), some=name != "answer" or self.answer != "")
        checks.unwrap_numpy_fields(self)
        checks.whole("Problem.level", self.level, 0)
        checks.instance("Problem.meta", self.meta, Mapping, "a mapping")


def is_correct(problem: Problem, text: str, *, thinking: bool = False, ended: bool = False) -> bool:
    """Whether ``text`` (what a model wrote) ends in the reference answer; no final answer counts as wrong.

    thinking, ended: as `answers.extract` takes them. Raises InputError for a problem without a reference answer.
    """
    checks.instance("problem", problem, Problem, "a Problem")
    if not problem.answer:
        raise InputError(f"The problem {problem.id} has no reference answer; expected one to compare with")
    return equivalent(extract(text, thinking=thinking, ended=ended), problem.answer)


def problem_seed(seed: int, problem: Problem) -> int:
    """A seed for the traces of one problem: 31 bits that depend on the run's seed and the problem's id alone, so that
    problems draw independently of each other and of how many of them there are."""
    digest = hashlib.blake2b(f"{seed}/{problem.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
