"""KVzap's networks with random weights, in the form in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from laconic.compress import KVzapNetworks


def random_tensors(layers: int = 2, heads: int = 2, width: int = 32, hidden: int | None = 12) -> dict[str, Tensor]:
    """hidden: units between two maps; None: linear."""
    source = torch.Generator().manual_seed(layers + width)
    shapes = [("", width, heads)] if hidden is None else [("0.", width, hidden), ("2.", hidden, heads)]
    return {
        f"layers.{i}.{part}{kind}": torch.randn(*shape, generator=source)
        for i in range(layers)
        for part, inner, outer in shapes
        for kind, shape in (("weight", (outer, inner)), ("bias", (outer,)))
    }


def config_of(layers: int = 2, heads: int = 2, width: int = 32, hidden: int | None = 12) -> dict[str, object]:
    return {
        "model_type": "kvzap",
        "input_dim": width,
        "output_dim": heads,
        "hidden_dim": hidden,
        "n_modules": layers,
    }


def random_networks(layers: int = 2, heads: int = 2, width: int = 32, hidden: int | None = 12) -> KVzapNetworks:
    sizes = layers, heads, width, hidden
    return KVzapNetworks.of(config_of(*sizes), random_tensors(*sizes))


def write_kvzap(folder: Path, layers: int = 2, heads: int = 2, width: int = 32, hidden: int | None = 12) -> Path:
    sizes = layers, heads, width, hidden
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(*sizes)))
    save_file(random_tensors(*sizes), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
