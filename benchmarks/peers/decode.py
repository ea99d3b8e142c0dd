"""One decoding run of one method in this process, timed: `benchmarks/peers/run.py` calls it in the method's own environment.

Prints one JSON object: seconds of the run, tokens/s, and the process's memory in MiB, before and at its peak. Only what the
method needs is imported: kvpress and laconic want other versions of transformers.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

Run = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and how many tokens to generate for each -> those tokens."""


def under_generate(asked: argparse.Namespace, around: Callable[[Any], AbstractContextManager[Any]]) -> Run:
    """transformers' own `generate`, with something around it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype)).eval()
    ends = {"eos_token_id": None, "pad_token_id": 0}

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        settings = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(ids), **ends}
        with torch.inference_mode(), around(model):
            out = model.generate(ids, **settings)
        return [row[len(prompt) :].tolist() for row, prompt in zip(out, prompts, strict=True)]

    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return run


def generate(asked: argparse.Namespace) -> Run:
    return under_generate(asked, lambda model: nullcontext())


def kvpress(asked: argparse.Namespace, name: str) -> Run:
    """A press of kvpress that compresses while it decodes; what it keeps counts the prompt, which it evicts too."""
    import kvpress as peer  # type: ignore[import-not-found]  # it has an environment of its own

    press = peer.DecodingPress(
        base_press=getattr(peer, name)(),
        compression_interval=asked.interval,
        target_size=asked.budget + asked.prompt,
    )
    return under_generate(asked, press)


def compressed(asked: argparse.Namespace, spec: str) -> Run:
    """laconic under `generate`."""
    import laconic
    from laconic.compress import parse

    return under_generate(asked, lambda model: laconic.compress(model, parse(spec)))


def engine(asked: argparse.Namespace, spec: str) -> Run:
    """laconic's own engine."""
    from laconic.compress import parse
    from laconic.engines.base import Sampling
    from laconic.engines.hf import HFEngine, load

    model, _ = load(asked.model, dtype=asked.dtype)
    model.generation_config.eos_token_id = model.config.eos_token_id = None

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        made = HFEngine(model, None, parse(spec), max_batch=len(prompts))
        found = made.generate(prompts, Sampling(max_new_tokens=tokens, temperature=0))
        return [list(traces[0].token_ids) for traces in found]

    return run


def vllm(asked: argparse.Namespace, settings: dict[str, Any]) -> Run:
    """vLLM's own engine; settings: laconic's, none for stock."""
    from vllm import LLM, SamplingParams

    made = LLM(
        asked.model,
        dtype=asked.dtype,
        enforce_eager=True,
        max_num_seqs=asked.rows,
        max_model_len=asked.prompt + asked.tokens + 16,
        kv_cache_memory_bytes=asked.cache << 20,
        enable_prefix_caching=False,
        additional_config={"laconic": settings} if settings else {},
    )

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        found = made.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in found]

    return run


def openvino(asked: argparse.Namespace, evicts: bool) -> Run:
    """OpenVINO GenAI's batching pipeline on a model that optimum-intel exported; with its own cache eviction or without."""
    import numpy as np
    import openvino as ov  # type: ignore[import-not-found]  # it has an environment of its own
    import openvino_genai as peer  # type: ignore[import-not-found]

    block = 32  # tokens; every size below is a multiple of it

    def blocks(tokens: int) -> int:
        return -(-tokens // block)

    scheduling = peer.SchedulerConfig()
    scheduling.max_num_seqs = asked.rows
    scheduling.num_kv_blocks = asked.rows * (blocks(asked.prompt + asked.tokens) + 1)
    scheduling.enable_prefix_caching = False
    if evicts:
        scheduling.use_cache_eviction = True
        scheduling.cache_eviction_config = peer.CacheEvictionConfig(
            start_size=block,
            recent_size=block * blocks(asked.interval),
            max_cache_size=block * blocks(asked.budget + asked.prompt),
            aggregation_mode=peer.AggregationMode.NORM_SUM,
        )
    made = peer.ContinuousBatchingPipeline(asked.openvino, scheduling, "CPU", {"INFERENCE_NUM_THREADS": asked.threads})

    def run(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        sampling = peer.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        ids = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        return [list(each.m_generation_ids[0]) for each in made.generate(ids, [sampling] * len(prompts))]

    return run


def methods(asked: argparse.Namespace) -> dict[str, Callable[[], Run]]:
    """By name; budgets count generated tokens, in laconic's policies beside the prompt."""
    fixed = f"budget={asked.budget},buffer={asked.interval}"
    grows = f"rpc:interval={asked.interval},ratio=4,window=32"
    return {
        "generate": lambda: generate(asked),
        "kvpress SnapKV": lambda: kvpress(asked, "SnapKVPress"),
        "kvpress Knorm": lambda: kvpress(asked, "KnormPress"),
        "laconic SnapKV": lambda: compressed(asked, f"snapkv:{fixed}"),
        "laconic KNorm": lambda: compressed(asked, f"knorm:{fixed}"),
        "laconic engine, full KV": lambda: engine(asked, "full"),
        "laconic engine, SnapKV": lambda: engine(asked, f"snapkv:{fixed}"),
        "laconic engine, RPC": lambda: engine(asked, grows),
        "laconic engine, learned": lambda: engine(asked, grows.replace("rpc", "learned")),
        "OpenVINO": lambda: openvino(asked, evicts=False),
        "OpenVINO with eviction": lambda: openvino(asked, evicts=True),
        "vLLM": lambda: vllm(asked, {}),
        "vLLM with laconic, RPC": lambda: vllm(
            asked, {"policy": "rpc", "interval": asked.interval, "ratio": 4, "window": 32}
        ),
    }


def vocabulary(asked: argparse.Namespace) -> int:
    """Tokens that the model knows."""
    from transformers import AutoConfig

    found: int = AutoConfig.from_pretrained(asked.model).vocab_size
    return found


def memory(who: int = resource.RUSAGE_SELF) -> float:
    """The most MiB that this process (or any of its children) has had."""
    peak = resource.getrusage(who).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--interval", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=int, default=1024, help="MiB of KV cache, vLLM alone")
    parser.add_argument("--openvino", default="", help="the model as optimum-intel exported it, for OpenVINO alone")
    asked = parser.parse_args()
    known = methods(asked)
    if asked.method not in known:
        parser.error(f"the method {asked.method!r} is unknown; expected one of {', '.join(known)}")
    torch.set_num_threads(asked.threads)
    made = known[asked.method]()
    generator, highest = torch.Generator().manual_seed(0), min(10_000, vocabulary(asked))
    prompts = torch.randint(10, highest, (asked.rows, asked.prompt), generator=generator).tolist()
    made(prompts, 8)  # what is made once
    before = memory()
    start = time.perf_counter()
    found = made(prompts, asked.tokens)
    seconds = time.perf_counter() - start
    if [len(row) for row in found] != [asked.tokens] * asked.rows:
        sys.exit(
            f"error: {asked.method} generated {[len(row) for row in found]} tokens; expected {asked.tokens} in each row"
        )
    print(
        json.dumps(
            {
                "method": asked.method,
                "seconds": round(seconds, 3),
                "tokens_per_second": round(asked.rows * asked.tokens / seconds, 2),
                "memory": round(max(memory(), memory(resource.RUSAGE_CHILDREN)), 1),
                "memory_before": round(before, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
