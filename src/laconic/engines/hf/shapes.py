"""Model shapes by name: the configs of published models, and small ones that are bound by one thing. Weights are
random.

Speed and memory depend on shapes and number formats, not on what weights say, so a benchmark needs no download.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from laconic import checks
from laconic.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """One model's config. family: transformers' model type; about: a line for people; settings: the config's fields."""

    name: str
    family: str
    about: str
    settings: dict[str, Any]

    def config(self) -> PretrainedConfig:
        """A fresh config without end tokens, so that every run reaches its length."""
        config = AutoConfig.for_model(self.family, **self.settings)
        config.bos_token_id = config.eos_token_id = config.pad_token_id = None
        return config


def _shape(name: str, family: str, about: str, **settings: Any) -> Shape:
    return Shape(name, family, about, settings)


_ALL = (
    _shape(
        "r1-distill-qwen-7b",
        "qwen2",
        "DeepSeek-R1-Distill-Qwen-7B: 7.6 B parameters, 4 KV heads",
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
        max_position_embeddings=131072,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    ),
    _shape(
        "qwq-32b",
        "qwen2",
        "QwQ-32B: 32.8 B parameters, 8 KV heads",
        hidden_size=5120,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        intermediate_size=27648,
        vocab_size=152064,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    _shape(
        "r1-distill-llama-8b",
        "llama",
        "DeepSeek-R1-Distill-Llama-8B: 8.0 B parameters, 8 KV heads",
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        vocab_size=128256,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    _shape(
        "qwen3-8b",
        "qwen3",
        "Qwen3-8B: 8.2 B parameters, 8 KV heads",
        hidden_size=4096,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=12288,
        vocab_size=151936,
        max_position_embeddings=40960,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    ),
    _shape(
        "tiny-kv",
        "llama",
        "3 M parameters and 16 KiB of KV a token in float32: bound by KV from a few thousand tokens on, on a CPU",
        hidden_size=256,
        num_hidden_layers=2,  # few and wide layers: a step's fixed cost on a CPU goes by the number of operations
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=64,
        intermediate_size=512,
        vocab_size=512,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
    ),
    _shape(
        "tiny-weights",
        "llama",
        "108 M parameters and 4 KiB of KV a token in float32: bound by weights, on a CPU",
        hidden_size=1024,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=1,
        head_dim=64,
        intermediate_size=3584,
        vocab_size=2048,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
    ),
    _shape(
        "tiny-steps",
        "qwen2",
        "1 M parameters and 1 KiB of KV a token in float32: bound by what a step costs whatever it computes, on a CPU",
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        intermediate_size=512,
        vocab_size=512,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
    ),
)
SHAPES: dict[str, Shape] = {shape.name: shape for shape in _ALL}


def get_shape(name: str) -> Shape:
    """The shape of that name. Raises InputError that lists the known ones."""
    if checks.text("shape", name, f"one of {', '.join(SHAPES)}") not in SHAPES:
        raise InputError(f"The shape {name!r} is unknown; expected one of {', '.join(SHAPES)}")
    return SHAPES[name]


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises InputError for a device that can't be used here."""
    from laconic.engines.hf.loading import pick_device as pick

    return pick(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU. Raises InputError that lists the known ones."""
    checks.instance("dtype", name, str, f"auto, {', '.join(DTYPES)}")
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise InputError(f"The number format is {name!r}; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def build(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """The shape with random weights, made on the device itself.

    Weights are normal with the config's initializer range, drawn in place: transformers' own initialisation would first
    make and then draw every tensor again, which takes minutes for 32 B parameters.
    """
    config = shape.config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
    _fill_rotations(model, device)
    model.tie_weights()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def _fill_rotations(model: PreTrainedModel, device: torch.device) -> None:
    """Buffers that the config determines (the rotary frequencies) came from the meta device empty: make them anew."""
    for module in model.modules():
        if list(module.children()) or not list(module.buffers(recurse=False)):
            continue
        with torch.device(device):
            fresh = type(module)(config=model.config)
        for name, buffer in fresh.named_buffers(recurse=False):
            module.register_buffer(name, buffer, persistent=False)


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of weights that one decoding step reads: all but an embedding table that only looks rows up.

    A tied table is read whole, as the output layer.
    """
    tables: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    tied = model.get_output_embeddings().weight is tables
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return total - (0 if tied else tables.numel() * tables.element_size())


def kv_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes, over all layers."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * dtype.itemsize)


def parameter_count(shape: Shape) -> int:
    """Parameters of a shape, counted without making them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    return sum(parameter.numel() for parameter in model.parameters())
