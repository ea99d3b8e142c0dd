"""A tiny random model in a directory, with a tokenizer and a chat template, for the commands to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from laconic.cli import build

WORDS = ["<pad>", "<eos>", "<unk>", "</think>", "\\boxed{", "}", *"abcdefghijklmnopqrstuvwxyz", *"0123456789", "<&>"]
TEMPLATE = "{{ messages[-1]['content'] }} a b"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random Llama with 3 layers and 2 KV heads that never ends early by itself."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 60
    model.save_pretrained(path)
    backend = Tokenizer(models.WordLevel(vocab={word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def invoke() -> Callable[..., object]:
    """Run the command line in this process: arguments in, typer's Result out."""
    app = build()

    def run(*args: object, **kwargs: object) -> object:
        return CliRunner().invoke(app, [str(arg) for arg in args], **kwargs)  # type: ignore[arg-type]

    return run
