"""The model that `bench vllm` runs: a shape of `shapes.py` with random weights, or one by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from laconic.cli.common import model_path
from laconic.engines.hf.shapes import get_shape, kv_bytes_per_token
from laconic.engines.hf.stored import checkpoint_fingerprint
from laconic.environment import hide_directories
from laconic.errors import InputError, reason
from laconic.selectors import look_up


@dataclass(frozen=True, slots=True)
class ServedModel:
    """name: of the shape, or where the model is. place: what vLLM loads. random: whether vLLM makes the weights itself."""

    name: str
    place: str
    random: bool
    dtype: torch.dtype
    kv_bytes_per_token: int

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name if self.random else hide_directories(self.name),
            "weights": "random" if self.random else "its own",
            "dtype": str(self.dtype).removeprefix("torch."),
            "kv_bytes_per_token": self.kv_bytes_per_token,
        }

    def selector_file(self, file: str | None) -> str:
        """See `SelectorFiles`: for policies that look one up before an engine starts, which checks that it is of this model."""
        if file is not None:
            return file
        return str(look_up(self._fingerprint))

    def _fingerprint(self) -> str:
        if self.random:
            raise InputError("those of a shape are random")
        return checkpoint_fingerprint(self.place)

    def options(self) -> dict[str, Any]:
        """Of `vllm.LLM`. No tokenizer: token ids go in and are counted when they come out."""
        return {
            "model": self.place,
            "dtype": str(self.dtype).removeprefix("torch."),
            "load_format": "dummy" if self.random else "auto",
            "skip_tokenizer_init": True,
        }


def from_shape(name: str, dtype: torch.dtype, directory: Path) -> ServedModel:
    """The shape as a directory that vLLM loads: a config alone, as vLLM fills the weights with random numbers.

    Raises InputError for an unknown shape.
    """
    shape = get_shape(name)
    config = shape.config()
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[shape.family]]
    config.save_pretrained(directory)
    return ServedModel(name, str(directory), True, dtype, kv_bytes_per_token(config, dtype))


def from_name(name: str, dtype: torch.dtype) -> ServedModel:
    """A model by its directory or name, or the bundled one. Raises InputError if its config can't be read."""
    place = model_path(name)
    try:
        config = AutoConfig.from_pretrained(place)
    except Exception as error:  # transformers and the configurations' own code raise many kinds
        raise InputError(
            f"The model {name!r} can't be read: {reason(error)}; expected a directory or a name that holds a config.json, or "
            "--shape"
        ) from error
    return ServedModel(name, place, False, dtype, kv_bytes_per_token(config, dtype))
