"""Training the networks of a selector, a layer at a time: all heads of a layer at once, from one harvest.

Everything follows from the harvest, the recipe and the seed (on one machine, with one number of threads).

Shapes: g networks (1, or one for each of G KV heads), N tokens, F features, U hidden units, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from laconic.compress.selector import SMALLEST, WEIGHTS, features_of
from laconic.errors import InputError
from laconic.lab.learn.harvest import Harvest
from laconic.lab.learn.recipe import SelectorRecipe

BATCH, STEPS = 2048, 24
"""Tokens a step at most, and steps that an epoch has at least where there are few tokens."""
DECAY = 1e-4
HELD_OUT = 0.1
TOP = 0.25
"""The share of tokens that counts as worth keeping."""
FLOOR = 1e-3
"""Added to a feature's deviation, so that one that hardly varies isn't blown up."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerFit:
    """One layer's networks."""

    layer: int
    """The model's index."""
    weights: dict[str, Tensor]
    """As `Selector.weights`, of this layer: fp32 [g, ...], on the CPU."""
    hit: float
    """Of the top quarter of held-out tokens, the share that the networks put into theirs; a guess hits a quarter."""
    epoch: int
    """The epoch that did best, from 1."""


def train_layers(
    harvest: Harvest,
    recipe: SelectorRecipe,
    features: Sequence[str],
    seed: int,
    device: torch.device,
    watch: Callable[[LayerFit], None] | None = None,
) -> list[LayerFit]:
    """The networks of every layer. features: the recipe's that can be read of this model. watch: told of each layer."""
    held_out = hold_out(harvest.traces(), seed)
    found = []
    for layer in harvest.layers:
        keys, values, paid = harvest.layer(layer)
        x = features_of(features, keys[None], values[None], recipe.per_head)[0]
        y = targets(paid, values, recipe)
        weights, hit, epoch = fit_networks(x.to(device), y.to(device), held_out.to(device), recipe, seed)
        found.append(LayerFit(layer, weights, hit, epoch))
        if watch is not None:
            watch(found[-1])
    return found


def hold_out(traces: Tensor, seed: int) -> Tensor:
    """bool [N]: tokens of a tenth of the traces, at least one, which choose the epoch. traces: long [N]."""
    names = traces.unique()
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return torch.isin(traces, names[order[: max(1, int(len(names) * HELD_OUT))]])


def targets(paid: Tensor, values: Tensor, recipe: SelectorRecipe) -> Tensor:
    """What networks are to tell, fp32 [g, N]: the logarithm of what later tokens paid, by the values' sizes where the recipe
    says so; of a layer's heads the largest, or the mean. paid: [G, N]; values: [G, N, D]."""
    found = paid.clamp(min=SMALLEST).log()
    if recipe.weighted:
        found = found + values.norm(dim=-1).clamp(min=SMALLEST).log()
    if recipe.per_head:
        return found
    if recipe.target == "largest":
        return found.amax(0, keepdim=True)
    return found.exp().mean(0, keepdim=True).log()


def fit_networks(
    x: Tensor, y: Tensor, held_out: Tensor, recipe: SelectorRecipe, seed: int
) -> tuple[dict[str, Tensor], float, int]:
    """Weights, hit and epoch as `LayerFit` has them. x: fp32 [g, N, F]; y: fp32 [g, N]; held_out: bool [N]."""
    g, _, F = x.shape
    device, units = x.device, recipe.hidden
    learned, checked = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    if len(learned) < 2:
        raise InputError(
            f"{len(learned)} of {len(held_out):,} tokens are left to learn from, since the others are of traces that are held "
            "out; expected at least 2: give more traces, or traces of one length"
        )
    mean = x[:, learned].mean(1)
    scale = 1 / (x[:, learned].std(1) + FLOOR)
    x = (x - mean[:, None]) * scale[:, None]
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        noise = torch.randn(g, *shape, generator=generator) / shape[0] ** 0.5
        return noise.to(device).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(g, *shape, device=device, requires_grad=True)

    weights = [drawn(F, units), zeros(units), drawn(units), zeros()]
    loss = _loss(recipe, y, learned)
    batch = min(BATCH, max(1, len(learned) // STEPS))
    each = len(learned) // batch
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.epochs * each + 1)
    best: tuple[float, int, list[Tensor]] = (-1.0, 0, [])
    for epoch in range(1, recipe.epochs + 1):
        order = learned[torch.randperm(len(learned), generator=generator).to(device)]
        for index in order[: each * batch].split(batch):
            shuffled = torch.randperm(batch, generator=generator).to(device)
            optimizer.zero_grad(set_to_none=True)
            loss(_scores(weights, x[:, index]), index, shuffled).backward()
            optimizer.step()
            rate.step()
        with torch.no_grad():
            hit = top_hits(_scores(weights, x[:, checked]), y[:, checked])
        if hit > best[0]:
            best = (hit, epoch, [w.detach().clone() for w in weights])
    named = zip(WEIGHTS, (mean, scale, *best[2]), strict=True)
    return {name: tensor.float().cpu() for name, tensor in named}, best[0], best[1]


def _scores(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """[g, N], as `Selector.score` computes them. x: standardised, [g, N, F]."""
    weight_in, bias_in, weight_out, bias_out = weights
    hidden = torch.baddbmm(bias_in[:, None], x, weight_in).relu()
    return (hidden @ weight_out[..., None]).squeeze(-1) + bias_out[:, None]


def _loss(recipe: SelectorRecipe, y: Tensor, learned: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function of scores [g, B], which tokens they are of, and these shuffled: the networks' losses, summed."""
    center, deviation = y[:, learned].mean(1, keepdim=True), y[:, learned].std(1, keepdim=True).clamp(min=SMALLEST)
    level = (y - center) / deviation
    if recipe.loss == "quarter":
        below = max(1, int(len(learned) * (1 - TOP)))
        wanted = (y > y[:, learned].kthvalue(below, dim=1, keepdim=True).values).float()
        return lambda scores, at, shuffled: len(y) * functional.binary_cross_entropy_with_logits(scores, wanted[:, at])
    if recipe.loss == "squared":
        return lambda scores, at, shuffled: (scores - level[:, at]).square().mean(1).sum()

    def rank(scores: Tensor, at: Tensor, shuffled: Tensor) -> Tensor:
        """Each token against another one of the batch; pairs that are far apart count more."""
        apart = level[:, at] - level[:, at[shuffled]]
        wrong = functional.softplus(-(scores - scores[:, shuffled]) * apart.sign())
        return (wrong * apart.abs().clamp(max=2)).mean(1).sum()

    return rank


def top_hits(scores: Tensor, y: Tensor) -> float:
    """Of the top quarter by y, the share in the top quarter by scores, both [g, N]; mean over the networks."""
    count = max(1, int(y.shape[1] * TOP))
    wanted = torch.zeros_like(y).scatter_(1, y.topk(count, dim=1).indices, 1.0)
    return float(wanted.gather(1, scores.topk(count, dim=1).indices).mean())
