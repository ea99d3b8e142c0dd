"""Where problems come from: the bundled generator of verifiable problems, and the check of an answer."""

from laconic.problems.base import Problem, check
from laconic.problems.generate import LEVELS, generate

__all__ = ["LEVELS", "Problem", "check", "generate"]
