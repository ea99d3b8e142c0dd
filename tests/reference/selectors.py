"""Selectors with random weights: what they choose means nothing, and tells any two tokens apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from laconic.compress import Rotation, Selector
from laconic.compress.selector import FEATURES
from laconic.engines.hf.facts import HFModelInfo
from laconic.selectors import find_selector


def random_selector(
    layers: Sequence[int] = (0, 1, 2),
    heads: int = 2,
    size: int = 8,
    features: Sequence[str] = FEATURES,
    per_head: bool = False,
    rotation: Rotation | None = None,
    hidden: int = 16,
    **more: Any,
) -> Selector:
    g = heads if per_head else 1
    width = sum((2 if name == "size" else size) * (1 if per_head else heads) for name in features)
    source = torch.Generator().manual_seed(width)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(len(layers), g, *shape, generator=source)

    weights: Mapping[str, torch.Tensor] = {
        "mean": noise(width),
        "scale": noise(width).abs() + 0.1,
        "weight_in": noise(width, hidden),
        "bias_in": noise(hidden),
        "weight_out": noise(hidden),
        "bias_out": noise(),
    }
    return Selector(tuple(features), tuple(layers), heads, size, per_head, rotation, weights, **more)


def selector_for(model: Any, per_head: bool = False, **more: Any) -> Selector:
    """For a model that rotates by halves with one set of frequencies, or the layers of whose kind it is asked for."""
    info = HFModelInfo(model)
    shapes = info.layer_shapes()
    (shape,) = set(shapes.values())
    embedding: Any = model.model.rotary_emb
    frequencies = getattr(embedding, "full_attention_inv_freq", None)
    rotation = Rotation(embedding.inv_freq if frequencies is None else frequencies)
    given = {"rotation": rotation, "fingerprint": info.fingerprint(), **more}
    return random_selector(sorted(shapes), shape[0], shape[1], per_head=per_head, **given)


class Files:
    """The selectors of the model with this fingerprint."""

    def __init__(self, fingerprint: str | None = None) -> None:
        self.fingerprint = fingerprint

    def selector_file(self, file: str | None) -> str:
        return str(find_selector(self.fingerprint) if file is None else file)
