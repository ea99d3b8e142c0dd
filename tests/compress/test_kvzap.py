"""KVzap: its networks against loops, what they refuse, and the policy as text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laconic.compress import RPC, Evidence, KVzap, KVzapNetworks, KVzapScore, Proportional, parse
from laconic.compress.selector import GRID
from laconic.errors import LaconicError
from tests.reference import scorers
from tests.reference.kvzap import config_of, random_networks, random_tensors


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("layer", [0, 2])
def test_networks_say_what_loops_say(hidden: int | None, layer: int) -> None:
    networks = random_networks(3, 4, 7, hidden)
    assert (networks.width, networks.kv_heads) == (7, 4)
    states = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))
    scores = KVzapScore(networks).note(layer, states)
    assert scores.shape == (2, 4, 6)
    assert scores.dtype == torch.float32
    for b in range(2):
        want = [scorers.kvzap(state, networks.layers[layer]) for state in states[b].tolist()]
        torch.testing.assert_close(scores[b].T, torch.tensor(want), rtol=0, atol=GRID)
    half = KVzapScore(networks).note(layer, states.bfloat16())
    assert torch.equal(half, KVzapScore(networks).note(layer, states.bfloat16().float()))


def test_the_score_is_what_was_noted() -> None:
    mass = torch.tensor([[[torch.nan, 1.0, 2.0], [torch.inf, 3.0, -4.0]]])
    valid = torch.tensor([[False, True, True]])
    given = Evidence(None, torch.zeros(1, 2, 4, 1), 1.0, valid, torch.zeros(1, 2, 3, dtype=torch.long), mass=mass)
    assert KVzapScore().score(given).tolist() == [[[0.0, 1.0, 2.0], [0.0, 3.0, -4.0]]]


def test_what_it_asks_of_an_engine() -> None:
    scorer = KVzap().scorer
    assert scorer is not None
    assert scorer.reads_inputs
    assert scorer.aggregation == "group"
    assert not any([scorer.queries, scorer.accumulates, scorer.reads_values, scorer.reads_prompt])
    assert KVzap(interval=8, ratio=2, window=4).schedule == Proportional(8, 2, 4)
    with pytest.raises(LaconicError, match="policy kvzap has not been given its networks: run it on a model"):
        scorer.note(0, torch.zeros(1, 1, 8))
    with pytest.raises(LaconicError, match="WindowAttention notes nothing"):
        RPC().scorer.note(0, torch.zeros(1, 1, 8))  # type: ignore[union-attr]


def test_as_text() -> None:
    assert parse("kvzap") == KVzap()
    policy = parse("kvzap:nvidia/KVzap-linear-Qwen3-8B,ratio=8")
    assert policy == KVzap("nvidia/KVzap-linear-Qwen3-8B", ratio=8)
    assert parse(policy.spec()) == policy


@pytest.mark.parametrize(
    ("config", "lost", "said"),
    [
        ({"model_type": "bert"}, None, "its config.json is of the type 'bert'; expected kvzap"),
        ({"n_modules": 0}, None, "n_modules is 0; expected a whole number of at least 1"),
        ({"n_modules": None}, None, "n_modules is None"),
        ({"n_modules": 3}, None, "its weights lack layers.2.0.weight; fetch them again"),
        ({"hidden_dim": None}, None, "its weights lack layers.0.weight"),
        ({}, "layers.1.2.bias", "its weights lack layers.1.2.bias"),
    ],
)
def test_folders_of_another_kind(config: dict[str, Any], lost: str | None, said: str) -> None:
    tensors = {name: tensor for name, tensor in random_tensors().items() if name != lost}
    with pytest.raises(LaconicError, match=said):
        KVzapNetworks.of(config_of() | config, tensors)


@pytest.mark.parametrize(
    "shapes",
    [[(2, 3)], [(2, 3), (3,)], [(2, 3, 1), (2,)], [(4, 3), (4,), (2, 5), (2,)], [(2, 3), (2,), (2, 2)], []],
)
def test_weights_that_do_not_fit(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(LaconicError, match=r"network of layer 0 has weights of \[.*\], which don't fit together"):
        KVzapNetworks((tuple(torch.zeros(shape) for shape in shapes),))


def test_networks_of_no_layer() -> None:
    with pytest.raises(LaconicError, match=r"layers is \(\); expected KVzap's tuple of networks"):
        KVzapNetworks(())
