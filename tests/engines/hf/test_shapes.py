"""Shapes are the published ones, and random weights make models that run."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from laconic.engines.hf.shapes import (
    SHAPES,
    Shape,
    build,
    get_shape,
    kv_bytes_per_token,
    parameter_count,
    pick_device,
    resolve_dtype,
    weight_bytes,
)
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from tests.engines.hf.families import Decoder

CPU = torch.device("cpu")

# From the published checkpoints' index files: total size in bfloat16 over 2.
PUBLISHED = {
    "r1-distill-qwen-7b": 7_615_616_512,
    "qwq-32b": 32_763_876_352,
    "r1-distill-llama-8b": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_number_of_parameters(name: str) -> None:
    assert parameter_count(SHAPES[name]) == PUBLISHED[name]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def small(request: pytest.FixtureRequest) -> Shape:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 512,
        "tie_word_embeddings": request.param == "llama",
    }
    return Shape("small", request.param, "", settings)


def test_built_models_have_every_weight_and_buffer(small: Shape) -> None:
    model = build(small, torch.float32, CPU)
    reference = AutoModelForCausalLM.from_config(small.config())
    ours, theirs = dict(model.named_buffers()), dict(reference.named_buffers())
    assert ours.keys() == theirs.keys()
    assert ours  # the rotary frequencies at least
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    shapes = {name: tuple(p.shape) for name, p in reference.named_parameters()}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == shapes
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert float(parameter.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.25), name
    with torch.inference_mode():
        logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()
    assert logits.std() > 0
    out = cast("Decoder", model).generate(torch.tensor([[1, 2, 3]]), max_new_tokens=20, do_sample=False)
    assert out.shape == (1, 23)  # nothing ends it early


def table_of(model: PreTrainedModel) -> torch.Tensor:
    """The embeddings of its tokens."""
    return model.get_input_embeddings().get_parameter("weight")


def test_one_seed_one_model(small: Shape) -> None:
    first, second, other = (build(small, torch.float32, CPU, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(table_of(first), table_of(other))


def test_bytes_are_those_of_the_tensors(small: Shape) -> None:
    model = build(small, torch.bfloat16, CPU)
    table = table_of(model)
    everything = sum(p.numel() * 2 for p in model.parameters())
    tied = small.settings["tie_word_embeddings"]
    assert weight_bytes(model) == everything - (0 if tied else table.numel() * 2)
    with torch.inference_mode():
        cache = model(torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_bytes_per_token(model.config, torch.bfloat16) * 5 == held


def test_the_small_shapes_are_bound_by_what_they_say() -> None:
    kv, weights = SHAPES["tiny-kv"], SHAPES["tiny-weights"]
    assert 8 * 4096 * kv_bytes_per_token(kv.config(), torch.float32) > 30 * 4 * parameter_count(kv)
    assert 600 * kv_bytes_per_token(weights.config(), torch.float32) < 0.01 * 4 * parameter_count(weights)


def test_number_formats_and_devices() -> None:
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float16", CPU) == torch.float16
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: get_shape("gpt-5"), "qwq-32b, r1-distill-llama-8b, qwen3-8b, tiny-kv, tiny-weights"),
        (lambda: resolve_dtype("int3", CPU), "float32, bfloat16, float16"),
        (lambda: pick_device("abacus"), "'abacus' can't be used here"),
    ],
)
def test_bad_input_is_one_sentence(call, word: str) -> None:
    with pytest.raises(LaconicError, match=word) as error:
        call()
    assert "\n" not in str(error.value)
