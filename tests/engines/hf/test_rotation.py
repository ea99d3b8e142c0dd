"""Rotary frequencies that change with the length: refused where a run would cross the change, or fixed for the whole run."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PhimoeConfig, PhimoeForCausalLM

from laconic.compress import RPC, FullKV
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, compress, fixed_rotation, generation, load
from laconic.engines.hf.rotation import rotation_changes_at
from laconic.errors import LaconicError
from tests.engines.hf.families import COMMON, family, padded, prompts
from tests.engines.hf.tokens import tokenizer

SHORT = {**COMMON, "max_position_embeddings": 256}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 64,
}
POLICY = RPC(interval=16, ratio=4, window=8)


@cache
def model(kind):
    made: Phi3ForCausalLM | LlamaForCausalLM
    torch.manual_seed(7)
    if kind == "longrope":
        made = Phi3ForCausalLM(Phi3Config(**SHORT, original_max_position_embeddings=64, rope_parameters=LONGROPE))
    else:
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
        made = LlamaForCausalLM(LlamaConfig(**{**SHORT, "max_position_embeddings": 64}, rope_parameters=rope))
    with torch.no_grad():
        for key, weight in made.eval().named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25 if "embed" not in key else 1.0)
    return made


def greedy(model, prompt, steps):
    return model.generate(**padded(prompts([prompt])), max_new_tokens=steps, do_sample=False)


def test_where_the_rotation_changes():
    assert rotation_changes_at(model("longrope")) == 64
    assert rotation_changes_at(model("dynamic")) == 64
    assert rotation_changes_at(family("llama")) is None
    with fixed_rotation(model("longrope")):
        assert rotation_changes_at(model("longrope")) is None


@pytest.mark.parametrize("policy", [FullKV(), POLICY], ids=lambda p: p.name)
def test_a_run_that_would_cross_the_change_is_refused_before_it_starts(policy):
    phi = model("longrope")
    with compress(phi, policy) as run:
        for kwargs in ({"max_new_tokens": 60}, {"max_length": 100}):
            with pytest.raises(
                LaconicError, match=r"changes its rotary frequencies at 64 tokens.*from 40 tokens up to 100"
            ):
                phi.generate(**padded(prompts([40])), do_sample=False, **kwargs)
    assert run.stats.steps == 0
    engine = HFEngine(phi, None, policy)
    with pytest.raises(LaconicError, match="changes its rotary frequencies at 64 tokens"):
        engine.submit(prompts([40])[0], Sampling(max_new_tokens=60))
    engine = HFEngine(model("dynamic"), None, policy)
    with pytest.raises(LaconicError, match="changes its rotary frequencies at 64 tokens"):
        engine.submit(prompts([40])[0], Sampling(max_new_tokens=60))


@pytest.mark.parametrize(("kind", "prompt", "steps"), [("longrope", 40, 24), ("longrope", 70, 40), ("dynamic", 40, 60)])
def test_runs_on_one_side_of_the_change_are_those_of_plain_generate(kind, prompt, steps):
    """Dynamic scaling changes under plain generate in the same way: no key is rotated anew."""
    plain = greedy(model(kind), prompt, steps)
    with compress(model(kind), FullKV()):
        assert torch.equal(greedy(model(kind), prompt, steps), plain)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_fixed_rotation_serves_short_and_long_rows_alike_and_is_taken_back(kind):
    made = model(kind)
    rows, sampling = prompts([40, 3, 70]), Sampling(max_new_tokens=60, temperature=0)
    before = greedy(made, 40, 60)
    with fixed_rotation(made):
        plain = greedy(made, 40, 60)
        assert not torch.equal(plain, before)
        assert torch.equal(plain[:, :50], greedy(made, 40, 10)), "the length asked for must not matter"
        with compress(made, FullKV()):
            assert torch.equal(greedy(made, 40, 60), plain)
        with compress(made, POLICY) as run:
            evicted = greedy(made, 40, 60)[0, 40:].tolist()
        assert run.stats.evicted > 0
        (trace,), *_ = HFEngine(made, None).generate(rows, sampling)
        assert trace.token_ids == plain[0, 40:].tolist()
        (trace,), *_ = HFEngine(made, None, POLICY).generate(rows, sampling)
        assert trace.token_ids == evicted
    assert torch.equal(greedy(made, 40, 60), before)


def test_a_model_can_be_loaded_with_a_fixed_rotation(tmp_path):
    model("longrope").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = load(tmp_path, device="cpu", fix_rotation=True)[0]
    assert (rotation_changes_at(loaded), rotation_changes_at(load(tmp_path, device="cpu")[0])) == (None, 64)
    with fixed_rotation(model("longrope")):
        assert torch.equal(greedy(loaded, 40, 60), greedy(model("longrope"), 40, 60))
    own = PhimoeConfig(
        **SHORT, num_local_experts=2, rope_parameters={**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.2}
    )
    PhimoeForCausalLM(own).save_pretrained(tmp_path)
    assert (
        rotation_changes_at(load(tmp_path, device="cpu", fix_rotation=True)[0]) == 64
    )  # short runs are right, others refused


def test_long_factors_are_what_longrope_uses_beyond_the_change():
    """A prompt beyond the change makes transformers itself take the long factors from the first token on."""
    phi = model("longrope")
    want = greedy(phi, 70, 30)
    with fixed_rotation(phi):
        assert torch.equal(greedy(phi, 70, 30), want)


def test_a_cache_that_is_swapped_all_the_same_is_noticed(monkeypatch):
    monkeypatch.setattr(generation, "check_rotation", lambda *args, **kwargs: None)
    phi = model("longrope")
    with compress(phi, POLICY), pytest.raises(LaconicError, match="put another cache in the place of laconic's at 64"):
        greedy(phi, 40, 60)
    assert "prepare_inputs_for_generation" not in phi.__dict__


def test_a_rotation_that_a_model_computes_in_its_own_way_is_not_fixed():
    rope = {**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.2}
    made = PhimoeForCausalLM(PhimoeConfig(**SHORT, num_local_experts=2, rope_parameters=rope))
    assert rotation_changes_at(made) == 64
    with pytest.raises(LaconicError, match="a way of its own"), fixed_rotation(made):
        pass
    assert rotation_changes_at(made) == 64
