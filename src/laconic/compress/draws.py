"""Random numbers that are a hash of what they belong to: the same on every device, whatever runs beside, resumed or not."""

from __future__ import annotations

import torch
from torch import Tensor

from laconic.compress.evidence import Evidence


def mix(x: Tensor) -> Tensor:
    """A 32-bit integer hash of each element (0 <= x < 2^32, held in int64): MurmurHash3's finaliser after an offset."""
    x = (x + 0x9E3779B9) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def random_bits(seed: int, evidence: Evidence, *, by_group: bool, redraw: bool) -> Tensor:
    """32 bits for each candidate: long [B, g, M], a hash of (seed, row, layer, position).

    by_group: and of the KV head (g = G). redraw: and of the compression, which the newest candidate's position tells; else a
    token's number is drawn once.
    """
    positions = evidence.positions
    rows = evidence.rows
    if rows is None:
        rows = torch.zeros(positions.shape[0], dtype=torch.long, device=positions.device)
    state = mix(torch.full_like(rows, seed & 0xFFFFFFFF))
    state = mix(state ^ (rows & 0xFFFFFFFF))
    state = mix(state ^ evidence.layer).view(-1, 1, 1)
    if by_group:
        heads = torch.arange(evidence.keys.shape[1], device=positions.device) + evidence.first_head
        state = mix(state ^ heads.view(1, -1, 1))
    if redraw:
        # The token before the window is always cached, so it is the last candidate.
        state = mix(state ^ (positions[..., -1:] & 0xFFFFFFFF))
    return mix(state ^ (positions & 0xFFFFFFFF))
