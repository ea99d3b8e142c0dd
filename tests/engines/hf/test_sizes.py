"""Sizes from configs: published figures, what files say, and sentences for what can't be counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    DeepseekV3Config,
    Gemma3nTextConfig,
    GptOssConfig,
    LlamaConfig,
    LongcatFlashConfig,
    Mamba2Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3NextConfig,
    T5Config,
)

from laconic.assets import reasoner_path
from laconic.engines.hf.sizes import LayerGroup, sizes_of
from laconic.errors import LaconicError
from tests.engines.hf.families import FAMILIES

BF16: dict[str, Any] = {"dtype": torch.bfloat16}
LLAMA_8B: dict[str, Any] = {  # Llama-3.1-8B and R1-Distill-Llama-8B
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
QWEN_7B: dict[str, Any] = {  # Qwen2.5-7B and R1-Distill-Qwen-7B
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "per_token", "parameters"),
    [
        (LlamaConfig(**LLAMA_8B, **BF16), 131_072, 8_030_261_248),
        (Qwen2Config(**QWEN_7B, **BF16), 57_344, 7_615_616_512),
    ],
)
def test_published_shapes(config: PretrainedConfig, per_token: int, parameters: int) -> None:
    found = sizes_of(config)
    assert found.bytes_per_token == per_token
    assert sum(group.count for group in found.layers) == config.num_hidden_layers
    assert (found.weights.parameters, found.weights.bytes) == (parameters, 2 * parameters)
    assert (found.weights.source, found.weights.dtype, found.dtype) == ("config", "bfloat16", "bfloat16")
    assert sizes_of(config, "float8").bytes_per_token == per_token // 2
    assert sizes_of(config, "float32").bytes_per_token == per_token * 2
    assert config.dtype == torch.bfloat16, "the config that was given is not changed"


def test_windows_beside_full_attention() -> None:
    # gpt-oss-20b: every other layer sees 128 tokens, of which the newest is not held yet when a step begins.
    found = sizes_of(GptOssConfig(num_hidden_layers=24, num_local_experts=4, **BF16))
    assert found.layers == (
        LayerGroup("sliding window", 12, 8, 64, 64, 12 * 2048, 127, query_width=64),
        LayerGroup("full attention", 12, 8, 64, 64, 12 * 2048, None, compressible=True, query_width=64),
    )


def test_latents() -> None:
    found = sizes_of(DeepseekV3Config(num_hidden_layers=61, n_routed_experts=16, **BF16))
    (only,) = found.layers
    assert (only.kind, only.count, only.bytes_per_token) == ("latents", 61, 61 * (512 + 64) * 2)
    assert (only.key_width, only.query_width) == (512, 128 + 64)


def test_layers_that_share_hold_none() -> None:
    found = {group.kind: group for group in sizes_of(Gemma3nTextConfig(**BF16)).layers}
    assert found["no KV of its own"] == LayerGroup("no KV of its own", 15)
    assert {kind: group.count for kind, group in found.items() if group.bytes_per_token} == {
        "sliding window": 16,
        "full attention": 4,
    }
    assert found["full attention"].bytes_per_token == 4 * 2 * 2 * 256 * 2


def test_states_do_not_grow() -> None:
    found = {group.kind: group for group in sizes_of(Qwen3NextConfig(num_experts=16, **BF16)).layers}
    linear = found["linear"]
    # 36 layers, each a convolution of 8,192 channels by 4 in bfloat16 and 32 heads of 128 by 128 in float32.
    assert (linear.count, linear.state_bytes) == (36, 36 * (8192 * 4 * 2 + 32 * 128 * 128 * 4))
    assert (linear.bytes_at(1), linear.bytes_at(10**6)) == (linear.state_bytes, linear.state_bytes)
    assert found["full attention"].bytes_per_token == 12 * 2 * 2 * 256 * 2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_counted(name: str) -> None:
    config = FAMILIES[name][1]()
    found = sizes_of(config)
    assert sum(group.count for group in found.layers) == config.num_hidden_layers
    assert found.dtype == "float32", "where the config says nothing"


def test_weights_of_files_and_of_the_config_alone(tmp_path: Path) -> None:
    place = reasoner_path()
    stored = sizes_of(place)
    assert (stored.weights.source, stored.weights.parameters) == ("files", 1_533_504)
    assert stored.weights.bytes == 4 * 1_533_504
    assert sizes_of(place / "config.json") == replace(stored, model=str(place / "config.json"))
    alone = tmp_path / "config.json"
    alone.write_text((place / "config.json").read_text())
    counted = sizes_of(alone)
    assert counted.weights.source == "config"
    assert counted.weights.bytes == stored.weights.bytes
    assert counted.layers == stored.layers


def test_the_index_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((reasoner_path() / "config.json").read_text())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 123, "total_parameters": 60}, "weight_map": {}}))
    weights = sizes_of(tmp_path).weights
    assert (weights.bytes, weights.parameters, weights.source) == (123, 60, "files")
    index.write_text(json.dumps({"metadata": {"total_size": 123}}))
    assert sizes_of(tmp_path).weights.parameters is None
    for broken in ("{}", "no", '{"metadata": {"total_size": "x"}}'):
        index.write_text(broken)
        with pytest.raises(LaconicError, match="says no total_size"):
            sizes_of(tmp_path)
    index.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(LaconicError, match="is no safetensors file"):
        sizes_of(tmp_path)


def test_a_quantized_checkpoint_without_files_is_told() -> None:
    config = FAMILIES["qwen2"][1]()
    assert not sizes_of(config).weights.quantized
    config.quantization_config = {"quant_method": "fp8"}
    assert sizes_of(config).weights.quantized


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("/nowhere/at/all", "there is no model at /nowhere/at/all"),
        ("org/not-in-the-cache", "the configuration of org/not-in-the-cache can't be loaded"),
        (5, "model is 5; expected a directory, a name on the Hub, or a config"),
        (T5Config(), "is an encoder-decoder"),
        (BertConfig(), "is an encoder"),
        (Mamba2Config(num_hidden_layers=2), "has no layer that holds keys and values"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(model: Any, said: str) -> None:
    with pytest.raises(LaconicError, match=said) as caught:
        sizes_of(model)
    assert "\n" not in str(caught.value)


def test_a_model_whose_step_fails_without_weights_is_refused() -> None:
    config = LongcatFlashConfig(num_layers=2, n_routed_experts=4, zero_expert_num=2)
    with pytest.raises(LaconicError, match="can't be counted from its config, without weights: "):
        sizes_of(config)


def test_an_unknown_kind_of_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import cache_utils

    class Odd(cache_utils.DynamicLayer):
        pass

    monkeypatch.setitem(cache_utils.DYNAMIC_LAYER_TYPE_MAPPING, "full_attention", Odd)
    with pytest.raises(LaconicError, match="what its Odd keeps depends on more than the length"):
        sizes_of(FAMILIES["qwen2"][1]())


def test_the_number_format_is_a_word() -> None:
    with pytest.raises(LaconicError, match="dtype is 'int8'; expected one of auto, float32"):
        sizes_of(FAMILIES["qwen2"][1](), "int8")
