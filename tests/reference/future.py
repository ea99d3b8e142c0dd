"""What later tokens attend to, read off whole attention maps in loops."""

from __future__ import annotations

from torch import Tensor


def largest(maps: Tensor, groups: int, prompt: int, queries: range) -> list[list[float]]:
    """[G][K]: the largest attention that the generated tokens `queries` pay each generated token; 0 for none.

    maps: [H, T, T] over the whole sequence, of which the first `prompt` tokens are the prompt; query head h reads KV head
    h // (H / G).
    """
    heads, length, _ = maps.shape
    per_group, found = heads // groups, []
    for g in range(groups):
        row = []
        for token in range(length - prompt):
            seen = [
                float(maps[h, prompt + query, prompt + token])
                for h in range(g * per_group, (g + 1) * per_group)
                for query in queries
                if prompt + query < length
            ]
            row.append(max(seen, default=0.0))
        found.append(row)
    return found


def after(maps: Tensor, groups: int, prompt: int, generated: int, block: int) -> list[list[float]]:
    """By queries of the first block that begins at `generated` or later, and of all blocks behind it."""
    first = next(n for n in range(10**6) if n * block >= generated) * block
    return largest(maps, groups, prompt, range(first, maps.shape[1] - prompt))


def delayed(maps: Tensor, groups: int, prompt: int, delay: int, block: int) -> list[list[float]]:
    """Token i by queries of blocks that begin at i + delay or later."""
    length = maps.shape[1] - prompt
    by_token = [after(maps, groups, prompt, token + delay, block) for token in range(length)]
    return [[by_token[token][g][token] for token in range(length)] for g in range(groups)]


def summed(maps: Tensor, groups: int, prompt: int, queries: range) -> list[list[float]]:
    """[G][K]: the attention that the generated tokens `queries` pay each generated token, averaged over a KV head's heads."""
    heads, length, _ = maps.shape
    per_group = heads // groups
    return [
        [
            sum(
                float(maps[h, prompt + query, prompt + token])
                for h in range(g * per_group, (g + 1) * per_group)
                for query in queries
            )
            / per_group
            for token in range(length - prompt)
        ]
        for g in range(groups)
    ]
