"""From a model and its traces to a selector: rotation, harvest, training. Everything that takes long is kept in a directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from laconic.compress import Selector
from laconic.compress.selector import WEIGHTS
from laconic.engines.hf.facts import HFModelInfo
from laconic.engines.hf.found_rotation import FoundRotation, find_rotation
from laconic.environment import versions
from laconic.errors import InputError
from laconic.lab.learn.check import CheckCell, SelectorCheck, check_on
from laconic.lab.learn.harvest import Harvest, digest, draw, harvest
from laconic.lab.learn.progress import PhaseProgress
from laconic.lab.learn.recipe import SelectorRecipe
from laconic.lab.learn.rotation import names_of
from laconic.lab.learn.training import TOP, LayerFit, train_layers
from laconic.lab.shared.progress import Progress, Watcher
from laconic.selectors import write_selector
from laconic.traces import TraceRecord

HARVEST, TRAINING = "reading traces", "training"
"""Phases of `Progress`."""


@dataclass(frozen=True, slots=True, eq=False)
class LearnedSelector:
    """What a run made."""

    selector: Selector
    fits: tuple[LayerFit, ...]
    rotation: FoundRotation
    harvest: Harvest


def learn_selector(
    model: PreTrainedModel,
    traces: Sequence[TraceRecord],
    recipe: SelectorRecipe,
    directory: Path,
    *,
    tokens: int,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    watch: Watcher | None = None,
) -> LearnedSelector:
    """A selector for the model, from its traces. tokens: at most so many are learned from. about: more for its recipe.

    directory: where the harvest is kept; what is there of an earlier run with the same traces and settings isn't made again.
    Raises InputError for a model whose layers can't have selectors, or too few tokens.
    """
    info = HFModelInfo(model)
    layers, heads, size = _check_shapes(info.layer_shapes(), type(model).__name__)
    found = find_rotation(model)
    features = names_of(recipe.names, found)
    drawn = draw(traces, recipe.delay, tokens, seed)
    weights = f"{info.fingerprint()} {model.dtype}"
    place = directory / f"harvest-{digest(weights, drawn, recipe.target, recipe.delay, found.rotation)}"

    def read(done: int, total: int) -> None:
        if watch is not None:
            watch(Progress("traces", done, total, phase=HARVEST))

    held = harvest(model, drawn, layers, found.rotation, recipe.target, recipe.delay, place, read)
    done = 0

    def trained(fit: LayerFit) -> None:
        nonlocal done
        done += 1
        if watch is not None:
            watch(Progress("layers", done, len(layers), phase=TRAINING))

    fits = train_layers(held, recipe, features, seed, next(model.parameters()).device, trained)
    selector = Selector(
        features=features,
        layers=layers,
        kv_heads=heads,
        head_size=size,
        per_head=recipe.per_head,
        rotation=found.rotation if "key" in features else None,
        weights={name: torch.stack([fit.weights[name] for fit in fits]) for name in WEIGHTS},
        fingerprint=info.fingerprint(),
        recipe={
            **(about or {}),
            "recipe": recipe.spec(),
            "seed": seed,
            "tokens": sum(len(each.positions) for each in drawn),
            "rotation": found.describe(),
            "hits": {"guess": TOP, **{str(fit.layer): round(fit.hit, 4) for fit in fits}},
            "versions": versions(),
        },
    )
    return LearnedSelector(selector, tuple(fits), found, held)


def learn_and_check(
    model: PreTrainedModel,
    traces: Sequence[TraceRecord],
    kept: Sequence[TraceRecord],
    recipe: SelectorRecipe,
    directory: Path,
    *,
    cell: CheckCell | None = None,
    about: Mapping[str, Any],
    progress: PhaseProgress,
    **settings: Any,
) -> tuple[LearnedSelector, SelectorCheck | None]:
    """`learn_selector`, then the check on the traces that were `kept`, whose figures stand in the selector's recipe.

    cell: see `check_on`, which returns None where no trace is long enough. settings: of `learn_selector`.
    """
    counts = {"learned": len(traces), "checked": len(kept)}
    watch = progress.phases({HARVEST: "traces", TRAINING: "layers"})
    found = learn_selector(model, traces, recipe, directory, about={**about, "traces": counts}, watch=watch, **settings)
    place = directory / f"check-{found.selector.digest()}"
    write_selector(place / "selector.safetensors", found.selector)
    check = check_on(
        model, place / "selector.safetensors", kept, place, cell, watch=progress.watcher("checking", "tokens")
    )
    told = None if check is None else check.to_json()
    selector = dataclasses.replace(found.selector, recipe={**found.selector.recipe, "check": told})
    return dataclasses.replace(found, selector=selector), check


def _check_shapes(shapes: Mapping[int, tuple[int, int, int]], name: str) -> tuple[tuple[int, ...], int, int]:
    """The layers, and KV heads and head size of all. Raises InputError where these differ, or sizes of keys and values."""
    kinds = sorted(set(shapes.values()))
    heads, key, value = kinds[0]
    if len(kinds) > 1 or key != value:
        said = ", ".join(f"{h} KV heads with keys of {k} and values of {v}" for h, k, v in kinds)
        raise InputError(
            f"the layers of {name} cache {said}: expected keys and values of one size in all layers (latent attention, as "
            "DeepSeek's, has none); choose another policy, such as rpc"
        )
    return tuple(sorted(shapes)), heads, key
