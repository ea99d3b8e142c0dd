"""Traces to make pairs of: small, written by hand or by rule, no model behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from laconic.traces import TraceRecord

SETTINGS = {"model": "m", "policy": "full", "temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_new_tokens": 64}

MakeRecord = Callable[..., TraceRecord]


def _record(
    problem: str, index: int, answer: str | None, tokens: Sequence[int] = (5, 6, 7, 8), text: str | None = None
) -> TraceRecord:
    return TraceRecord(
        problem=problem,
        question=f"what is {problem} ?",
        gold="1",
        level=0,
        index=index,
        seed=0,
        settings=SETTINGS,
        prompt_ids=(1, 2, 3),
        token_ids=tuple(tokens),
        text=text if text is not None else " ".join(map(str, tokens)),
        answer=answer,
        correct=answer == "1",
        finish_reason="stop",
    )


@pytest.fixture
def make_record() -> MakeRecord:
    """record(problem, index, answer, tokens=..., text=...)."""
    return _record
