"""The directory that vLLM gets of a shape, and a model by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from laconic.assets import reasoner_path
from laconic.engines.hf.shapes import SHAPES
from laconic.errors import LaconicError
from laconic.lab.vllm.model import from_name, from_shape


@pytest.mark.parametrize(
    ("name", "architecture"), [("tiny-kv", "LlamaForCausalLM"), ("tiny-steps", "Qwen2ForCausalLM")]
)
def test_a_shape_becomes_a_config_that_names_its_architecture(name: str, architecture: str, tmp_path: Path) -> None:
    model = from_shape(name, torch.float32, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert config["hidden_size"] == SHAPES[name].settings["hidden_size"]
    assert config.get("eos_token_id") is None
    assert model.options() == {
        "model": str(tmp_path),
        "dtype": "float32",
        "load_format": "dummy",
        "skip_tokenizer_init": True,
    }
    heads, layers = SHAPES[name].settings["num_key_value_heads"], SHAPES[name].settings["num_hidden_layers"]
    assert model.kv_bytes_per_token == 2 * layers * heads * 64 * 4
    assert model.describe()["name"] == name
    assert str(tmp_path) not in json.dumps(model.describe())


def test_an_unknown_shape_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match=r"'tiny' is unknown; expected one of .*tiny-steps"):
        from_shape("tiny", torch.float32, tmp_path)


def test_a_model_by_its_directory(tmp_path: Path) -> None:
    from_shape("tiny-kv", torch.float32, tmp_path)
    model = from_name(str(tmp_path), torch.bfloat16)
    assert model.kv_bytes_per_token == 2 * 2 * 16 * 64 * 2
    assert model.options()["load_format"] == "auto"
    assert model.describe()["name"] == tmp_path.name  # not where it lies on this machine


def test_the_bundled_model_by_its_name() -> None:
    model = from_name("bundled", torch.float32)
    assert model.describe()["name"] == "bundled"
    assert model.options()["model"] == str(reasoner_path())


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match=r"can't be read: .*; expected a directory or a name that holds"):
        from_name(str(tmp_path), torch.float32)
