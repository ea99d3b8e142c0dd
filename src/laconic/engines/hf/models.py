"""What laconic has to know of a transformers model: whether it can be run, its context, its attention implementation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from laconic.engines.hf.context import context_of
from laconic.engines.requests import check_length
from laconic.errors import InputError


def text_config(model: PreTrainedModel) -> Any:
    """The configuration of the decoder, of a model that sees pictures too, say."""
    return model.config.get_text_config(decoder=True)


def check_model(model: Any) -> None:
    """InputError unless `model` is a decoder-only transformers model that can generate."""
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"model is a {type(model).__name__}; expected a transformers PreTrainedModel that generates text"
        )
    if not model.can_generate():
        raise InputError(
            f"{type(model).__name__} can't generate text; load the causal-LM class, for example AutoModelForCausalLM"
        )
    check_decoder(model.config, type(model).__name__)
    if not type(model)._supports_default_dynamic_cache():  # type: ignore[attr-defined]
        raise InputError(
            f"{type(model).__name__} keeps a cache of its own class instead of transformers' DynamicCache, so laconic can't "
            "compress it"
        )


def check_decoder(config: PretrainedConfig, name: str) -> None:
    """InputError for an encoder, or an encoder-decoder."""
    if config.is_encoder_decoder:
        raise InputError(f"{name} is an encoder-decoder ({config.model_type}); laconic runs decoder-only models")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        # BERT and its like would load as causal models of a kind, but were trained to see both ways.
        raise InputError(
            f"{name} is an encoder ({config.model_type}); laconic runs decoder-only models that generate text"
        )


def cache_argument(model: nn.Module) -> str:
    """What the model's `forward` calls the cache: `cache`, or `past_key_values` before transformers 5.24."""
    return _cache_argument(type(model).forward)


@cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens the model was made for, RoPE scaling included, or None if its config does not say."""
    return context_of(text_config(model))


def check_prompt_fits(model: PreTrainedModel, prompt: int) -> None:
    """InputError unless a prompt of so many tokens leaves room in the model's context for one more."""
    check_length(prompt, context_length(model))


def attention_of(model: PreTrainedModel) -> str:
    """The name of the model's attention implementation, "eager" or one that transformers has registered."""
    name = model.config.get_text_config(decoder=True)._attn_implementation or "eager"
    if name != "eager" and name not in ALL_ATTENTION_FUNCTIONS:
        raise InputError(f"the model's attention implementation {name!r} is not one that transformers has registered")
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise InputError(
            f"the attention implementation {name!r} brings no mask of its own, which laconic needs: "
            "load the model with attn_implementation='sdpa' or 'eager'"
        )
    return name


def eager_attention_of(module: nn.Module) -> Callable[..., tuple[Tensor, Any]]:
    """The modeling file's own eager attention (GPT-OSS's knows its sinks, Gemma's its soft cap)."""
    for cls in type(module).__mro__:
        found = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise InputError(f"{type(module).__name__} has no eager attention that laconic could call")


def switch_attention(model: PreTrainedModel, name: str) -> None:
    """Make the model's decoder attend by the implementation `name`. Raises InputError for a model that does not heed it."""
    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        model.set_attn_implementation(name)
    else:
        key = next(k for k in model.config.sub_configs if getattr(model.config, k) is text)
        model.set_attn_implementation({key: name})
    if text._attn_implementation != name:
        raise InputError(
            f"{type(model).__name__} does not go through transformers' attention interface, so laconic can't see its queries; "
            "models written for transformers 5 do"
        )
