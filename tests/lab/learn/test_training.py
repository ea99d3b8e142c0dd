"""Training: what can be told is learned, the same again from the same seed, and the selector scores as its networks did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from laconic.compress.selector import WEIGHTS, Selector
from laconic.errors import LaconicError
from laconic.lab.learn.harvest import Harvest
from laconic.lab.learn.recipe import SelectorRecipe, parse_recipe
from laconic.lab.learn.training import LayerFit, fit_networks, hold_out, targets, top_hits, train_layers

LAYERS, G, D, N, TRACES = (1, 3), 2, 6, 3000, 20
CPU = torch.device("cpu")


@pytest.fixture
def made(tmp_path: Path) -> Harvest:
    """Attention that follows from a token's key and value, by other rules for each layer and head, in two files."""
    source = torch.Generator().manual_seed(2)
    keys, values = (torch.randn(2, G, N, D, generator=source) for _ in range(2))
    rules = torch.randn(2, G, 2 * D, generator=source)
    told = torch.cat((keys, values), dim=-1) @ rules[..., None]
    paid = (1.5 * told[..., 0] - 6 + 0.1 * torch.randn(2, G, N, generator=source)).exp()
    trace = torch.arange(N) * TRACES // N
    files = []
    for number, part in enumerate((slice(0, 1000), slice(1000, N))):
        files.append(tmp_path / f"part-{number}.safetensors")
        held = {"keys": keys[:, :, part].bfloat16(), "values": values[:, :, part].bfloat16(), "paid": paid[:, :, part]}
        held["trace"] = trace[part]
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, files[-1])
    return Harvest(tmp_path, files, LAYERS)


def train(made: Harvest, spec: str, seed: int = 0) -> list[LayerFit]:
    recipe = parse_recipe(spec)
    return train_layers(made, recipe, recipe.names, seed, CPU)


@pytest.mark.parametrize("loss", ["quarter", "squared", "rank"])
@pytest.mark.parametrize("name", ["group", "layer"])
def test_what_can_be_told_is_learned(made: Harvest, name: str, loss: str) -> None:
    told: list[LayerFit] = []
    recipe = parse_recipe(f"{name}:loss={loss},weighted=false,epochs=12,hidden=32,rate=0.02")
    fits = train_layers(made, recipe, recipe.names, 0, CPU, told.append)
    assert fits == told
    assert [fit.layer for fit in fits] == [1, 3]
    for fit in fits:
        assert fit.hit > (0.9 if name == "group" else 0.75)
        assert 1 <= fit.epoch <= 12
        assert fit.weights["weight_in"].shape == ((2, 2 * D, 32) if name == "group" else (1, 4 * D, 32))
        assert set(fit.weights) == set(WEIGHTS)


def test_what_cannot_be_told_is_not(made: Harvest) -> None:
    """Sizes alone say next to nothing here."""
    for fit in train(made, "group:features=size,weighted=false,epochs=3"):
        assert fit.hit < 0.45


def test_the_seed_decides(made: Harvest) -> None:
    first, again, other = (train(made, "group:epochs=2", seed) for seed in (3, 3, 4))
    for one, two, three in zip(first, again, other, strict=True):
        assert all(torch.equal(one.weights[name], two.weights[name]) for name in WEIGHTS)
        assert (one.hit, one.epoch) == (two.hit, two.epoch)
        assert not torch.equal(one.weights["weight_in"], three.weights["weight_in"])


@pytest.mark.parametrize("name", ["group", "layer"])
def test_a_selector_scores_as_its_networks_did(made: Harvest, name: str) -> None:
    recipe = parse_recipe(f"{name}:features=value+size+key,epochs=4")
    fits = train(made, recipe.spec())
    weights = {key: torch.stack([fit.weights[key] for fit in fits]) for key in WEIGHTS}
    selector = Selector(recipe.names, LAYERS, G, D, recipe.per_head, None, weights)
    held = hold_out(made.traces(), 0)
    for fit in fits:
        keys, values, paid = made.layer(fit.layer)
        scores = selector.score(fit.layer, keys[None], values[None], torch.arange(N)[None, None])[0]
        assert top_hits(scores[:, held], targets(paid, values, recipe)[:, held]) == pytest.approx(fit.hit, abs=0.03)


def test_held_out_tokens_are_those_of_whole_traces() -> None:
    traces = torch.arange(600) // 30
    held = hold_out(traces, 0)
    assert len(traces[held].unique()) == 2
    assert int(held.sum()) == 60
    assert torch.equal(held, hold_out(traces, 0))
    assert len({tuple(traces[hold_out(traces, seed)].unique().tolist()) for seed in range(9)}) > 3
    assert int(hold_out(torch.tensor([5, 5, 9]), 0).sum()) in (1, 2)  # at least one trace


def test_targets() -> None:
    paid = torch.tensor([[0.1, 0.0], [0.4, 0.2]])
    values = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    plain: Tensor = torch.tensor([[0.1, 1e-6], [0.4, 0.2]]).log()
    weighed = torch.tensor([[0.5, 1e-6], [0.4e-6, 0.4]]).log()
    for spec, want in (
        ("group:weighted=false", plain),
        ("group", weighed),
        ("layer:weighted=false", plain.amax(0, keepdim=True)),
        ("layer", weighed.amax(0, keepdim=True)),
        ("layer:target=mean,weighted=false", plain.exp().mean(0, keepdim=True).log()),
        ("group:target=mean", weighed),
    ):
        torch.testing.assert_close(targets(paid, values, parse_recipe(spec)), want)


def test_hits_of_the_top_quarter() -> None:
    y = torch.arange(8.0)[None]
    assert top_hits(y, y) == 1
    assert top_hits(-y, y) == 0
    assert top_hits(torch.tensor([[0, 0, 0, 0, 0, 9.0, 1, 8]]), y) == 0.5


def test_too_few_tokens_to_learn_from_are_refused() -> None:
    """A deviation of one token is no number, and neither were the weights."""
    x = torch.randn(1, 40, 3)
    with pytest.raises(LaconicError, match="1 of 40 tokens are left to learn from"):
        fit_networks(x, x[:, :, 0], torch.arange(40) >= 1, SelectorRecipe(epochs=2), 0)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    x = torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(1))
    x[:, :, 2] = 7.0
    held = torch.arange(400) >= 360
    weights, hit, _ = fit_networks(x, x[:, :, 0], held, SelectorRecipe(epochs=30, rate=0.02), 0)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert hit > 0.8
