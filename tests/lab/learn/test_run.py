"""A whole run on small models: a selector that fits, the same after an interruption, and models that can't have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engines.hf.families import family
from tests.lab.learn.made import made_traces

from laconic.compress import Custom, LearnedScore, Proportional, Selector
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.facts import HFModelInfo
from laconic.errors import LaconicError
from laconic.lab.learn import harvest, run
from laconic.lab.learn.recipe import SelectorRecipe, parse_recipe
from laconic.lab.learn.run import LearnedSelector, learn_selector
from laconic.lab.shared.progress import Progress

LENGTHS = [60 + 7 * (i % 9) for i in range(30)]
QUICK = parse_recipe("group:epochs=2,delay=9")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harvest, "ROWS", 8)


def learn(name: str, directory: Path, recipe: SelectorRecipe = QUICK, **more: Any) -> LearnedSelector:
    given = {"tokens": 10**5, **more}
    return learn_selector(family(name), made_traces(LENGTHS, problems=15), recipe, directory, **given)


def same(one: Selector, other: Selector) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("spec", ["group", "layer:features=size+value"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma4", "qwen3-next", "falcon-h1"])
def test_a_selector_that_fits_its_model(name: str, spec: str, tmp_path: Path) -> None:
    recipe = parse_recipe(f"{spec}:epochs=1,delay=9" if ":" not in spec else f"{spec},epochs=1,delay=9")
    found = learn(name, tmp_path, recipe, about={"model": name})
    info = HFModelInfo(family(name))
    found.selector.check_model(info.layer_shapes(), info.fingerprint())
    assert found.selector.features == recipe.names
    assert found.selector.per_head == recipe.per_head
    assert (found.selector.rotation is not None) == ("key" in recipe.names)
    assert found.selector.recipe["model"] == name
    assert found.selector.recipe["recipe"] == recipe.spec()
    assert found.selector.recipe["tokens"] == len(found.harvest.traces())
    policy = Custom(Proportional(16, 4, 8), LearnedScore(found.selector))
    engine = HFEngine(family(name), None, policy)
    engine.generate([[5, 6, 7]], Sampling(max_new_tokens=50, temperature=0))
    assert engine.stats.evicted > 0


def test_an_interrupted_run_goes_on_to_the_same_selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn("llama", tmp_path / "whole")
    for phase, at in ((run.HARVEST, 8), (run.HARVEST, 24), (run.TRAINING, 1)):
        seen: list[Progress] = []

        def stop(event: Progress, phase: str = phase, at: int = at, seen: list[Progress] = seen) -> None:
            seen.append(event)
            if (event.phase, event.done) == (phase, at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn("llama", tmp_path / "cut", watch=stop)
        assert seen[-1].phase == phase
    read: list[Progress] = []
    monkeypatch.setattr(harvest, "observe_traces", lambda *given: pytest.fail("a trace was read again"))
    again = learn("llama", tmp_path / "cut", watch=read.append)
    assert same(again.selector, whole.selector)
    assert again.selector.recipe == whole.selector.recipe
    assert [(event.phase, event.done, event.total) for event in read][-2:] == [
        (run.TRAINING, 1, 2),
        (run.TRAINING, 2, 2),
    ]


def test_another_recipe_trains_on_the_same_harvest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = learn("llama", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(harvest, "observe_traces", lambda *given: pytest.fail("a trace was read again"))
        other = learn("llama", tmp_path, parse_recipe("layer:loss=rank,epochs=1,delay=9"))
    assert other.harvest.directory == first.harvest.directory
    for changed in ({"tokens": 1200}, {"seed": 1, "tokens": 1200}, {"recipe": parse_recipe("group:delay=11,epochs=1")}):
        assert learn("llama", tmp_path, **changed).harvest.directory != first.harvest.directory
    assert len(list(tmp_path.iterdir())) == 4


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (learn("llama", tmp_path, seed=seed, tokens=1200).selector for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("name", ["deepseek-v3"])
def test_models_that_cannot_have_one(name: str, tmp_path: Path) -> None:
    message = (
        "cache 1 KV heads with keys of 12 and values of 8: expected keys and values of one size .*latent attention"
    )
    with pytest.raises(LaconicError, match=message):
        learn(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_few_tokens(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match=r"hold 320 tokens to learn from, .* expected at least 1,000 in 2"):
        learn_selector(family("llama"), made_traces([60] * 8), QUICK, tmp_path, tokens=10**5)
    assert list(tmp_path.iterdir()) == []
