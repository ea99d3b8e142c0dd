"""A tiny random model in a directory, and vLLM engines over it that come and go within one test process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, START, END, UNKNOWN = "<pad>", "<|im_start|>", "<|im_end|>", "<unk>"
SPECIAL = [PAD, START, END, UNKNOWN]
# <unk> is there because transformers would add its own to a Qwen2's tokenizer that names none.
# Byte-level tokenizers write a line break and a space as these two letters; the rest of ASCII stands for itself.
LETTERS = ["\u010a", "\u0120", *(chr(code) for code in range(33, 127))]
LEAST_VOCAB = len(SPECIAL) + len(LETTERS)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Untold, vLLM binds threads to cores that others use, logs hundreds of lines and asks the network who it is. It reads some
# of these once, when it is imported, and its worker processes inherit them: so they are set when this module is imported.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def tiny_tokenizer(vocab: int = LEAST_VOCAB) -> PreTrainedTokenizerFast:
    """One character a token: four special tokens and ASCII; what is beyond ASCII is left out.

    Further tokens, up to `vocab`, are pairs of letters that a model can write and no text is read as. With none of them,
    text and tokens turn into each other and back without loss.
    """
    if vocab < LEAST_VOCAB:
        raise ValueError(f"vocab is {vocab}, and the special tokens and ASCII take {LEAST_VOCAB}")
    pairs = (first + second for first in LETTERS[2:] for second in LETTERS[2:])
    words = [*SPECIAL, *LETTERS, *islice(pairs, vocab - LEAST_VOCAB)]
    # Byte-level BPE, since that's what transformers rebuilds for a Qwen2 from whatever tokenizer is saved beside it.
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[START],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    path: Path,
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    vocab: int = LEAST_VOCAB,
    max_positions: int = 4096,
    seed: int = 0,
    spread: float = 0.3,
) -> Path:
    """Save a random Qwen2 in float32 with its tokenizer under `path`, and return `path`.

    `spread` is the deviation of the weights: at the usual 0.02 attention is flat, and greedy decoding repeats itself at
    once, whatever the cache holds. Of the special tokens only the end, 2, is ever written, about once in a hundred tokens.
    vLLM's CPU attention takes no `head_dim` under 32.
    """
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=heads * head_dim,
        intermediate_size=2 * heads * head_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_positions,
        initializer_range=spread,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=SPECIAL.index(END),
        pad_token_id=None,  # or its embedding would be zero, and a model that has written it writes it for ever
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).float()
    with torch.no_grad():  # a logit of 0 among a hundred random ones: never the largest, so the text is all to be seen
        model.lm_head.weight[[SPECIAL.index(word) for word in SPECIAL if word != END]] = 0.0
        # At this spread one token takes nearly all attention, and pooling gives it to its neighbours in equal parts: their
        # scores would differ by rounding alone, and which of them stay would depend on the order of a sum.
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 0.3
            layer.self_attn.q_proj.bias *= 0.3
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=SPECIAL.index(PAD))
    model.save_pretrained(path)
    tiny_tokenizer(vocab).save_pretrained(path)
    return path


def endless(tiny: Path, path: Path) -> Path:
    """The tiny model without end tokens: its texts go on to their limit."""
    shutil.copytree(tiny, path)
    for name, key in (
        ("config.json", "eos_token_id"),
        ("generation_config.json", "eos_token_id"),
        ("tokenizer_config.json", "eos_token"),
    ):
        file = path / name
        kept = {k: v for k, v in json.loads(file.read_text()).items() if k != key}
        file.write_text(json.dumps(kept))
    return path


def engine_args(path: Path, **overrides: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a tiny model on a CPU that others use too; `overrides` replace or add."""
    return {
        "model": str(path),
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": 32,  # CPU attention takes multiples of 32 only
        "max_model_len": 2048,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 2048,
        "kv_cache_memory_bytes": 32 << 20,  # of the default tiny model: 32,768 tokens, 1,024 blocks
        "seed": 0,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **overrides,
    }


@contextmanager
def in_process() -> Iterator[None]:
    """Engines made inside live in this process, where tests can look at their scheduler and worker.

    vLLM writes to the environment (LD_PRELOAD among others) and replaces `torch.set_num_threads`: put back at the end.
    """
    before, set_threads, dtype = dict(os.environ), torch.set_num_threads, torch.get_default_dtype()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads = set_threads
        torch.set_default_dtype(dtype)


@contextmanager
def running(path: Path, **overrides: Any) -> Iterator[Any]:
    """A `vllm.LLM` of `engine_args` in this process, shut down at the end so that another one can follow.

    Its scheduler is `llm.llm_engine.engine_core.engine_core.scheduler` (see `scheduler_of`).
    """
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    with in_process():
        llm = None
        try:
            llm = LLM(**engine_args(path, **overrides))
            yield llm
        finally:
            if llm is not None:
                llm.llm_engine.engine_core.shutdown()
            # Also after an engine refused while it started: the next would take over its process groups, whatever its shape.
            cleanup_dist_env_and_memory()


def scheduler_of(llm: Any) -> Any:
    """The scheduler of an engine that lives in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def runner_of(llm: Any) -> Any:
    """The model runner of the one worker of an engine that lives in this process."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
