"""What the engine has to know of the model that vLLM runs: its context, its vocabulary, the size of its KV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of one vLLM that has started."""

    context: int
    """Tokens of a prompt and its answer together (vLLM's `max_model_len`)."""
    vocabulary: int
    """Token ids are below this."""
    bytes_per_token: int
    """Bytes of a token's KV, over the full-attention layers, all devices together."""
    reserved_bytes: int
    """Bytes of vLLM's KV cache."""


def facts_of(vllm_config: Any) -> ModelFacts:
    """Of a VllmConfig whose engine has started."""
    from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

    model, cache = vllm_config.model_config, vllm_config.cache_config
    text = model.hf_text_config
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    width = 1 if model.use_mla else 2 * model.get_total_num_kv_heads()  # MLA stores one vector a token, for all heads
    size = kv_cache_dtype_str_to_dtype(cache.cache_dtype, model).itemsize
    per_token = kinds.count("full_attention") * width * model.get_head_size() * size
    return ModelFacts(
        context=model.max_model_len,
        vocabulary=model.get_vocab_size(),
        bytes_per_token=per_token,
        reserved_bytes=(cache.num_gpu_blocks or 0) * cache.block_size * per_token,
    )
