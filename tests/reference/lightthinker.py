"""LightThinker, slow and obvious: one whole pass for each token, under a mask that is said place by place.

Shares no code with laconic or its training: it reads the ids of the splitter, the cache tokens and the continue token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def blocks(ids: list[int], prompt: int, tokens: Any) -> list[tuple[int, int, int]]:
    """(first, splitter, last cache token) of each thought that is over, by place: a thought begins behind the continue token of
    the one before, or behind the prompt."""
    found = []
    first = prompt
    for place, token in enumerate(ids):
        if place >= first and token == tokens.splitter:
            found.append((first, place, place + len(tokens.cache)))
            first = place + len(tokens.cache) + 2
    return found


def may_see(ids: list[int], prompt: int, tokens: Any) -> list[list[bool]]:
    """[query][key]."""
    thoughts = blocks(ids, prompt, tokens)

    def sees(query: int, key: int) -> bool:
        gone = any(first <= key <= splitter and query > last for first, splitter, last in thoughts)
        return key <= query and not gone

    return [[sees(query, key) for key in range(len(ids))] for query in range(len(ids))]


@torch.no_grad()
def masked_logprobs(model: Any, ids: list[int], prompt: int, tokens: Any) -> Tensor:
    """[len(ids), V]: log-probabilities after each token, of one pass without a cache."""
    mask = torch.tensor(may_see(ids, prompt, tokens))[None, None]
    logits = model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0]
    return logits.float().log_softmax(-1)


def reference_greedy(model: Any, prompt: list[int], tokens: Any, steps: int) -> list[int]:
    """The greedy tokens, those that are fed included."""
    made: list[int] = []
    waiting: list[int] = []
    fed = [*tokens.cache, tokens.go_on]
    while len(made) < steps:
        if waiting:
            made.append(waiting.pop(0))
            continue
        scores = masked_logprobs(model, prompt + made, len(prompt), tokens)[-1]
        scores[fed] = -torch.inf
        made.append(int(scores.argmax()))
        if made[-1] == tokens.splitter:
            waiting = list(fed)
    return made
