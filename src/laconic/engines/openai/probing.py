"""Probes of a server's traces: each text is continued by a suffix and greedy tokens, whose likeliest candidates are told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from laconic.engines.base import Sampling, Trace
from laconic.engines.openai.asking import Asker, RefusedError
from laconic.engines.openai.protocol import MOST_LOGPROBS, RemotePrompt, first_logprobs, plan
from laconic.errors import EngineError, InputError


def probe_bodies(
    traces: Sequence[tuple[RemotePrompt, Trace]],
    suffix: str,
    steps: int,
    chat: Mapping[str, Any],
    system: str | None,
    logprobs: int | None = MOST_LOGPROBS,
) -> list[tuple[str, dict[str, Any]]]:
    """The path and the body of what is sent for each (prompt, trace). logprobs: as `Sampling.logprobs`.

    Raises InputError for prompts of token ids: no text can be added to them here.
    """
    bodies = []
    for prompt, trace in traces:
        if isinstance(prompt, tuple):
            raise InputError(
                "the openai engine can't probe traces of prompts of token ids: their tokenizer is the server's; submit texts"
            )
        sampling = Sampling(max_new_tokens=steps, temperature=0, logprobs=logprobs)
        asked = plan(prompt, trace.text + suffix, None, sampling, 0, steps, chat, system)
        body = {**asked.body, "stream": False}
        body.pop("stream_options")
        bodies.append((asked.path, body))
    return bodies


def ask_probes(
    asker: Asker, bodies: Sequence[tuple[str, dict[str, Any]]], steps: int, number: Callable[[str], int]
) -> tuple[Tensor, int]:
    """The distributions, float32 [n, steps, V], and the tokens that servers read and wrote for them.

    number: a column for a token's text. What a server leaves untold of a step (all but the likeliest 20) has a column of its
    own in each row, so that two traces never agree on it; a trace that ends before the last step has the column of "" from
    there on.
    Raises EngineError where servers fail, don't continue texts, or tell no log-probabilities.
    """
    answers, tokens = _ask(asker, bodies)
    rows: list[list[dict[int, float]]] = []
    for answer in answers:
        told = first_logprobs(answer, steps)
        if not told:
            raise EngineError(
                "the server tells no log-probabilities, so it can't be probed; use a judge that reads texts"
            )
        row: list[dict[int, float]] = []
        for top in told:
            masses: dict[int, float] = {}
            for text, logprob in top:
                column = number(text)
                masses[column] = masses.get(column, 0.0) + math.exp(logprob)
            row.append(masses)
        rows.append(row + [{number(""): 1.0}] * (steps - len(row)))
    width = 1 + max(column for row in rows for masses in row for column in masses)
    found = torch.zeros(len(rows), steps, width + len(rows))
    for i, row in enumerate(rows):
        for step, masses in enumerate(row):
            total = max(1.0, sum(masses.values()))
            for column, mass in masses.items():
                found[i, step, column] = mass / total
            found[i, step, width + i] = max(0.0, 1.0 - sum(masses.values()))
    return found, tokens


def ask_texts(asker: Asker, bodies: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[str], int]:
    """The texts that servers wrote, and the tokens that they read and wrote for them.

    A chat's reasoning, sent apart, comes before what is said. Raises EngineError where servers fail, don't continue texts, or
    answer with no text.
    """
    answers, tokens = _ask(asker, bodies)
    return [_text_of(answer) for answer in answers], tokens


def _ask(asker: Asker, bodies: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[Mapping[str, Any]], int]:
    try:
        answers = asker.ask_all(bodies)
    except RefusedError as error:
        raise EngineError(
            f"the server doesn't continue a trace's text, so it can't be probed ({error}); use a strategy or judge that reads "
            "texts, such as self-consistency or jaccard"
        ) from error
    usages = [answer.get("usage") for answer in answers]
    totals = [usage.get("total_tokens") for usage in usages if isinstance(usage, dict)]
    return answers, sum(total for total in totals if isinstance(total, int))


def _text_of(answer: Mapping[str, Any]) -> str:
    try:
        choice = answer["choices"][0]
        if "message" not in choice:
            return str(choice["text"])
        message = choice["message"]
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        return f"{thoughts}{message.get('content') or ''}"
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineError(
            "the server's answer to a probe has no text; expected choices with a message or text"
        ) from error
