"""More traces from the same ones: a problem's letters mean nothing, so every consistent renaming is another problem.

A judge that sees each problem under many names has to learn what agrees, not which letters went with which outcome.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from laconic.problems.programs import LETTERS
from laconic.traces import TraceRecord
from training.reasoner.vocabulary import IDS, KEYED, TOKENS


def rename_problem(records: Sequence[TraceRecord], copies: int, seed: int) -> list[TraceRecord]:
    """Every record under `copies` renamings, the same for all traces of a problem; each is a problem of its own."""
    found = []
    for copy in range(copies):
        names: dict[str, dict[str, str]] = {}
        for record in records:
            if record.problem not in names:
                rng = random.Random(f"laconic.judge.renaming/{seed}/{record.problem}/{copy}")
                table = dict(zip(LETTERS, rng.sample(LETTERS, len(LETTERS)), strict=True))
                names[record.problem] = {word: rename(word, table) for word in TOKENS}
            found.append(_renamed(record, names[record.problem], f"{record.problem}~{copy}"))
    return found


def _renamed(record: TraceRecord, names: dict[str, str], problem: str) -> TraceRecord:
    return replace(
        record,
        problem=problem,
        question=" ".join(names[word] for word in record.question.split(" ")),
        prompt_ids=tuple(IDS[names[TOKENS[i]]] for i in record.prompt_ids),
        token_ids=tuple(IDS[names[TOKENS[i]]] for i in record.token_ids),
        text=" ".join(names[word] for word in record.text.split(" ")),
    )


def rename(word: str, table: dict[str, str]) -> str:
    """Another letter for each letter of a keyed token; other words as they are."""
    return "".join(table.get(c, c) for c in word) if word in KEYED else word
