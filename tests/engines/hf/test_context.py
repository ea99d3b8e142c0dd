"""The context that a config allows: published configs in their own words, and what engines then take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MptConfig,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen3Config,
)

import laconic
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.context import context_of
from laconic.errors import LaconicError
from tests.engines.hf.families import COMMON, VOCAB
from tests.engines.hf.tokens import tokenizer

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN_OF_GPT_OSS = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}


def llama(stated: int, **scaling: Any) -> PreTrainedConfig:
    return LlamaConfig(max_position_embeddings=stated, rope_parameters={"rope_theta": 1e4, **scaling})


def phi3(stated: int, **more: Any) -> PreTrainedConfig:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [4.0] * 48, **more}
    return Phi3Config(max_position_embeddings=stated, original_max_position_embeddings=4096, rope_parameters=rope)


@pytest.mark.parametrize(
    ("config", "context"),
    [
        pytest.param(llama(4096), 4096, id="no scaling"),
        pytest.param(llama(4096, rope_type="linear", factor=4.0), 16384, id="linear, Vicuna 16k"),
        pytest.param(llama(4096, rope_type="dynamic", factor=2.0), 8192, id="dynamic"),
        pytest.param(
            llama(131072, **LLAMA3, factor=32.0, original_max_position_embeddings=8192), 131072, id="Llama 3.2"
        ),
        pytest.param(llama(8192, **LLAMA3, factor=8.0), 65536, id="llama3, unscaled"),
        pytest.param(
            Qwen3Config(
                max_position_embeddings=32768,
                rope_parameters={**YARN, "original_max_position_embeddings": 32768},
            ),
            131072,
            id="yarn, unscaled as Qwen2.5's page says",
        ),
        pytest.param(
            Qwen3Config(max_position_embeddings=32768, rope_parameters=dict(YARN)), 131072, id="yarn, no original"
        ),
        pytest.param(
            Qwen3Config(
                max_position_embeddings=40960,
                rope_parameters={**YARN, "original_max_position_embeddings": 32768},
            ),
            131072,
            id="yarn, between, as Qwen3's page says",
        ),
        pytest.param(
            llama(163840, rope_type="yarn", factor=40.0, original_max_position_embeddings=4096),
            163840,
            id="yarn, scaled, DeepSeek-V3",
        ),
        pytest.param(phi3(131072), 131072, id="longrope without a factor, Phi-3"),
        pytest.param(phi3(4096, factor=32.0), 131072, id="longrope, unscaled"),
        pytest.param(
            Gemma3TextConfig(
                max_position_embeddings=131072,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                },
            ),
            131072,
            id="Gemma 3, scaled",
        ),
        pytest.param(
            Olmo3Config(
                max_position_embeddings=8192,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
                    "full_attention": {**YARN, "factor": 8.0},
                },
            ),
            65536,
            id="by layer type",
        ),
        pytest.param(llama(1024, **YARN_OF_GPT_OSS), 1024, id="less than the original, which somebody meant"),
        pytest.param(GPT2Config(n_positions=77), 77, id="learned positions"),
        pytest.param(MptConfig(max_seq_len=55), 55, id="MPT's own name"),
        pytest.param(BloomConfig(), None, id="ALiBi"),
        pytest.param(MambaConfig(), None, id="state space"),
    ],
)
def test_contexts(config: PreTrainedConfig, context: int | None) -> None:
    assert context_of(config) == context


def test_a_prompt_that_generate_takes_is_taken() -> None:
    """A YaRN model whose config states 32 positions: prompts of up to 127 tokens run, and traces end at 128."""
    torch.manual_seed(0)
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    model = LlamaForCausalLM(LlamaConfig(**(COMMON | {"max_position_embeddings": 32}), rope_parameters=rope)).eval()
    model.generation_config.eos_token_id = None
    prompt = torch.randint(3, VOCAB, (1, 60))
    greedy: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    plain = model.generate(prompt, max_new_tokens=30, **greedy)[0, 60:].tolist()
    with laconic.compress(model, laconic.FullKV()):
        assert model.generate(prompt, max_new_tokens=30, **greedy)[0, 60:].tolist() == plain
    engine = HFEngine(model, tokenizer())
    (name,) = engine.submit(prompt[0].tolist(), Sampling(max_new_tokens=1000, temperature=0))
    assert list(engine.stream())
    trace = engine.trace(name)
    assert trace.token_ids[:30] == plain
    assert len(trace.token_ids) == 128 - 60
    with pytest.raises(LaconicError, match="has 128 tokens, but the model's context is 128"):
        engine.submit([1] * 128, Sampling(max_new_tokens=1))
