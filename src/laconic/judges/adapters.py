"""Low-rank adapters for language models, by peft (the extra `train`)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from laconic.checks import number, unwrap_numpy_fields, whole
from laconic.errors import InputError, reason


@dataclass(frozen=True, slots=True)
class LoRA:
    """An adapter on every linear layer but the output (arXiv 2106.09685)."""

    rank: int = 16
    """Of the update of each weight matrix."""
    alpha: int = 32
    """Updates are scaled by alpha / rank."""
    dropout: float = 0.05
    """Of an adapter's input, while training."""

    def __post_init__(self) -> None:
        unwrap_numpy_fields(self)
        whole("rank", self.rank, 1)
        whole("alpha", self.alpha, 1)
        number("dropout", self.dropout, 0, 0.99)


def add_adapter(model: Any, lora: LoRA) -> nn.Module:
    """The model with a new adapter, which changes nothing yet. Raises InputError where peft is missing."""
    peft = _peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def load_adapter(model: nn.Module, directory: Path) -> None:
    """Put an adapter's saved weights into a model that has an adapter of the same form."""
    path = directory / "adapter_model.safetensors"
    if not path.is_file():
        raise InputError(
            f"{directory} has no {path.name}; expected the adapter of an LLM judge: copy the whole directory"
        )
    again = "copy the whole directory of the judge again, and give the base that it was tuned on"
    try:
        found = _peft().set_peft_model_state_dict(model, load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"the adapter {path} can't be put into its base: {reason(error)}; {again}") from error
    lacking = [name for name in found.missing_keys if "lora_" in name]
    if lacking or found.unexpected_keys:
        raise InputError(
            f"the adapter {path} is of another base: it has "
            + (f"nothing for {lacking[0]}" if lacking else f"{found.unexpected_keys[0]}, which this one lacks")
            + f"; {again}"
        )


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise InputError("LoRA needs the package peft: install laconic-llm[train], or tune all weights") from error
