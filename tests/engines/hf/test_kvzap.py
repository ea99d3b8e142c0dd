"""The policy `kvzap` on transformers: against the slow reference, in ragged batches, stopped and resumed, and refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from laconic.compress import FullKV, KVzap
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, compress
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.facts import fit
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.planning import plan
from laconic.engines.trace_reader import held_by_half
from laconic.errors import LaconicError
from tests.engines.hf.families import family, padded, prompts
from tests.reference.generation import reference_generate
from tests.reference.kvzap import write_kvzap

PLAIN = ("llama", "qwen3", "gemma3", "gpt-oss")


def kvzap(name: str, path: Path, hidden: int | None = 12, **settings: int) -> KVzap:
    """The policy with random networks for a family's model, in a folder."""
    config = family(name).config
    folder = path / f"{name}-{hidden}"
    if not folder.exists():
        write_kvzap(folder, config.num_hidden_layers, config.num_key_value_heads, config.hidden_size, hidden)
    return KVzap(str(folder), **{"interval": 16, "window": 8, **settings})


@pytest.mark.parametrize("hidden", [12, None])
@pytest.mark.parametrize("name", PLAIN)
def test_tokens_are_those_of_the_slow_reference(name: str, hidden: int | None, tmp_path: Path) -> None:
    model, policy = family(name), kvzap(name, tmp_path, hidden)
    rows = prompts([12, 3])
    inputs = padded(rows)
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    with compress(model, policy) as run:
        ours = model.generate(**inputs, max_new_tokens=90, do_sample=False)
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert run.stats.evicted > 0
    assert not torch.equal(ours, model.generate(**inputs, max_new_tokens=90, do_sample=False))
    for i, row in enumerate(rows):
        want = reference_generate(model, torch.tensor([row]), fit(policy, model), 90, row=i)
        assert ours[i, inputs["input_ids"].shape[1] :].tolist() == want


@pytest.mark.parametrize("name", PLAIN)
def test_rows_that_join_and_leave_at_other_counts_change_nothing(name: str, tmp_path: Path) -> None:
    policy = kvzap(name, tmp_path)
    rows, lengths = prompts([12, 3, 9, 17, 30], seed=5), [70, 41, 90, 25, 66]
    samplings = [Sampling(max_new_tokens=n, temperature=0) for n in lengths]
    engine = HFEngine(family(name), None, policy, max_batch=3)
    ids = [engine.submit(row, sampling)[0] for row, sampling in zip(rows, samplings, strict=True)]
    for _ in engine.stream():
        pass
    for i, row, sampling in zip(ids, rows, samplings, strict=True):
        (alone,) = HFEngine(family(name), None, policy).generate([row], sampling)[0]
        assert engine.trace(i).token_ids == alone.token_ids
    assert engine.stats.evicted == sum(policy.schedule.evicted(n - 1) for n in lengths) > 0


def test_plan_counts_the_score_beside_each_token(tmp_path: Path) -> None:
    model, policy = family("llama"), kvzap("llama", tmp_path)
    engine = HFEngine(model, None, policy, max_batch=1)
    engine.submit(prompts([12])[0], Sampling(max_new_tokens=40, temperature=1.0))
    for _ in engine.stream():
        if engine._batch.cache is not None:
            layers = engine._batch.cache.compressed_layers
    (wanted,) = plan(model.config, policy, prompt=12, length=40).policies
    kept = [layer.buffers.mass for layer in layers if layer.buffers is not None]
    scores = sum(one[..., :1].numel() * 4 for one in kept if one is not None)
    assert wanted.scoring == scores * wanted.peak_tokens > 0


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_stopping_and_resuming_changes_nothing(name: str, tmp_path: Path) -> None:
    """What was noted is noted again, of several tokens at once."""
    policy, rows, sampling = kvzap(name, tmp_path), prompts([12, 3, 17]), Sampling(max_new_tokens=90, temperature=0)
    whole, engine = (HFEngine(family(name), None, policy, max_batch=4) for _ in range(2))
    ids = [engine.submit(row, sampling)[0] for row in rows]
    draw, stopped = random.Random(1), 0
    while any(engine.trace(i).state != "finished" for i in ids):
        for i in ids:
            if engine.trace(i).state == "stopped":
                engine.resume(i)
        for _ in engine.stream():
            if draw.random() < 0.05:
                engine.stop(draw.choice(ids))
                stopped += 1
    assert stopped > 2
    assert [engine.trace(i).token_ids for i in ids] == [t[0].token_ids for t in whole.generate(rows, sampling)]


def test_a_ratio_of_one_gives_full_kvs_tokens(tmp_path: Path) -> None:
    rows, sampling = prompts([12, 3, 9]), Sampling(max_new_tokens=80, temperature=0.8, seed=3)
    policies = (kvzap("llama", tmp_path, ratio=1), FullKV())
    got, full = (HFEngine(family("llama"), None, p).generate(rows, sampling) for p in policies)
    assert [t[0].token_ids for t in got] == [t[0].token_ids for t in full]


def test_what_was_held_is_rebuilt_from_tokens(tmp_path: Path) -> None:
    engine = HFEngine(family("llama"), None, kvzap("llama", tmp_path), record_held=True)
    (trace,) = engine.generate([prompts([12])[0]], Sampling(max_new_tokens=60, temperature=0))[0]
    (latest, *_) = reversed(engine.policy.schedule.compression_points(59))
    held = engine.model_reader.held(trace.prompt_ids, trace.token_ids[:latest])
    assert held_by_half(held) == engine.kept(trace.id) != list(range(latest))


def test_where_nobody_shows_what_attention_reads(tmp_path: Path) -> None:
    model = family("llama")
    policy = fit(kvzap("llama", tmp_path), model)
    traces = [[1, 2, 3] * 20]
    with AttentionBinding(model):
        forced = ForcedTraces(model, prompts([5]), traces).under(policy)
        with pytest.raises(
            LaconicError, match=r"reads what the attention of layer 0 reads, which is not to be seen here"
        ):
            forced.feed(1)


def test_networks_of_another_model_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for change in ({"layers": 1}, {"heads": 3}, {"width": 31}):
        sizes = {"layers": 2, "heads": 2, "width": family("llama").config.hidden_size, **change}
        policy = KVzap(str(write_kvzap(tmp_path / str(change), **sizes)))
        for start in (
            lambda p=policy: HFEngine(family("llama"), None, p),
            lambda p=policy: compress(family("llama"), p),
        ):
            with pytest.raises(LaconicError, match="expected those that were trained for this model"):
                start()


def test_folders_that_hold_none(tmp_path: Path) -> None:
    def said(place: str | None) -> str:
        with pytest.raises(LaconicError) as caught:
            HFEngine(family("llama"), None, KVzap(place))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "names no networks and the model has no name; expected kvzap:FOLDER" in said(None)
    assert "the networks of KVzap can't be read from no/such-name (" in said("no/such-name")
    place = write_kvzap(tmp_path / "networks")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"n_modules": 3}))
    assert "holds no networks of KVzap: its weights lack layers.2.0.weight; fetch them again" in said(str(place))
    (place / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert "its config.json is of the type 'llama'; expected kvzap" in said(str(place))
    (place / "config.json").write_text("{")
    assert "the networks of KVzap can't be read from" in said(str(place))
    (place / "model.safetensors").unlink()
    assert "it has no model.safetensors" in said(str(place))
