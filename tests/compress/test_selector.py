"""A selector: RoPE undone as the models do it, features and scores as loops make them, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import CohereConfig, LlamaConfig
from transformers.models.cohere.modeling_cohere import CohereRotaryEmbedding
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as rotate_neighbours
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from laconic.compress.selector import FEATURES, GRID, Rotation, Selector, check_selector
from laconic.errors import LaconicError
from tests.reference import scorers as reference
from tests.reference.selectors import random_selector

D = 16
SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": D}
POSITIONS = torch.tensor([[0, 1, 2, 7, 100, 4095], [3, 3, 9, 11, 12, 30000]])


def keys(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_undoing_what_llama_does() -> None:
    embedding: Any = LlamaRotaryEmbedding(LlamaConfig(**SIZES))
    raw = keys(2, 2, 6, D)
    turned = rotate_halves(raw, raw, *embedding(raw, POSITIONS))[1]
    back = Rotation(embedding.inv_freq).undo(turned, POSITIONS[:, None])
    torch.testing.assert_close(back, raw, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(turned, raw, atol=1e-1)
    assert not torch.allclose(
        Rotation(embedding.inv_freq, halves=False).undo(turned, POSITIONS[:, None]), raw, atol=1e-1
    )


def test_undoing_what_cohere_does() -> None:
    """Neighbours instead of halves."""
    embedding: Any = CohereRotaryEmbedding(CohereConfig(**SIZES))
    raw = keys(2, 2, 6, D)
    turned = rotate_neighbours(raw, raw, *embedding(raw, POSITIONS))[1]
    back = Rotation(embedding.inv_freq, halves=False).undo(turned, POSITIONS[:, None])
    torch.testing.assert_close(back, raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("rotated", [D // 2, 3, 1])
def test_undoing_by_hand_in_part_and_in_any_format(halves: bool, rotated: int) -> None:
    frequencies = torch.tensor([1.0, 0.3, 0.01, 2e-4, 1e-5, 0.7, 0.02, 0.5])[:rotated]
    given = keys(1, 2, 6, D).bfloat16()
    back = Rotation(frequencies, halves).undo(given, POSITIONS[:1, None])
    assert back.dtype == torch.float32
    for head in range(2):
        for i, position in enumerate(POSITIONS[0].tolist()):
            want = reference.unrotated(given[0, head, i].tolist(), position, frequencies.tolist(), halves)
            torch.testing.assert_close(back[0, head, i], torch.tensor(want), rtol=1e-4, atol=2e-3)
    assert torch.equal(back[..., 2 * rotated :], given[..., 2 * rotated :].float())


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("rotation", [None, Rotation(torch.tensor([1.0, 0.1, 0.01]), False)], ids=["none", "rope"])
@pytest.mark.parametrize("features", [FEATURES, ("size",), ("value", "key"), ("value", "size")], ids="-".join)
def test_features_and_scores_are_those_of_loops(
    features: tuple[str, ...], rotation: Rotation | None, per_head: bool
) -> None:
    G, T, size = 3, 7, 8
    made = random_selector((0, 4), G, size, features, per_head, rotation)
    k, v = keys(2, G, T, size), keys(2, G, T, size, seed=2)
    v[0, 0, 0] = 0  # of which there is no logarithm
    at = torch.arange(T) * 3 + torch.tensor([5, 90])[:, None]
    read, scores = made.read(k, v, at[:, None]), made.score(4, k, v, at[:, None])
    assert read.shape == (2, G if per_head else 1, T, made.width)
    assert scores.shape == (2, G if per_head else 1, T)
    assert read.dtype == scores.dtype == torch.float32
    for b in range(2):
        each = [at[b].tolist()] * G
        want = reference.learned(k[b].tolist(), v[b].tolist(), T, each, made, 4, per_head)
        torch.testing.assert_close(scores[b], torch.tensor(want), rtol=0, atol=GRID)


def test_each_heads_own_positions() -> None:
    """After an eviction that each KV head chose for itself, slot i of two heads are two tokens."""
    made = random_selector((0,), 2, 8, ("key",), True, Rotation(torch.tensor([0.5, 0.2])))
    k, at = keys(1, 2, 4, 8), torch.tensor([[[1, 2, 5, 6], [3, 4, 5, 9]]])
    together = made.score(0, k, k, at)
    want = reference.learned(k[0].tolist(), k[0].tolist(), 4, at[0].tolist(), made, 0, True)
    torch.testing.assert_close(together[0], torch.tensor(want), rtol=0, atol=GRID)


def test_equal_tokens_score_the_same_wherever_they_stand() -> None:
    """As in a model's first layer; the rounding of RoPE is below the grid."""
    turn = Rotation(torch.tensor([1.0, 0.31, 0.0017]))
    made = random_selector((0,), 2, 8, rotation=turn)
    raw, at = keys(1, 2, 1, 8).expand(-1, -1, 60, -1), torch.arange(60)[None, None] * 7
    backwards = Rotation(-turn.frequencies)
    scores = made.score(0, backwards.undo(raw, at), raw, at)
    assert len(scores.unique()) == 1
    assert torch.equal(scores / GRID, (scores / GRID).round())


def test_formats_of_the_cache_make_little_difference() -> None:
    made = random_selector((0,), 2, 8, rotation=Rotation(torch.tensor([0.5, 0.2])))
    k, at = keys(1, 2, 5, 8).bfloat16(), torch.arange(5)[None, None]
    assert torch.equal(made.score(0, k, k, at), made.score(0, k.float(), k.float(), at))


def test_a_layer_without_a_network_and_other_shapes_are_refused() -> None:
    made = random_selector((1, 3))
    right, at = keys(1, 2, 4, 8), torch.arange(4)[None, None]
    with pytest.raises(LaconicError, match=r"no network for layer 0; expected one of \[1, 3\]"):
        made.score(0, right, right, at)
    for wrong in (keys(1, 3, 4, 8), keys(1, 2, 4, 6)):
        with pytest.raises(LaconicError, match=r"layer 1 caches keys .*; the selector expects 2 KV heads of 8"):
            made.score(1, wrong, wrong, at)
    with pytest.raises(LaconicError, match="the selector expects 2 KV heads of 8"):
        made.score(1, right, keys(1, 2, 4, 6), at)


@pytest.mark.parametrize(
    ("shapes", "fingerprint", "message"),
    [
        ({0: (2, 8, 8), 1: (2, 8, 8)}, "abc", None),
        ({0: (2, 8, 8), 1: (2, 8, 8)}, None, None),
        ({0: (2, 8, 8)}, "abc", r"with a full-attention layer 1, this one's are \[0\]"),
        ({0: (2, 8, 8), 1: (2, 8, 8), 2: (2, 8, 8)}, "abc", "layer 2 has 2 KV heads .* of 2 layers with 2 of 8"),
        ({0: (2, 8, 8), 1: (4, 8, 8)}, "abc", "layer 1 has 4 KV heads with keys of 8 and values of 8"),
        ({0: (2, 8, 6), 1: (2, 8, 6)}, "abc", "layer 0 has 2 KV heads with keys of 8 and values of 6"),
        ({0: (2, 8, 8), 1: (2, 8, 8)}, "abd", "with the fingerprint abc, this one's is abd: expected a selector that"),
    ],
)
def test_whether_it_is_of_a_model(shapes: dict[int, Any], fingerprint: str | None, message: str | None) -> None:
    made = random_selector((0, 1), fingerprint="abc")
    if message is None:
        made.check_model(shapes, fingerprint)
        return
    with pytest.raises(LaconicError, match=message):
        made.check_model(shapes, fingerprint)


def test_one_of_unknown_weights_goes_by_its_shape() -> None:
    random_selector((0,)).check_model({0: (2, 8, 8)}, "abc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ("key", "colour")}, "features is 'colour'; expected one of key, value, size"),
        ({"features": ()}, "features is .* at least one"),
        ({"layers": (2, 1)}, r"layers is \(2, 1\); expected the model's indices of layers, ascending"),
        ({"layers": (1, 1)}, "ascending"),
        ({"kv_heads": 3}, r"mean of the selector's weights has shape \(3, 1, 36\); expected \(3, 1, 54\)"),
        ({"head_size": 4, "rotation": Rotation(torch.ones(3))}, "rotation turns 6 numbers of a key; .* head_size 4"),
        ({"weights": {}}, "weights lack mean, scale, weight_in, bias_in, weight_out, bias_out; make it again"),
    ],
)
def test_parts_that_do_not_fit_together(change: dict[str, Any], message: str) -> None:
    made = random_selector()
    parts = {name: getattr(made, name) for name in made.__dataclass_fields__} | change
    with pytest.raises(LaconicError, match=message):
        Selector(**parts)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight_in", torch.tensor(1.0), "weight_in of the selector's weights has shape|mean .* has shape"),
        ("bias_out", torch.zeros(3, 2), r"bias_out of the selector's weights has shape \(3, 2\); expected \(3, 1\)"),
        ("scale", torch.full((3, 1, 36), torch.nan), "scale of the selector's weights is not finite; make it again"),
    ],
)
def test_weights_that_do_not_fit(name: str, tensor: torch.Tensor, message: str) -> None:
    made = random_selector()
    parts = {field: getattr(made, field) for field in made.__dataclass_fields__}
    with pytest.raises(LaconicError, match=message):
        Selector(**parts | {"weights": {**made.weights, name: tensor}})


def test_a_copy_is_as_good() -> None:
    made = random_selector((0,))
    k, at = keys(1, 2, 4, 8), torch.arange(4)[None, None]
    want = made.score(0, k, k, at)  # whose weights are on a device from here on
    assert torch.equal(copy.deepcopy(made).score(0, k, k, at), want)
    assert check_selector(made) is made
    with pytest.raises(LaconicError, match="selector is 5; expected a Selector, as laconic learn makes them"):
        check_selector(5)
