"""The final answer of a text, and whether two answers are the same.

`extract` finds the answer (`answer_of` a trace's), `equivalent` compares two, `groups` sorts many into classes, `undecided`
counts the pairs that had to be given up. What is plain (numbers, choice letters, words, the same formula in another
spelling) is decided here by string work; only the rest is asked of math-verify, in a process of its own that starts with
the first such pair. `Marker` and `register` are for a model whose thinking is marked in a way that isn't known here.
"""

from laconic.answers.equivalence import equivalent, groups, undecided
from laconic.answers.extraction import answer_of, extract
from laconic.answers.thinking import MARKERS, Marker, left_open, markers, register

__all__ = [
    "MARKERS",
    "Marker",
    "answer_of",
    "equivalent",
    "extract",
    "groups",
    "left_open",
    "markers",
    "register",
    "undecided",
]
