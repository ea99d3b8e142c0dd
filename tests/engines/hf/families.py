"""Small random models of the families that laconic is checked on."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    Zamba2Config,
    Zamba2ForCausalLM,
)

from laconic.engines.hf import CompressedCache, Compression

if TYPE_CHECKING:

    class Decoder(PreTrainedModel):
        """A model with `generate`, whose own types no model of transformers meets in mypy's eyes."""

        def generate(self, *args: Any, **kwargs: Any) -> Any: ...


VOCAB = 96
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
MOE: dict[str, Any] = {"num_experts_per_tok": 2}
QWEN3_MOE: dict[str, Any] = {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 24}
HYBRID: dict[str, Any] = {"sliding_window": 16, "num_hidden_layers": 3}
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
# Every second layer attends to everything, and the last two read the keys and values of the first two.
SHARING: dict[str, Any] = {
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 8,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "tie_word_embeddings": False,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 12,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 10,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
MAMBA: dict[str, Any] = {"mamba_d_state": 8}
ZAMBA: dict[str, Any] = {"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_headdim": 16}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}

FAMILIES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "qwen2": (Qwen2ForCausalLM, lambda: Qwen2Config(**COMMON)),
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(**COMMON, head_dim=8)),
    "qwen3-moe": (
        Qwen3MoeForCausalLM,
        lambda: Qwen3MoeConfig(**COMMON, **MOE, **QWEN3_MOE),
    ),
    "llama": (LlamaForCausalLM, lambda: LlamaConfig(**COMMON)),
    "mistral": (MistralForCausalLM, lambda: MistralConfig(**COMMON, sliding_window=None)),
    "phi3": (Phi3ForCausalLM, lambda: Phi3Config(**COMMON)),
    "gemma3": (
        Gemma3ForCausalLM,
        lambda: Gemma3TextConfig(
            **{**COMMON, **HYBRID}, head_dim=8, query_pre_attn_scalar=8, layer_types=TYPES, tie_word_embeddings=False
        ),
    ),
    "gpt-oss": (
        GptOssForCausalLM,
        lambda: GptOssConfig(**{**COMMON, **HYBRID}, **MOE, head_dim=8, num_local_experts=4, layer_types=TYPES),
    ),
    "gemma3n": (
        Gemma3nForCausalLM,
        lambda: Gemma3nTextConfig(**{**COMMON, **SHARING}, altup_num_inputs=2, laurel_rank=8),
    ),
    "gemma4": (Gemma4ForCausalLM, lambda: Gemma4TextConfig(**{**COMMON, **SHARING})),
    "diffllama": (DiffLlamaForCausalLM, lambda: DiffLlamaConfig(**COMMON)),  # attends twice
    "deepseek-v3": (DeepseekV3ForCausalLM, lambda: DeepseekV3Config(**{**COMMON, **LATENT}, **MOE)),
    "qwen3-next": (
        Qwen3NextForCausalLM,
        lambda: Qwen3NextConfig(
            **COMMON,
            **MOE,
            **LINEAR,
            head_dim=8,
            num_experts=4,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
        ),
    ),
    "falcon-h1": (  # attention and a linear state in one layer
        FalconH1ForCausalLM,
        lambda: FalconH1Config(
            **COMMON, **MAMBA, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_chunk_size=8
        ),
    ),
    "zamba2": (
        Zamba2ForCausalLM,
        lambda: Zamba2Config(
            **{**COMMON, "num_key_value_heads": 4},
            **MAMBA,
            **ZAMBA,
            layers_block_type=["mamba", "hybrid"],
            n_mamba_heads=4,
            mamba_ngroups=1,
            chunk_size=8,
            num_mem_blocks=1,
            use_shared_attention_adapter=False,
            tie_word_embeddings=False,
        ),
    ),
}
HYBRIDS = ("gemma3", "gpt-oss")
READ_AGAIN = ("gemma3n", "gemma4", "diffllama")  # keys and values are read again in the pass that wrote them


@cache
def family(name: str) -> Decoder:
    """A random float32 model, the same at every call. Weights are large enough that greedy text is not one token repeated."""
    cls, config = FAMILIES[name]
    torch.manual_seed(7)
    model = cls(config()).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25 if "embed" not in key else 1.0)
            elif "sinks" in key:
                weight.normal_(0, 1.0)
    return cast("Decoder", model)


def cache_of(run: Compression) -> CompressedCache:
    """The cache of a run that has generated."""
    assert run.cache is not None
    return run.cache


def prompts(lengths: list[int], seed: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def padded(rows: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    """input_ids and attention_mask of a batch, padded with 0."""
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        pad = [0] * (width - len(row))
        ids.append(pad + row if side == "left" else row + pad)
        ones = [1] * len(row)
        mask.append(pad + ones if side == "left" else ones + pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
