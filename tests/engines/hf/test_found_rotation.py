"""The rotation of keys, found by trying: on every family, on others by neighbours and in part, and on models without any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from laconic.compress import FullKV
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.facts import HFModelInfo
from laconic.engines.hf.found_rotation import FoundRotation, find_rotation
from laconic.errors import LaconicError
from tests.engines.hf.families import COMMON, FAMILIES, family

WITHOUT = {"deepseek-v3", "zamba2"}  # latents, and a model whose attention knows no positions
PARTIAL = {"qwen3-next": 1}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_rotation(name: str) -> None:
    found = find_rotation(family(name))
    assert found.fits
    if name in WITHOUT:
        assert found.rotation is None
        return
    assert found.rotation is not None
    assert found.rotation.halves or name in PARTIAL
    size = 256 if name == "gemma4" else PARTIAL.get(name, 4)
    assert len(found.rotation.frequencies) == size


def other(kind: str) -> Any:
    torch.manual_seed(3)
    made: Any
    if kind == "cohere":
        made = CohereForCausalLM(CohereConfig(**COMMON))
    elif kind == "glm4":
        made = Glm4ForCausalLM(Glm4Config(**COMMON, head_dim=8))
    elif kind == "gpt-neox":
        made = GPTNeoXForCausalLM(GPTNeoXConfig(**{**COMMON, "rotary_pct": 0.5}))
    elif kind == "smollm3":
        made = SmolLM3ForCausalLM(SmolLM3Config(**{**COMMON, "num_hidden_layers": 4}, no_rope_layers=[1, 1, 1, 0]))
    else:
        made = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_positions=256, n_embd=32, n_layer=2, n_head=4))
    with torch.no_grad():
        for key, weight in made.eval().named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25 if "embed" not in key else 1.0)
    return made


@pytest.mark.parametrize(
    ("kind", "frequencies", "halves"), [("cohere", 4, False), ("glm4", 2, False), ("gpt-neox", 2, True)]
)
def test_neighbours_and_parts_of_a_key(kind: str, frequencies: int, halves: bool) -> None:
    found = find_rotation(other(kind))
    assert found.fits
    assert found.rotation is not None
    assert (len(found.rotation.frequencies), found.rotation.halves) == (frequencies, halves)


@pytest.mark.parametrize("kind", ["gpt2", "smollm3"])  # positions that are learned; layers with RoPE and layers without
def test_where_no_rotation_fits_keys_are_not_read(kind: str) -> None:
    found = find_rotation(other(kind))
    assert not found.fits
    assert found.rotation is None
    assert "keys are not read" in found.describe()
    with pytest.raises(LaconicError, match=r"this model's RoPE can't be told, .*use another policy, such as snapkv"):
        HFModelInfo(other(kind)).find_rotation()


def test_words_for_it() -> None:
    assert find_rotation(family("llama")).describe() == "RoPE over 8 numbers of a key, by halves"
    assert FoundRotation(None, True).describe().startswith("none: keys do not depend")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_and_is_told_all_the_same(dtype: torch.dtype) -> None:
    model: Any = other("cohere").to(dtype)
    found = find_rotation(model)
    assert found.rotation is not None
    assert not found.rotation.halves


def test_a_repeated_token_has_equal_keys_in_the_first_layer_once_turned_back() -> None:
    """In a text, too: its keys there depend on the token alone."""
    model = family("llama")
    cache = CompressedCache(model.config, FullKV())
    with AttentionBinding(model), torch.no_grad():
        model(torch.full((1, 40), 7), past_key_values=cache)
    keys, found = cache.compressed_layers[0].keys, find_rotation(model)
    assert keys is not None
    assert found.rotation is not None
    back = found.rotation.undo(keys, torch.arange(40))
    torch.testing.assert_close(back, back[:, :, :1].expand_as(back), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(keys, keys[:, :, :1].expand_as(keys), atol=0.1)
