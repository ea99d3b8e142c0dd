"""The policy `learned` on transformers: against the slow reference, in ragged batches, stopped and resumed, and refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.compress import FullKV, Learned, LearnedScore
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, compress
from laconic.engines.hf.facts import HFModelInfo, fit
from laconic.errors import LaconicError
from laconic.selectors import place_of, write_selector
from tests.engines.hf.families import FAMILIES, family, padded, prompts
from tests.reference.generation import reference_generate
from tests.reference.selectors import selector_for

PLAIN = ("llama", "qwen3", "gemma3", "gpt-oss")
SHAPES = {
    "llama": {0: (2, 8, 8), 1: (2, 8, 8)},
    "gemma3": {1: (2, 8, 8)},
    "gemma4": {1: (2, 512, 512)},  # whose full-attention layers have heads of their own size; the last two read others
    "deepseek-v3": {0: (1, 12, 8), 1: (1, 12, 8)},
    "qwen3-next": {1: (2, 8, 8)},
    "falcon-h1": {0: (2, 8, 8), 1: (2, 8, 8)},
}


def learned(name: str, path: Path, per_head: bool = False, **settings: Any) -> Learned:
    """The policy with a random selector for a family's model, in a file."""
    file = path / f"{name}-{per_head}.safetensors"
    write_selector(file, selector_for(family(name), per_head))
    return Learned(str(file), **{"interval": 16, "window": 8, **settings})


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_cache(name: str) -> None:
    assert HFModelInfo(family(name)).layer_shapes() == SHAPES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_says_its_shapes(name: str) -> None:
    info = HFModelInfo(family(name))
    assert info.layer_shapes()
    assert info.fingerprint() == info.fingerprint()


@pytest.mark.parametrize(("per_head", "fading"), [(False, 0), (True, 0), (True, 2)])
@pytest.mark.parametrize("name", PLAIN)
def test_tokens_are_those_of_the_slow_reference(name: str, per_head: bool, fading: float, tmp_path: Path) -> None:
    model, policy = family(name), learned(name, tmp_path, per_head, fading=fading)
    rows = prompts([12, 3])
    inputs = padded(rows)
    with compress(model, policy) as run:
        ours = model.generate(**inputs, max_new_tokens=90, do_sample=False)
    assert run.stats.evicted > 0
    assert not torch.equal(ours, model.generate(**inputs, max_new_tokens=90, do_sample=False))
    for i, row in enumerate(rows):
        want = reference_generate(model, torch.tensor([row]), fit(policy, model), 90, row=i)
        assert ours[i, inputs["input_ids"].shape[1] :].tolist() == want


@pytest.mark.parametrize(("per_head", "fading"), [(False, 0), (True, 0), (False, 2)])
@pytest.mark.parametrize("name", PLAIN)
def test_rows_that_join_and_leave_at_other_counts_change_nothing(
    name: str, per_head: bool, fading: float, tmp_path: Path
) -> None:
    policy = learned(name, tmp_path, per_head, fading=fading)
    rows, lengths = prompts([12, 3, 9, 17, 30], seed=5), [70, 41, 90, 25, 66]
    samplings = [Sampling(max_new_tokens=n, temperature=0) for n in lengths]
    engine = HFEngine(family(name), None, policy, max_batch=3)
    ids = [engine.submit(row, sampling)[0] for row, sampling in zip(rows, samplings, strict=True)]
    for _ in engine.stream():
        pass
    assert engine.stats.evicted == sum(policy.schedule.evicted(n - 1) for n in lengths) > 0
    for i, row, sampling in zip(ids, rows, samplings, strict=True):
        alone = HFEngine(family(name), None, policy).generate([row], sampling)[0][0]
        assert engine.trace(i).token_ids == alone.token_ids


@pytest.mark.parametrize("per_head", [False, True])
def test_stopping_and_resuming_gives_the_same_text(per_head: bool, tmp_path: Path) -> None:
    policy = learned("qwen3", tmp_path, per_head)
    rows, sampling = prompts([12, 3, 17]), Sampling(max_new_tokens=100, temperature=0.8, seed=3)
    engine, whole = (HFEngine(family("qwen3"), None, policy, max_batch=4) for _ in range(2))
    ids = [engine.submit(row, sampling)[0] for row in rows]
    rng, stopped = random.Random(1), 0
    while any(engine.trace(i).state != "finished" for i in ids):
        for i in ids:
            if engine.trace(i).state == "stopped":
                engine.resume(i)
        for _ in engine.stream():
            if rng.random() < 0.05:
                engine.stop(rng.choice(ids))
                stopped += 1
    assert stopped > 2
    assert [engine.trace(i).token_ids for i in ids] == [t[0].token_ids for t in whole.generate(rows, sampling)]


@pytest.mark.parametrize("name", PLAIN)
def test_a_ratio_of_one_gives_full_kvs_tokens(name: str, tmp_path: Path) -> None:
    policy = learned(name, tmp_path, ratio=1)
    rows, sampling = prompts([12, 3, 9]), Sampling(max_new_tokens=80, temperature=0.8, seed=3)
    got, full = (HFEngine(family(name), None, p).generate(rows, sampling) for p in (policy, FullKV()))
    assert [t[0].token_ids for t in got] == [t[0].token_ids for t in full]
    inputs = padded(rows)
    plain = family(name).generate(**inputs, max_new_tokens=80, do_sample=False)
    with compress(family(name), policy) as run:
        assert torch.equal(family(name).generate(**inputs, max_new_tokens=80, do_sample=False), plain)
    assert run.stats.evicted == 0


def test_the_models_own_selector_is_found_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_CACHE", str(tmp_path))
    model, policy = family("llama"), Learned(interval=16, window=8)
    with pytest.raises(LaconicError, match=r"there is no selector for this model yet .* laconic learn MODEL"):
        HFEngine(model, None, policy)
    with pytest.raises(LaconicError, match="there is no selector for this model yet"):
        compress(model, policy)
    made = selector_for(model)
    write_selector(place_of(HFModelInfo(model).fingerprint()), made)
    engine = HFEngine(model, None, policy)
    assert isinstance(engine.policy.scorer, LearnedScore)
    assert engine.policy.scorer.selector is not None
    assert engine.policy.scorer.selector.fingerprint == made.fingerprint


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "deepseek-v3"])
def test_another_models_selector_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    policy = learned("llama", tmp_path)
    for start in (lambda: HFEngine(family(name), None, policy), lambda: compress(family(name), policy)):
        with pytest.raises(LaconicError, match="expected a selector that laconic learn made for this model"):
            start()


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match=r"there is no selector file .*gone; expected one that laconic learn wrote"):
        HFEngine(family("llama"), None, Learned(str(tmp_path / "gone")))
