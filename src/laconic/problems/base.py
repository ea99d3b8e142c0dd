"""The record every problem source yields, and the one place that decides whether an answer counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic import checks
from laconic.answers import equivalent, extract


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer.

    ``question`` is the user message (a chat template turns it into a prompt); ``level`` is the difficulty within the
    source that made it (0: the source knows none); ``meta`` holds what the source wants to remember.
    """

    id: str
    question: str
    answer: str
    level: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "question", "answer"):
            checks.text(f"Problem.{name}", getattr(self, name), some=True)
        checks.plain(self)
        checks.whole("Problem.level", self.level, 0)
        checks.instance("Problem.meta", self.meta, Mapping, "a mapping")


def check(problem: Problem, text: str, *, thinking: bool = False, ended: bool = False) -> bool:
    """Whether ``text`` (what a model wrote) ends in the reference answer; no final answer counts as wrong.

    thinking, ended: as `answers.extract` takes them.
    """
    checks.instance("problem", problem, Problem, "a Problem")
    return equivalent(extract(text, thinking=thinking, ended=ended), problem.answer)


def problem_seed(seed: int, problem: Problem) -> int:
    """A seed for the traces of one problem: 31 bits that depend on the run's seed and the problem's id alone, so that
    problems draw independently of each other and of how many of them there are."""
    digest = hashlib.blake2b(f"{seed}/{problem.id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
