"""Stock vLLM against transformers on the tiny model.

Every other live test here compares vLLM with a reference written in PyTorch, and a difference there is read as ours. So it
is shown first that without laconic the two agree to the token on this model, and that the model writes text in which a
difference would show: a model that repeats two tokens would agree with anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engines.vllm.tiny import running, scheduler_of

PROMPTS = ["Hello", "What is 2 + 2? Think step by step.", "The quick brown fox jumps over the lazy dog. " * 2]
NEW = 300


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    """What transformers writes greedily, prompt by prompt."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    assert model.dtype == torch.float32
    texts = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        # No end token: a text that ends early compares little.
        # transformers types generate by a protocol that none of its models meets in mypy's eyes
        out = model.generate(  # type: ignore[misc]
            **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None
        )
        texts.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return texts


def greedy(llm: Any, count: int = NEW) -> list[list[int]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    return [list(out.outputs[0].token_ids) for out in llm.generate(PROMPTS, params, use_tqdm=False)]


def test_the_model_writes_what_a_difference_would_show_in(expected: list[list[int]]) -> None:
    for text in expected:
        assert len(text) == NEW
        assert len(set(text)) > 50
        runs = [tuple(text[i : i + 6]) for i in range(NEW - 5)]
        assert len(set(runs)) == len(runs)  # no loop


def test_greedy_tokens_are_those_of_transformers(tiny: Path, expected: list[list[int]]) -> None:
    with running(tiny) as llm:
        assert greedy(llm) == expected
        assert scheduler_of(llm).get_num_unfinished_requests() == 0


def test_a_second_engine_in_the_same_process(tiny: Path, expected: list[list[int]]) -> None:
    """A cache for 1,024 tokens: three requests of up to 390 still fit, and blocks are all back at the end."""
    with running(tiny, kv_cache_memory_bytes=1 << 20, max_model_len=512) as llm:
        pool = scheduler_of(llm).kv_cache_manager.block_pool
        free = pool.get_num_free_blocks()
        assert greedy(llm) == expected
        assert pool.get_num_free_blocks() == free


def test_an_engine_after_one_that_was_refused(tiny: Path, expected: list[list[int]]) -> None:
    with (
        pytest.raises(ValueError, match="larger than the available KV cache"),
        running(tiny, kv_cache_memory_bytes=1 << 20),
    ):
        pass
    with running(tiny) as llm:
        assert greedy(llm, 20) == [text[:20] for text in expected]
