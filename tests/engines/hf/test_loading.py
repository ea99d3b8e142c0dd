"""Loading: what works, and one sentence for each way in which it does not."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from laconic.engines.hf import HFEngine, load, loading, open_engine
from laconic.engines.hf.loading import load_generation_config
from laconic.errors import LaconicError, LaconicWarning
from tests.engines.hf.families import family
from tests.engines.hf.tokens import tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
}


@pytest.fixture
def saved(tmp_path):
    family("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_loads(saved):
    model, words = load(saved, device="cpu")
    assert model.dtype == torch.float32
    assert not model.training
    assert words("w5 w6")["input_ids"] == [5, 6]
    assert load(str(saved), dtype="bfloat16")[0].dtype == torch.bfloat16
    assert isinstance(open_engine(str(saved), max_batch=2), HFEngine)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_large_model_in_numbers_that_this_cpu_is_slow_at(saved, monkeypatch, recwarn, dtype: str):
    assert all(isinstance(loading.has_fast_matrices(each), bool) for each in loading.SHORT)  # torch tells
    monkeypatch.setattr(loading, "has_fast_matrices", lambda dtype: False)
    load(saved, dtype=dtype, device="cpu")  # a small one: nobody would notice
    monkeypatch.setattr(loading, "LARGE", 1)
    load(saved, dtype="float32", device="cpu")
    assert not [each for each in recwarn if issubclass(each.category, LaconicWarning)]
    with pytest.warns(LaconicWarning, match=rf"is in {dtype}, which this CPU has no .* give dtype float32 unless"):
        load(saved, dtype=dtype, device="cpu")
    monkeypatch.setattr(loading, "has_fast_matrices", lambda dtype: True)
    load(saved, dtype=dtype, device="cpu")
    assert len([each for each in recwarn if issubclass(each.category, LaconicWarning)]) == 0


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(LaconicError, match=r"there is no model at"):
        load(tmp_path / "nowhere")
    with pytest.raises(LaconicError, match=r"no config.json"):
        load(tmp_path)


def test_corrupt_files(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(LaconicError, match=r"the weights of .* can't be loaded"):
        load(saved)
    weights.unlink()
    with pytest.raises(LaconicError, match=r"the weights of .* can't be loaded"):
        load(saved)
    (saved / "config.json").write_text("{ not json")
    with pytest.raises(LaconicError, match=r"the configuration of .* can't be loaded"):
        load(saved)


def test_weights_that_lack_tensors_are_refused(saved):
    """transformers fills what is missing with random numbers and only warns."""
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    lost = next(k for k in weights if "down_proj" in k)
    del weights[lost]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LaconicError, match="down_proj"):
        load(saved)


def test_weights_of_another_shape_are_told_with_both_shapes(saved):
    """transformers points to a report, which it has been asked not to print."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"intermediate_size": config["intermediate_size"] + 8}))
    with pytest.raises(LaconicError) as caught:
        load(saved)
    said = str(caught.value)
    assert "do not fit its config.json" in said
    assert "mlp.down_proj.weight, [" in said
    assert "] in the file and [" in said
    assert "report" not in said


def test_a_missing_tokenizer(saved):
    for file in saved.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(LaconicError, match=r"has no tokenizer: it holds none of tokenizer.json, .*; copy"):
        load(saved)


def test_a_broken_tokenizer(saved):
    (saved / "tokenizer.json").write_text("not JSON")
    with pytest.raises(LaconicError, match=r"the tokenizer of .* can't be loaded: \w+: \w"):
        load(saved)


def test_encoders_are_refused(tmp_path):
    BertLMHeadModel(BertConfig(**TINY)).save_pretrained(tmp_path / "bert")
    with pytest.raises(LaconicError, match="is an encoder"):
        load(tmp_path / "bert")
    t5 = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    with pytest.raises(LaconicError, match="encoder-decoder"):
        load(tmp_path / "t5")


def test_bad_dtype_and_device(saved):
    with pytest.raises(LaconicError, match="dtype is 'int3'; expected one of auto"):
        load(saved, dtype="int3")
    # torch makes tensors on "meta" that hold nothing
    for device in ("warp", "meta", "cpu:-1"):
        with pytest.raises(LaconicError, match=f"The device '{device}' can't be used here"):
            load(saved, device=device)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("[" * 100_000 + "]" * 100_000, "is nested too deeply"),
        ('{"max_new_tokens": "many"}', "can't be loaded"),
        ('\ufeff{"temperature": 0.5}', "can't be loaded"),  # transformers passes over it, and its temperature
    ],
)
def test_a_broken_generation_config_is_named_and_not_passed_over(saved, tmp_path, content: str, says: str):
    place = tmp_path / "model"
    shutil.copytree(saved, place)
    (place / "generation_config.json").write_text(content)
    for read in (load, load_generation_config):
        with pytest.raises(LaconicError, match=rf"generation_config\.json .*{says}"):
            read(str(place))
