"""KVzap's networks (arXiv 2601.07891): what a published folder holds, and what they say of a token.

Shapes: B rows, q tokens, E numbers of a hidden state, N hidden units, G KV heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laconic import checks
from laconic.compress.selector import GRID
from laconic.errors import InputError


@dataclass(frozen=True, eq=False)
class KVzapNetworks:
    """One network for each layer of a model: linear, or two linear maps with GELU between them.

    Raises InputError for shapes that don't fit each other.
    """

    layers: tuple[tuple[Tensor, ...], ...]
    """weight [G, E] and bias [G]; or [N, E], [N], [G, N], [G]."""

    def __post_init__(self) -> None:
        layers = self.layers
        if not isinstance(layers, tuple) or not layers or not all(isinstance(parts, tuple) for parts in layers):
            raise checks.input_error("layers", layers, "KVzap's tuple of networks, each a tuple of tensors")
        for index, parts in enumerate(self.layers):
            shapes = [tuple(getattr(part, "shape", ())) for part in parts]
            maps = list(zip(shapes[::2], shapes[1::2], strict=False))
            fits = len(shapes) in (2, 4) and all(len(w) == 2 and b == w[:1] for w, b in maps)
            if not fits or (len(maps) == 2 and maps[1][0][1] != maps[0][0][0]):
                raise InputError(f"KVzap's network of layer {index} has weights of {shapes}, which don't fit together")

    @classmethod
    def of(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> KVzapNetworks:
        """From a published folder's config.json and tensors. Raises InputError for others."""
        if config.get("model_type") != "kvzap":
            raise InputError(f"its config.json is of the type {config.get('model_type')!r}; expected kvzap")
        count = checks.whole("n_modules", config.get("n_modules"), 1)
        parts = ("",) if config.get("hidden_dim") is None else ("0.", "2.")
        names = [
            [f"layers.{i}.{part}{kind}" for part in parts for kind in ("weight", "bias")] for i in range(int(count))
        ]
        lost = [name for layer in names for name in layer if name not in tensors]
        if lost:
            raise InputError(f"its weights lack {lost[0]}; fetch them again")
        return cls(tuple(tuple(tensors[name] for name in layer) for layer in names))

    @property
    def width(self) -> int:
        """E"""
        return self.layers[0][0].shape[1]

    @property
    def kv_heads(self) -> int:
        """G"""
        return self.layers[0][-1].shape[0]

    def score(self, layer: int, states: Tensor) -> Tensor:
        """fp32 [B, G, q], multiples of GRID (which says why), of what the layer's attention reads, [B, q, E]."""
        x, parts = states.float(), self._on(states.device)[layer]
        x = torch.nn.functional.linear(x, parts[0], parts[1])
        if len(parts) == 4:
            x = torch.nn.functional.linear(torch.nn.functional.gelu(x), parts[2], parts[3])
        return (x.transpose(1, 2) / GRID).round() * GRID

    def check_model(self, shapes: Mapping[int, tuple[int, int, int]]) -> None:
        """InputError if they are not of such a model. shapes: layer -> KV heads and more."""
        heads = sorted({found[0] for found in shapes.values()})
        if heads != [self.kv_heads] or max(shapes) >= len(self.layers):
            raise InputError(
                f"KVzap's networks are of {len(self.layers)} layers with {self.kv_heads} KV heads, the model has {heads} in "
                f"layers up to {max(shapes)}: expected those that were trained for this model"
            )

    def check_width(self, width: int) -> None:
        """InputError if they read hidden states of another size."""
        if width != self.width:
            raise InputError(
                f"KVzap's networks read hidden states of {self.width} numbers, the model's are of {width}: expected those that "
                "were trained for this model"
            )

    def _on(self, device: torch.device) -> tuple[tuple[Tensor, ...], ...]:
        """In fp32 on a device; moved once."""
        moved: dict[torch.device, tuple[tuple[Tensor, ...], ...]] = self.__dict__.setdefault("_moved", {})
        if device not in moved:
            moved[device] = tuple(tuple(part.to(device, torch.float32) for part in parts) for parts in self.layers)
        return moved[device]
