"""The tiny model's tokenizer, which needs no vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from tests.engines.vllm.tiny import LEAST_VOCAB, tiny_model, tiny_tokenizer

CHAT = [{"role": "user", "content": "2 + 2?\n  Don't guess."}]


def test_text_and_tokens_survive_saving(tiny: Path) -> None:
    """transformers rebuilds a Qwen2's tokenizer when it loads one, and must come to the same."""
    loaded, made = AutoTokenizer.from_pretrained(tiny), tiny_tokenizer()
    text = loaded.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n2 + 2?\n  Don't guess.<|im_end|>\n<|im_start|>assistant\n"
    assert loaded(text)["input_ids"] == made(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    everything = list(range(LEAST_VOCAB))
    assert loaded(loaded.decode(everything))["input_ids"] == everything
    assert loaded.eos_token_id == AutoConfig.from_pretrained(tiny).eos_token_id == 2


def test_a_larger_vocabulary(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path, vocab=140))
    assert len(tokenizer) == 140
    assert tokenizer("text")["input_ids"] == tiny_tokenizer()("text")["input_ids"]
    assert tokenizer.decode([LEAST_VOCAB, LEAST_VOCAB + 1]) == '!!!"'


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab is 99"):
        tiny_tokenizer(99)
