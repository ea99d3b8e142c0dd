"""KV caches on the CPU that lie in memory as vLLM lays them on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ("LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC")
"""The orders that vLLM knows, outermost first: layers, blocks, heads, tokens of a block, content (key, then value)."""


def caches(order: str, layers: int, blocks: int, heads: int, size: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Each layer's `[blocks, heads, size, width]`, views of one tensor that lies in `order`; filled with junk."""
    sizes = {"L": layers, "B": blocks, "H": heads, "N": size, "C": width}
    made = torch.Generator().manual_seed(9)
    memory = torch.randn([sizes[axis] for axis in order], generator=made).to(dtype)
    seen = memory.permute([order.index(axis) for axis in "LBHNC"])
    return list(seen)
