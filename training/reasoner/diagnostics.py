"""What a written chain of thought gets right, by kind of step; nothing here looks at the final answer."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.problems.programs import ArithmeticProgram
from training.reasoner.vocabulary import KEYED


def count_right(program: ArithmeticProgram, words: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(right, total) for each kind, judged against the question and what the text itself has said so far.

    copy: operands read from the question (steps without a hint); hinted: operands of hinted steps; arrow: what is first
    or next; recall: values said of letters already known; store: results written under their letter; arithmetic: digits
    after an equals sign.
    """
    steps = {step.letter: step for step in program.steps}
    after = program.successor
    memory = dict(program.facts)
    counts: dict[str, list[int]] = {k: [0, 0] for k in ("copy", "hinted", "arrow", "recall", "store", "arithmetic")}

    def note(kind: str, right: bool) -> None:
        counts[kind][0] += right
        counts[kind][1] += 1

    for index, word in enumerate(words):
        before = ("", "", "", "", *words[max(0, index - 4) : index])
        kind = KEYED[word].kind if word in KEYED else "word"
        key = word[0]
        if kind == ">":
            note("arrow", after.get(key) == word[2])
        elif kind == ":" and key in steps:
            note("copy", steps[key].first == word[2])
        elif kind in "+-" and len(word) == 3 and key in steps:
            note(
                "hinted" if key in program.hints else "copy", (steps[key].sign, steps[key].second) == (word[1], word[2])
            )
        elif kind == "=":
            drafted = before[-1].isdigit() and before[-2] == "="  # a draft has no comma between a sum and its letter
            if not drafted and before[-2:] not in ((",", key), ("now", key)):
                note("recall", memory.get(key) == int(word[2]))
                continue
            result = before[-1] if drafted else before[-3]
            if result.isdigit():
                note("store", result == word[2])
            memory[key] = int(word[2])
        elif kind == "digit" and before[-1] == "=" and before[-2].isdigit() and before[-4].isdigit():
            a, sign, b = int(before[-4]), before[-3], int(before[-2])
            note("arithmetic", sign in "+-" and (a + b if sign == "+" else a - b) % 10 == int(word))
    return {kind: (right, total) for kind, (right, total) in counts.items()}
