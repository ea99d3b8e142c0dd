"""Where the time of a decode step goes: torch's own profiler over the steps of one engine, by kind of operation.

    python benchmarks/step_profile.py --model DIR --out benchmarks/step-profile

Rows of a prompt of random token ids are decoded to `--tokens`; the profiler looks at the latter half, in turns with steps that
it does not look at, whose seconds tell what it costs itself.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from laconic.compress import parse
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.environment import script_environment
from laconic.files import write_text

KINDS = (
    ("weights times tokens", ("aten::mm", "aten::addmm", "aten::linear", "aten::matmul", "mkldnn")),
    ("attention", ("attention", "aten::bmm", "aten::baddbmm", "softmax")),
    ("KV cache: copies, gathers, sorts", ("copy_", "gather", "index", "cat", "topk", "sort", "scatter", "slice")),
    (
        "norms, activations, rotation",
        ("aten::mul", "aten::add", "aten::pow", "aten::mean", "aten::rsqrt", "silu", "neg"),
    ),
)


def kind_of(name: str) -> str:
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), "other operations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--policies", default="none;learned:interval=128,window=32")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, tokenizer = load(asked.model)
    rows = [run(model, tokenizer, spec, asked) for spec in asked.policies.split(";")]
    found = {
        **script_environment(__file__),
        "rows": asked.rows,
        "prompt": asked.prompt,
        "tokens": asked.tokens,
        "policies": rows,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "results.json", json.dumps(found, indent=1) + "\n")
    write_text(asked.out / "table.md", table(rows))
    print(table(rows))


def run(model: Any, tokenizer: Any, spec: str, asked: argparse.Namespace) -> dict[str, Any]:
    engine = HFEngine(model, tokenizer, parse(spec), max_batch=asked.rows)
    drawn = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, len(tokenizer), (asked.prompt,), generator=drawn).tolist()
    ids = engine.submit(prompt, Sampling(max_new_tokens=asked.tokens, temperature=1.0, seed=1), asked.rows)
    stream = engine.stream()
    seconds: dict[bool, float] = defaultdict(float)
    steps: dict[bool, int] = defaultdict(int)
    own: dict[str, float] = defaultdict(float)
    begin = asked.tokens // 2
    while any(engine.trace(name).state in ("waiting", "running") for name in ids):
        at = len(engine.trace(ids[-1]).token_ids)
        watched = at >= begin and (at // 16) % 2 == 0
        start = time.perf_counter()
        if watched:
            with profile(activities=[ProfilerActivity.CPU]) as told:
                ended = go_on(engine, stream, ids, 16)
            for event in told.key_averages():
                own[kind_of(event.key)] += event.self_cpu_time_total / 1e6
        else:
            ended = go_on(engine, stream, ids, 16)
        if at >= begin:
            seconds[watched] += time.perf_counter() - start
            steps[watched] += 16
        if ended:
            break
    operations = sum(own.values())
    watched_ms, plain_ms = (1000 * seconds[which] / max(steps[which], 1) for which in (True, False))
    return {
        "policy": engine.policy.spec(),
        "step_ms": round(plain_ms, 3),
        "watched_step_ms": round(watched_ms, 3),
        "shares": {kind: round(value / operations, 4) for kind, value in sorted(own.items(), key=lambda kv: -kv[1])},
        "operations_of_watched_step": round(operations / seconds[True], 4),
    }


def go_on(engine: HFEngine, stream: Any, ids: list[str], steps: int) -> bool:
    """So many steps, each a chunk a row. True: the traces have ended."""
    return any(next(stream, None) is None for _ in range(steps * len(ids)))


def table(rows: list[dict[str, Any]]) -> str:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["shares"]))
    lines = ["| of a step's operations | " + " | ".join(row["policy"].split(":")[0] for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for kind in kinds:
        lines.append(f"| {kind} | " + " | ".join(f"{row['shares'].get(kind, 0):.1%}" for row in rows) + " |")
    lines.append("| a step, ms | " + " | ".join(f"{row['step_ms']:.1f}" for row in rows) + " |")
    lines.append(
        "| operations, of a step that is watched | "
        + " | ".join(f"{row['operations_of_watched_step']:.1%}" for row in rows)
        + " |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
