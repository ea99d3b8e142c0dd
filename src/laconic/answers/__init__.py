"""The final answer of a text, and whether two answers are the same.

`extract` finds the answer, `equivalent` compares two, `groups` sorts many into classes, `undecided` counts the pairs that
had to be given up. What is plain (numbers, choice letters, words, the same formula in another spelling) is decided here
by string work; only the rest is asked of math-verify, in a process of its own that starts with the first such pair.
"""

from laconic.answers.equivalence import equivalent, groups, undecided
from laconic.answers.extraction import extract

__all__ = ["equivalent", "extract", "groups", "undecided"]
