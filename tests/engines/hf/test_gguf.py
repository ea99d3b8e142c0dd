"""GGUF files, made on the spot: loaded like a directory, and one sentence for each way in which they can't be."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, gguf, load
from laconic.engines.hf.loading import load_config, load_tokenizer
from laconic.engines.hf.planning import plan
from laconic.engines.vllm.engine.starting import load_tokenizer_and_config
from laconic.errors import LaconicError
from laconic.fingerprint import fingerprint, weights_fingerprint

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf isn't installed")
HEADS, KV_HEADS = 4, 2
END = "<|endoftext|>"  # which transformers would add


def byte_letters() -> list[str]:
    """How byte-level tokenizers write the 256 bytes: those that print as themselves, the others from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    return [chr(b) if b in printed else chr(256 + others.index(b)) for b in range(256)]


TOKENS = [*byte_letters(), "ab", END]


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.3,
        eos_token_id=len(TOKENS) - 1,
    )
    return LlamaForCausalLM(config).eval()


def write(path: Path, model: LlamaForCausalLM, kind: str = "F32", architecture: str = "llama", parts: int = 1) -> Path:
    """As llama.cpp's converter would, in numbers of one kind."""
    package: Any = importlib.import_module("gguf")
    config: Any = model.config
    out = package.GGUFWriter(path, architecture)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_key_length(config.head_dim)
    out.add_value_length(config.head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(config.head_dim)
    out.add_vocab_size(len(TOKENS))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(TOKENS)
    out.add_token_types([1] * (len(TOKENS) - 1) + [3])
    out.add_token_merges(["a b"])
    out.add_eos_token_id(len(TOKENS) - 1)
    out.add_chat_template("{% for m in messages %}Q: {{ m.content }}{% endfor %}")
    if parts > 1:
        out.add_uint16("split.count", parts)
    names = package.get_tensor_name_map(package.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            if part in name:  # llama.cpp turns neighbours, transformers halves
                tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        numbers = tensor.contiguous().numpy()
        quantized = kind != "F32" and numbers.ndim == 2 and numbers.shape[1] % 32 == 0
        raw = package.GGMLQuantizationType[kind] if quantized else None
        if raw is not None:
            numbers = package.quantize(numbers, raw)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), numbers, raw_dtype=raw)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture
def file(tmp_path: Path, llama: LlamaForCausalLM) -> Path:
    return write(tmp_path / "tiny.gguf", llama)


@needs_gguf
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_loads_like_a_directory(
    file: Path,
    llama: LlamaForCausalLM,
    relative: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if relative:
        monkeypatch.chdir(file.parent)
    model, words = load(file.name if relative else file, device="cpu")
    assert model.dtype == torch.float32
    assert not model.training
    for name, weight in llama.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert fingerprint(model) == fingerprint(llama)
    assert words("cab")["input_ids"] == [TOKENS.index("c"), TOKENS.index("ab")]
    assert words.eos_token == END
    assert words.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "Q: x"
    assert capsys.readouterr().err == ""
    sampling = Sampling(max_new_tokens=20, temperature=0)
    texts = [HFEngine(m, words).generate(["cab"], sampling)[0][0].token_ids for m in (model, llama)]
    assert texts[0] == texts[1]


@needs_gguf
def test_quantized_weights_are_unpacked_to_the_number_format_asked_for(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    path = write(tmp_path / "tiny-q8.GGUF", llama, "Q8_0")
    for dtype in ("auto", "float32", "bfloat16"):
        model, _ = load(path, dtype=dtype, device="cpu")
        assert model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        assert all(p.is_floating_point() for p in model.parameters())
        ids = torch.tensor([[5, 6, 7]])
        assert (model(ids).logits.float() - llama(ids).logits).abs().max() < 0.5
    assert weights_fingerprint(model) == weights_fingerprint(load(path, device="cpu")[0])
    assert gguf.unpacking(torch.device("cuda"), "auto")["dtype"] == torch.bfloat16


@needs_gguf
def test_the_tokenizer_and_the_configuration_alone_and_a_plan(file: Path, llama: LlamaForCausalLM) -> None:
    assert len(load_tokenizer(str(file))) == len(TOKENS)
    assert load_config(str(file)).num_hidden_layers == 2
    planned = plan(file, "rpc", prompt=8, length=64).weights
    assert (planned.parameters, planned.source) == (llama.num_parameters(), "config")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"there is no file .*gone\.gguf: give a GGUF file, a directory"),
        (b"", "does not begin with the letters GGUF"),
        (b"not a model", "does not begin with the letters GGUF"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "gone.gguf"
    if content is not None:
        path.write_bytes(content)
    for read in (load, load_config, lambda name: plan(name, "rpc", prompt=8, length=64)):
        with pytest.raises(LaconicError, match=says):
            read(str(path))


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaconicError, match=r"needs gguf and accelerate: pip install gguf accelerate$"):
        load(path)


@needs_gguf
def test_a_file_that_is_cut_off(file: Path) -> None:
    whole = file.read_bytes()
    for length in (4, 5, 30, 300, 3000, len(whole) // 2, len(whole) - 200):
        file.write_bytes(whole[:length])
        with pytest.raises(LaconicError, match=r"tiny\.gguf is cut off.*; fetch it again$|damaged: fetch it again$"):
            load(file)
    file.write_bytes(whole[:-200])
    with pytest.raises(LaconicError, match=rf"it has {len(whole) - 200:,} bytes, its header tells of "):
        load(file)


@needs_gguf
def test_what_transformers_does_not_know(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    strange = write(tmp_path / "strange.gguf", llama, architecture="no-such-kind")
    with pytest.raises(
        LaconicError, match=r"the configuration of .*strange\.gguf can't be loaded: .*no-such-kind"
    ) as e:
        load(strange)
    assert "\n" not in str(e.value)
    part = write(tmp_path / "part.gguf", llama, parts=3)
    with pytest.raises(LaconicError, match=r"is one of 3 parts of a model: join them"):
        load(part)


def test_inside_vllm_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaconicError, match=r"is a GGUF file, which laconic doesn't run inside vLLM: use the engine hf"):
        load_tokenizer_and_config(str(tmp_path / "x.gguf"), {})


def test_a_directory_of_that_name_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(LaconicError, match=r"is not a model directory: it has no config\.json"):
        load(tmp_path / "model.gguf")
