"""Traces of random tokens, for small random models."""

from __future__ import annotations

from typing import Any

from tests.engines.hf.families import prompts

from laconic.traces import TraceRecord

SETTINGS: dict[str, Any] = {"policy": "full", "temperature": 1.0, "top_p": 1.0, "top_k": 0}


def made_traces(lengths: list[int], prompt: int = 5, seed: int = 1, problems: int | None = None) -> list[TraceRecord]:
    """Trace i has lengths[i] generated tokens; problems: how many, taken in turn (None: one a trace)."""
    count = problems or len(lengths)
    asked = prompts([prompt + i % 3 for i in range(count)], seed=seed + 100)
    written = prompts(lengths, seed=seed)
    return [
        TraceRecord(
            problem=f"p{i % count}",
            question="q",
            gold="1",
            level=0,
            index=i // count,
            seed=0,
            settings=SETTINGS,
            prompt_ids=tuple(asked[i % count]),
            token_ids=tuple(tokens),
            text="x",
            answer=None,
            correct=False,
            finish_reason="length",
        )
        for i, tokens in enumerate(written)
    ]
