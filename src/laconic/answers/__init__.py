"""The final answer of a text, and whether two answers are the same.

`extract` finds the answer (`answer_of` a trace's), `equivalent` compares two, `group_equivalent` sorts many into classes,
`undecided_count` counts the pairs that had to be given up. What is plain (numbers, choice letters, words, the same formula in
another spelling) is decided here by string work; only the rest is asked of math-verify, in a process of its own that starts
with the first such pair. `ThinkingMarker` and `register_marker` are for a model whose thinking is marked in a way
that isn't known here.
"""

from laconic.answers.equivalence import equivalent, group_equivalent, undecided_count
from laconic.answers.extraction import answer_of, extract
from laconic.answers.thinking import MARKERS, ThinkingMarker, ends_in_thinking, known_markers, register_marker

__all__ = [
    "MARKERS",
    "ThinkingMarker",
    "answer_of",
    "ends_in_thinking",
    "equivalent",
    "extract",
    "group_equivalent",
    "known_markers",
    "register_marker",
    "undecided_count",
]
