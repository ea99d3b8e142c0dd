"""The embedded engine: any transformers decoder that goes through the attention interface, with no code per model."""

import os

from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.engine import HFEngine
from laconic.engines.hf.generation import Compression, compress
from laconic.engines.hf.loading import load
from laconic.engines.hf.rotation import fixed_rotation

__all__ = ["CompressedCache", "Compression", "HFEngine", "compress", "fixed_rotation", "load", "open_engine"]


def open_engine(
    name_or_path: str | os.PathLike[str], dtype: str = "auto", device: str = "auto", **settings: object
) -> HFEngine:
    """`load` a model and put an HFEngine on it; settings go to HFEngine."""
    model, tokenizer = load(name_or_path, dtype=dtype, device=device)
    return HFEngine(model, tokenizer, **settings)  # type: ignore[arg-type]
