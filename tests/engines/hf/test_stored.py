"""A checkpoint's fingerprint from its files is the loaded model's, or the files don't tell it and the reason is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from laconic.assets import reasoner_path
from laconic.engines.hf import load
from laconic.engines.hf.stored import checkpoint_fingerprint
from laconic.errors import InputError
from laconic.fingerprint import SAMPLED, fingerprint, weights_fingerprint
from tests.engines.hf.families import COMMON, FAMILIES, family


def model(tied: bool, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**{**COMMON, "hidden_size": 64}, tie_word_embeddings=tied)).eval()
    assert max(p.numel() for p in made.parameters()) > 10 * SAMPLED
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["1GB", "40KB"], ids=["one-file", "sharded"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_it_is_the_loaded_models(tied: bool, shard: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model(tied).to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (shard == "40KB")
    found = checkpoint_fingerprint(str(tmp_path))
    for loaded in (torch.float32, torch.bfloat16):
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=loaded)
        if (
            dtype != torch.float16 or loaded == torch.float32
        ):  # bfloat16 rounds what float16 holds before it is compared
            assert found == weights_fingerprint(again)
        assert checkpoint_fingerprint(str(tmp_path), loaded) == fingerprint(again)


def test_other_weights_have_another(tmp_path: Path) -> None:
    for seed in (0, 1):
        model(True, seed).save_pretrained(tmp_path / str(seed))
    assert checkpoint_fingerprint(str(tmp_path / "0")) != checkpoint_fingerprint(str(tmp_path / "1"))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_tied_table_may_lie_in_the_files_twice(tied: bool, tmp_path: Path) -> None:
    """Some checkpoints hold it as the output layer too, or as that alone; and buffers that no parameter is."""
    made = model(tied)
    made.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = made.lm_head.weight.detach().clone()
    tensors["model.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert checkpoint_fingerprint(str(tmp_path)) == weights_fingerprint(made)


def test_a_decoder_that_was_saved_without_its_output_layer(tmp_path: Path) -> None:
    """Names then lack the prefix."""
    made = model(True)
    made.model.save_pretrained(tmp_path)
    assert not any(key.startswith("model.") for key in load_file(tmp_path / "model.safetensors"))
    assert checkpoint_fingerprint(str(tmp_path)) == weights_fingerprint(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family_or_a_reason(name: str, tmp_path: Path) -> None:
    """Experts that transformers merges on loading, and other renamed tensors, can't be told: never a wrong one."""
    family(name).save_pretrained(tmp_path)
    merged = ("qwen3-moe", "deepseek-v3", "qwen3-next")
    if name in merged:
        with pytest.raises(InputError, match=r"holds no tensor .*experts.*, as transformers calls it"):
            checkpoint_fingerprint(str(tmp_path))
    else:
        assert checkpoint_fingerprint(str(tmp_path)) == weights_fingerprint(
            AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        )


def test_of_the_bundled_reasoner() -> None:
    loaded, _ = load(reasoner_path(), dtype="float32")
    assert checkpoint_fingerprint(str(reasoner_path())) == weights_fingerprint(loaded)
    assert checkpoint_fingerprint(str(reasoner_path()), torch.float32) == fingerprint(loaded)


# ---- what can't be told -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model(False).save_pretrained(tmp_path, max_shard_size="40KB")
    return tmp_path


def shards(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors"))


def spoil_header(place: Path) -> None:
    shards(place)[0].write_bytes(b"\xff" * 100)


def cut_off(place: Path) -> None:
    last = shards(place)[-1]
    last.write_bytes(last.read_bytes()[:-100])


def quantize(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (place / "config.json").write_text(json.dumps(config))


def reshape(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    config["vocab_size"] += 1
    (place / "config.json").write_text(json.dumps(config))


def whole_numbers(place: Path) -> None:
    tensors = load_file(shards(place)[0])
    save_file({key: value.to(torch.int8) for key, value in tensors.items()}, shards(place)[0])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda place: (place / "config.json").unlink(), "can't be built from its config"),
        (quantize, "are quantized"),
        (lambda place: [one.unlink() for one in place.glob("model*")], "has no safetensors files"),
        (lambda place: (place / "model.safetensors.index.json").write_text("{}"), "is no index of safetensors files"),
        (lambda place: (place / "model.safetensors.index.json").write_text("[]"), "is no index of safetensors files"),
        (
            lambda place: (place / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
            "holds no tensor lm_head.weight, as transformers calls it",
        ),
        (lambda place: shards(place)[0].unlink(), "lacks model-00001-of"),
        (spoil_header, "is no safetensors file; fetch the model again"),
        (cut_off, "was cut off"),
        (reshape, r"of shape \(96, 64\), and transformers' model has \(97, 64\)"),
        (whole_numbers, "is I8 of shape"),
    ],
)
def test_what_the_files_do_not_tell(place: Path, spoil: Any, says: str) -> None:
    spoil(place)
    with pytest.raises(InputError, match=says) as error:
        checkpoint_fingerprint(str(place))
    assert "\n" not in str(error.value)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be built from its config"):
        checkpoint_fingerprint(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="can't be built from its config"):
        checkpoint_fingerprint("org/nowhere")


def test_weights_kept_in_a_format_of_their_own_have_no_fingerprint_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(True).save_pretrained(tmp_path)
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules", ["norm"])
    with pytest.raises(InputError, match="in a number format of their own"):
        checkpoint_fingerprint(str(tmp_path), torch.float16)
    assert checkpoint_fingerprint(str(tmp_path))
