"""Where problems come from: the bundled generator of verifiable problems, and the check of an answer."""

from laconic.problems.base import Problem, is_correct
from laconic.problems.generate import LEVELS, generate

__all__ = ["LEVELS", "Problem", "generate", "is_correct"]
