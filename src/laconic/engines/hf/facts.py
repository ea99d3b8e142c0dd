"""What a policy may ask of a transformers model (`Policy.for_model`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from laconic.compress import FullKV, Policy
from laconic.compress.selector import Selector
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import text_config
from laconic.fingerprint import weights_fingerprint
from laconic.selectors import find_selector, read_selector


class HFModelInfo:
    """`ModelInfo` of a transformers model; each is looked up when it is asked for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._fingerprint: str | None = None

    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        config = text_config(self.model)
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        latent = getattr(config, "kv_lora_rank", None)
        shape = (heads, size, size) if latent is None else (1, int(latent), int(config.qk_rope_head_dim))
        return {layer.index: shape for layer in CompressedCache(config, FullKV()).compressed_layers}

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.model)
        return self._fingerprint

    def find_selector(self, file: str | None) -> Selector:
        path = Path(file) if file is not None else find_selector(self.fingerprint())
        return read_selector(path)


def fit(policy: Policy, model: PreTrainedModel) -> Policy:
    """The policy for this model. Raises InputError if it can't run on it."""
    return policy.for_model(HFModelInfo(model))
