"""What a model's weights and a token of its cache take, read from its config: no weights are made or loaded.

The model is built on torch's meta device, where tensors have a shape and no memory, and fed one token: its cache then shows
what each layer keeps. So nothing is known here of model families, and what is told is what the engine will allocate.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig, cache_utils

from laconic.checks import instance, word
from laconic.compress import FullKV
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.checkpoint import WeightsSize, stored_weights
from laconic.engines.hf.loading import load_config, quiet
from laconic.engines.hf.models import cache_argument, check_decoder, check_model, context_length, text_config
from laconic.errors import InputError, LaconicError

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}
"""Bytes of a number; float8 is for vLLM's quantized cache."""

# What a layer keeps, by the class that transformers gives it; other classes keep something that isn't known here.
KINDS: dict[str, str] = {
    "DynamicLayer": "full attention",
    "DynamicIndexedLayer": "indexed attention",
    "DynamicSlidingWindowLayer": "sliding window",
    "LinearAttentionLayer": "linear",
    "LinearAttentionAndFullAttentionLayer": "linear and full attention",
    "LinearAttentionAndSlidingWindowAttentionLayer": "linear and sliding window",
    "DummyLayer": "no KV of its own",
}


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers of one kind, and what all of them together take for one trace."""

    kind: str
    """As in KINDS; "latents" where keys and values are the latents of MLA."""
    count: int
    """Of layers."""
    kv_heads: int = 0
    """Of a layer's cache; 0: it has none."""
    key_width: int = 0
    """Of one head's keys in a layer's cache."""
    value_width: int = 0
    """Of one head's values in a layer's cache."""
    bytes_per_token: int = 0
    """Of KV, over the group's layers."""
    window: int | None = None
    """Tokens that a layer holds at most; None: all."""
    state_bytes: int = 0
    """That don't depend on the length."""
    compressible: bool = False
    """Whether policies evict from them."""
    query_width: int = 0
    """Of a query head, wider or narrower than a latent."""

    def bytes_at(self, tokens: int) -> int:
        """Held for one trace of so many tokens, of which none was evicted."""
        held = tokens if self.window is None else min(tokens, self.window)
        return held * self.bytes_per_token + self.state_bytes


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a model takes."""

    model: str
    dtype: str
    """Of keys and values."""
    layers: tuple[LayerGroup, ...]
    weights: WeightsSize
    query_heads: int
    """Of a layer."""
    context: int | None
    """Tokens that the model was made for; None: unknown."""

    @property
    def compressible(self) -> tuple[LayerGroup, ...]:
        return tuple(group for group in self.layers if group.compressible)

    @property
    def bytes_per_token(self) -> int:
        """Of KV, all layers, while no window is full."""
        return sum(group.bytes_per_token for group in self.layers)


def sizes_of(model: str | os.PathLike[str] | PretrainedConfig, dtype: str = "auto") -> ModelSizes:
    """The sizes of a model: a directory, a name on the Hub, a config.json, or a config.

    dtype: of keys and values; auto is that of the weights, which is the config's (float32 where it says none). Weights are
    counted in the files where they lie beside the config, else in the config's shapes.

    Raises InputError for a model that can't be read, is no decoder, has no KV cache, or one of a kind that isn't known.
    """
    word("dtype", dtype, ("auto", *DTYPES))
    instance("model", model, (str, os.PathLike, PretrainedConfig), "a directory, a name on the Hub, or a config")
    name = model.name_or_path or type(model).__name__ if isinstance(model, PretrainedConfig) else os.fspath(model)
    config = model if isinstance(model, PretrainedConfig) else load_config(name)
    check_decoder(config, name)
    built, cache = _build_and_feed(copy.deepcopy(config), name)
    found = str(built.dtype).removeprefix("torch.")
    stored = None if isinstance(model, PretrainedConfig) else stored_weights(name)
    quantized = getattr(config, "quantization_config", None) is not None
    return ModelSizes(
        model=name,
        dtype=found if dtype == "auto" else dtype,
        layers=_group_layers(built, cache, DTYPES[dtype] if dtype != "auto" else None, name),
        weights=stored if stored is not None else _count_weights(built, found, quantized),
        query_heads=int(getattr(text_config(built), "num_attention_heads", 0) or 0),
        context=context_length(built),
    )


def _build_and_feed(config: PretrainedConfig, name: str) -> tuple[Any, DynamicCache]:
    """The model without memory, and its cache after one token."""
    # The way of running experts that asks no tensor for what it holds: here none holds anything.
    config._experts_implementation = "batched_mm"
    try:
        with quiet(), torch.device("meta"), torch.inference_mode():
            built = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers and the models' own code raise many kinds
        raise InputError(f"{name} can't be built from its config: {_error_text(error)}") from error
    check_model(built)
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if type(layer).__name__ not in KINDS or type(layer) is not getattr(cache_utils, type(layer).__name__):
            raise InputError(
                f"the cache of {name} can't be counted: what its {type(layer).__name__} keeps depends on more than the length"
            )
    token = torch.zeros((1, 1), dtype=torch.long, device="meta")
    try:
        with quiet(), torch.inference_mode():
            built(input_ids=token, use_cache=True, **{cache_argument(built): cache})
    except Exception as error:  # see above; some models' steps depend on what tensors hold
        raise InputError(
            f"the cache of {name} can't be counted from its config, without weights: {_error_text(error)}"
        ) from error
    return built, cache


def _group_layers(built: Any, cache: DynamicCache, item: int | None, name: str) -> tuple[LayerGroup, ...]:
    """Layers of one shape together, in the order of their first."""
    try:
        plain = {layer.index for layer in CompressedCache(text_config(built), FullKV()).compressed_layers}
    except LaconicError:
        plain = set()
    found: dict[LayerGroup, int] = {}
    for index, layer in enumerate(cache.layers):
        one = _read_layer(layer, item, index in plain, getattr(text_config(built), "qk_head_dim", None))
        found[one] = found.get(one, 0) + 1
    if not any(one.bytes_per_token for one in found):
        raise InputError(f"{name} has no layer that holds keys and values, so there is nothing to plan")
    return tuple(
        replace(one, count=n, bytes_per_token=n * one.bytes_per_token, state_bytes=n * one.state_bytes)
        for one, n in found.items()
    )


def _read_layer(layer: Any, item: int | None, compressible: bool, query_width: int | None) -> LayerGroup:
    """One layer that has seen one token. query_width: of a model with latents."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    one = LayerGroup(
        KINDS[type(layer).__name__], 1, state_bytes=sum(s.numel() * s.element_size() for s in states if s is not None)
    )
    if keys is None or values is None:
        return one
    size = item or keys.element_size()
    heads, key_width, value_width = keys.shape[1], keys.shape[3], values.shape[3]
    per_token = heads * (key_width + value_width) * size
    more = getattr(layer, "indexer_keys", None)
    if more is not None:
        per_token += more.numel() * more.element_size()
    window = getattr(layer, "sliding_window", None)
    latent = heads == 1 and key_width != value_width
    return replace(
        one,
        kind="latents" if one.kind == "full attention" and latent else one.kind,
        kv_heads=heads,
        key_width=key_width,
        value_width=value_width,
        bytes_per_token=per_token,
        window=None if window is None else window - 1,
        compressible=compressible,
        query_width=(latent and query_width) or key_width,
    )


def _count_weights(built: Any, dtype: str, quantized: bool) -> WeightsSize:
    """Weights by the model's shapes; what is tied is there once."""
    total = sum(p.numel() * p.element_size() for p in built.parameters())
    return WeightsSize(total, sum(p.numel() for p in built.parameters()), "config", dtype, quantized)


def _error_text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def total_bytes(layers: Sequence[LayerGroup], tokens: int) -> int:
    return sum(group.bytes_at(tokens) for group in layers)
