"""Where a step of laconic's engine goes: the matrix products, attention, other operations of torch, and Python.

    python benchmarks/step_time.py --out benchmarks/step-time

Of the shape `tiny-kv` (random weights, float32), as `benchmarks/peers/run.py` has it: 8 rows with prompts of 64 tokens. Each
method decodes the same tokens twice, plain for the milliseconds a step, and under cProfile for the shares; the profile makes
what is written in Python look dearer than it is.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from laconic.compress import parse
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.shapes import build, get_shape
from laconic.environment import script_environment
from laconic.files import write_text

METHODS = ("full", "snapkv:budget=256,buffer=128", "rpc:interval=128,ratio=4,window=32")
KINDS = {"torch._C._nn.linear": "matrix products", "scaled_dot_product_attention": "attention"}


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Of the profiled time by kind: what runs inside a function itself, without those that it calls."""
    found = dict.fromkeys((*KINDS.values(), "other operations of torch", "Python"), 0.0)
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # typeshed lacks it
    for (file, _, name), (_, _, own, *_) in stats.items():
        kind = next((kind for part, kind in KINDS.items() if part in name), None)
        if kind is None:
            kind = "other operations of torch" if file == "~" and "torch" in name else "Python"
        found[kind] += own
    total = sum(found.values())
    return {kind: round(seconds / total, 3) for kind, seconds in found.items()}


def measure(decode: Callable[[int], Any], tokens: int) -> dict[str, Any]:
    decode(8)  # what is made once
    start = time.perf_counter()
    decode(tokens)
    seconds = time.perf_counter() - start
    profile = cProfile.Profile()
    profile.runcall(decode, tokens)
    return {"milliseconds_a_step": round(1e3 * seconds / tokens, 2), "shares": shares(profile)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = build(get_shape("tiny-kv"), torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 500, (8, 64), generator=generator).tolist()
    told: dict[str, Any] = {
        **script_environment(__file__),
        "tokens": asked.tokens,
        "threads": asked.threads,
        "methods": {},
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    for spec in METHODS:

        def decode(tokens: int, spec: str = spec) -> Any:
            engine = HFEngine(model, None, parse(spec), max_batch=len(prompts))
            return engine.generate(prompts, Sampling(max_new_tokens=tokens, temperature=0))

        told["methods"][spec] = measure(decode, asked.tokens)
        write_text(asked.out / "results.json", json.dumps(told, indent=1) + "\n")
        print(spec, told["methods"][spec], flush=True)


if __name__ == "__main__":
    main()
