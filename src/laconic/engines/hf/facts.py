"""What a policy may ask of a transformers model (`Policy.for_model`)."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from laconic.compress import FullKV, Policy
from laconic.compress.kvzap_networks import KVzapNetworks
from laconic.compress.selector import Rotation, Selector
from laconic.compress.thoughts import ThoughtTokens
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.found_rotation import find_rotation
from laconic.engines.hf.kvzap_weights import read_kvzap
from laconic.engines.hf.models import text_config
from laconic.engines.hf.runner import ModelRunner
from laconic.engines.hf.thought_tokens import read_thought_tokens
from laconic.errors import InputError
from laconic.fingerprint import weights_fingerprint
from laconic.selectors import find_selector, read_selector


class HFModelInfo:
    """`ModelInfo` of a transformers model; each is looked up when it is asked for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._fingerprint: str | None = None

    @torch.inference_mode()
    def layer_shapes(self) -> Mapping[int, tuple[int, int, int]]:
        """Those of what one token leaves in the cache: no config says them for every family alike."""
        cache = CompressedCache(text_config(self.model), FullKV())
        with AttentionBinding(self.model):
            ModelRunner(self.model, FullKV()).forward(cache, [[0]])
        held = {layer.index: (layer.keys, layer.values) for layer in cache.compressed_layers}
        return {
            index: (keys.shape[1], keys.shape[3], values.shape[3])
            for index, (keys, values) in held.items()
            if keys is not None and values is not None
        }

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.model)
        return self._fingerprint

    def find_kvzap(self, place: str | None) -> KVzapNetworks:
        networks = read_kvzap(place, str(self.model.config.name_or_path or ""))
        networks.check_width(int(text_config(self.model).hidden_size))
        return networks

    def selector_file(self, file: str | None) -> str:
        path = file if file is not None else find_selector(self.fingerprint())
        return os.path.abspath(os.path.expanduser(path))

    def find_rotation(self) -> Rotation:
        found = find_rotation(self.model)
        if found.rotation is None:
            raise InputError(
                f"this model's RoPE can't be told, which the policy undoes ({found.describe()}): use another policy, "
                "such as snapkv"
            )
        return found.rotation

    def thought_tokens(self) -> ThoughtTokens:
        return read_thought_tokens(str(self.model.config.name_or_path or ""), text_config(self.model).vocab_size)

    def find_selector(self, file: str | None) -> Selector:
        return read_selector(self.selector_file(file))


def fit(policy: Policy, model: PreTrainedModel) -> Policy:
    """The policy for this model. Raises InputError if it can't run on it."""
    return policy.for_model(HFModelInfo(model))
