"""Compression under vLLM's second model runner, checked on a CPU: every check passes, or the exit code says that one didn't.

    python benchmarks/vllm_v2.py --out benchmarks/vllm-v2

Model Runner V2 is the default on GPUs. Its kernels are Triton's, which a CPU runs with `TRITON_INTERPRET=1` (set here, like
`VLLM_USE_V2_MODEL_RUNNER=1`): exact, and slow. Triton takes a gigabyte, so these checks are a script of their own, not part of
the tests; beside what `make setup-vllm` installs they need `pip install --no-deps triton`. The tokens of a tiny random model in
float32 are compared with stock vLLM's and with the tests' slow reference (tests/reference/generation.py), under the
synchronous and the asynchronous scheduler; after every step, the blocks of every request with plain arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

from benchmarks.vllm_driving import Ask, Seen, drive, worker_of
from tests.engines.vllm.live import Reference, prompts_of
from tests.engines.vllm.tiny import engine_args, runner_of, running, scheduler_of, tiny_model

from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.environment import script_environment
from laconic.errors import InputError, LaconicError

RPC: dict[str, Any] = {"policy": "rpc", "interval": 64, "ratio": 4, "window": 8}
GROUP: dict[str, Any] = {**RPC, "aggregation": "group"}
NONE: dict[str, Any] = {"policy": "none"}
MIXED: list[dict[str, Any]] = [
    NONE,
    RPC,
    GROUP,
    {"policy": "rpc", "interval": 48, "ratio": 2, "window": 16},
    {"policy": "rkv", "budget": 64, "buffer": 32, "window": 8},
    {"policy": "streamingllm", "budget": 40, "buffer": 16},
]
LAUNCH = {**RPC, "queries": 16}
BLOCK = 32


class Bench:
    """The model, what stock and the reference make of it, and the checks with their rows."""

    def __init__(self, path: Path, tokens: int) -> None:
        self.tokens = tokens
        self.prompts = [tuple(prompt) for prompt in prompts_of((20, 33, 70, 101))]
        self.stock: list[list[int]] = []
        self.rows: list[dict[str, Any]] = []
        self._reference = Reference(path)

    def reference(self, ask: Ask) -> list[int]:
        assert ask.settings is not None
        tokens = self._reference(ask.prompt, parse_launch(ask.settings).policy, ask.tokens)
        return tokens if ask.stop is None else tokens[: tokens.index(ask.stop) + 1]

    def row(self, name: str, scheduling: str, seen: Seen | None, wrong: Sequence[str], **more: Any) -> None:
        wrong = list(wrong) + ([] if seen is None else seen.wrong_blocks)
        counts = {}
        if seen is not None:
            counts = {"requests": len(seen.tokens), "steps": seen.steps, "least_held": round(seen.least_held, 3)}
        self.rows.append(
            {"check": name, "scheduling": scheduling, "passed": not wrong, **counts, **more, "wrong": wrong[:3]}
        )
        shown = ", ".join(f"{key} {value}" for key, value in {**counts, **more}.items())
        print(
            f"{'FAIL' if wrong else 'PASS'}  {scheduling:5}  {name} ({shown})"
            + "".join(f"\n      {w}" for w in wrong[:3])
        )

    def against_reference(self, asks: Sequence[Ask], seen: Seen) -> list[str]:
        """What differs from the reference, in words."""
        wrong = []
        for ask, got in zip(asks, seen.tokens, strict=True):
            want = self.reference(ask)
            if got != want:
                first = next(
                    (i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want))
                )
                wrong.append(f"{ask.settings}, prompt {len(ask.prompt)}: other than the reference from token {first}")
        return wrong


def stock(bench: Bench, llm: Any) -> None:
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    runner = runner_of(llm)
    wrong = [] if isinstance(runner, GPUModelRunner) else [f"the model runner is {type(runner).__module__}'s"]
    params = SamplingParams(temperature=0.0, max_tokens=bench.tokens, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": list(p)} for p in bench.prompts], params, use_tqdm=False)
    bench.stock = [list(output.outputs[0].token_ids) for output in outputs]
    seen = Seen(tokens=bench.stock)
    asks = [Ask(p, NONE, bench.tokens) for p in bench.prompts]
    bench.row("stock, without laconic = reference", "sync", None, wrong + bench.against_reference(asks, seen))


def roomy(bench: Bench, llm: Any, scheduling: str) -> None:
    """Checks with room for everybody."""
    N, prompts = bench.tokens, bench.prompts
    pool = scheduler_of(llm).kv_cache_manager.block_pool
    free = pool.get_num_free_blocks()

    for name, settings in [("policy none", NONE), ("RPC ratio 1", {**RPC, "ratio": 1})]:
        seen = drive(llm, [Ask(p, settings, N) for p in prompts])
        wrong = [
            f"prompt {len(p)} differs" for p, a, b in zip(prompts, seen.tokens, bench.stock, strict=True) if a != b
        ]
        bench.row(f"no eviction ({name}) = stock", scheduling, seen, wrong)

    for name, settings in [("layer", RPC), ("group", GROUP)]:
        asks = [Ask(p, settings, N) for p in prompts]
        seen = drive(llm, asks)
        wrong = bench.against_reference(asks, seen)
        wrong += [] if seen.tokens != bench.stock else ["nothing differs from stock: the check shows nothing"]
        bench.row(f"RPC c = 4, {name} = reference", scheduling, seen, wrong)

    asks = [Ask(p, settings, N) for settings in MIXED for p in prompts[1:3]]
    seen = drive(llm, asks)
    bench.row("settings mixed in one batch = reference", scheduling, seen, bench.against_reference(asks, seen))

    asks = [Ask(prompts[3], settings, N) for settings in (RPC, GROUP, NONE, RPC)]
    seen = drive(llm, asks)
    wrong = bench.against_reference(asks, seen)
    expected = len(asks) * ((len(prompts[3]) - 1) // BLOCK * BLOCK)
    wrong += [] if seen.hits >= expected else [f"{seen.hits} prompt tokens came from the cache, not {expected}"]
    bench.row("prefix hits = reference", scheduling, seen, wrong, cached_tokens=seen.hits)

    turn = (*prompts[3], *bench.reference(asks[0]), *prompts[0])
    asks = [Ask(turn, settings, N // 2) for settings in (RPC, NONE)]
    seen = drive(llm, asks)
    bench.row("second turn = reference", scheduling, seen, bench.against_reference(asks, seen), cached_tokens=seen.hits)

    # Of the prompt whose answer has just been part of another one's prompt, and so lies uncompressed in the prefix cache.
    wrong, asks, whole = [], [], {}
    for cut in (1, 63, 72, 73, 150):
        for settings in (RPC, GROUP):
            ask = Ask(prompts[3], settings, N)
            whole[len(asks)] = bench.reference(ask)[cut:]
            asks.append(Ask((*ask.prompt, *bench.reference(ask)[:cut]), settings, N - cut, len(ask.prompt)))
    seen = drive(llm, asks)
    wrong = [f"cut {i}: differs" for i, tokens in enumerate(seen.tokens) if tokens != whole[i]]
    bench.row("a stopped trace resumed = the uninterrupted one", scheduling, seen, wrong)

    asks = [Ask(p, settings, N) for p in prompts for settings in (RPC, GROUP)]
    seen = drive(llm, asks, between=lambda step: runner_of(llm)._dummy_run(1 + step % 8) if step % 3 == 0 else None)
    bench.row("dummy runs between steps = reference", scheduling, seen, bench.against_reference(asks, seen))

    seen = drive(llm, asks, abort_after=N // 2)
    wrong = bench.against_reference(asks[1::2], Seen(tokens=seen.tokens[1::2]))
    drive(llm, [Ask(prompts[0], NONE, 2)])  # a step in which the worker hears who has finished
    left = [len(scheduler_of(llm).plans), len(worker_of(llm).compressor._requests) - 1]
    wrong += [] if left == [0, 0] else [f"plans and ring slots left: {left}"]
    missing = free - pool.get_num_free_blocks()
    wrong += [f"{missing} blocks are missing"] if missing else []
    bench.row("half of them aborted; the pool is full again", scheduling, seen, wrong)


def tight(bench: Bench, llm: Any, scheduling: str) -> None:
    """Checks in a cache that forces preemptions."""
    asks = [Ask(p, settings, bench.tokens) for settings in MIXED[:5] for p in bench.prompts]
    seen = drive(llm, asks)
    wrong = bench.against_reference(asks, seen)
    wrong += [] if seen.preemptions else ["nobody was preempted: the check shows nothing"]
    bench.row("forced preemptions = reference", scheduling, seen, wrong, preemptions=seen.preemptions)

    # A step ahead, a request that ended is computed once more, while its blocks may have gone to others.
    asks = []
    for number, ask in enumerate(
        Ask(p, settings, bench.tokens) for settings in (RPC, GROUP) * 3 for p in bench.prompts
    ):
        text = bench.reference(ask)
        asks.append(replace(ask, stop=None if number % 3 == 0 else text[60 + number % 7 + 64 * (number % 2)]))
    seen = drive(llm, asks)
    bench.row("texts that end early = reference", scheduling, seen, bench.against_reference(asks, seen))


def interpret() -> None:
    """Let vLLM believe in Triton here: it looks for a compiler for CPUs, where the interpreter needs none."""
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=object(), compiler=None)
    try:
        from vllm.triton_utils import HAS_TRITON
    finally:
        del backends["cpu"]
    if not HAS_TRITON:
        raise InputError(
            "vLLM does not take the installed Triton; the checks were written for vLLM 0.32 and Triton 3.9"
        )


@contextmanager
def schedule_ahead(wanted: bool) -> Iterator[None]:
    """Engines made inside schedule a step ahead, which vLLM turns off on CPUs: nothing to gain there, not impossible."""
    from vllm.platforms.cpu import CpuPlatform

    before = CpuPlatform.__dict__["check_and_update_config"]

    def check_and_update_config(cls: type[CpuPlatform], vllm_config: Any) -> None:
        before.__func__(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = wanted

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    try:
        yield
    finally:
        CpuPlatform.check_and_update_config = before


def run(path: Path, tokens: int, schedulings: Sequence[str]) -> Bench:
    bench = Bench(path, tokens)
    with running(path) as llm:
        stock(bench, llm)
    small = {"kv_cache_memory_bytes": 1 << 20, "max_model_len": 512, "max_num_batched_tokens": 128, "max_num_seqs": 16}
    for scheduling in schedulings:
        for part, args in ((roomy, {}), (tight, small)):
            with (
                schedule_ahead(scheduling == "async"),
                running(path, additional_config={"laconic": LAUNCH}, **args) as llm,
            ):
                ahead = llm.llm_engine.engine_core.engine_core.batch_queue is not None
                name = type(scheduler_of(llm)).__name__
                wrong = (
                    []
                    if (name, ahead) in (("Scheduler", False), ("AsyncScheduler", True))
                    else [f"{name}, ahead {ahead}"]
                )
                wrong += [] if ahead == (scheduling == "async") else [f"schedules ahead: {ahead}"]
                bench.row(f"engine for {part.__name__} checks", scheduling, None, wrong, scheduler=name)
                try:
                    part(bench, llm, scheduling)
                except Exception as error:  # a row, and on with the next engine: what else holds is worth knowing
                    bench.row(f"{part.__name__} checks ran", scheduling, None, [f"{type(error).__name__}: {error}"])
    return bench


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| check | scheduling | result | requests | steps | least share of its tokens that a request held |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        result = "pass" if row["passed"] else "**FAIL**"
        cells = [
            row["check"],
            row["scheduling"],
            result,
            row.get("requests", ""),
            row.get("steps", ""),
            row.get("least_held", ""),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of results.json and table.md")
    parser.add_argument("--tokens", type=int, default=220, help="that each request generates (220)")
    parser.add_argument("--scheduling", choices=("sync", "async", "both"), default="both")
    given = parser.parse_args(argv)
    if not 160 <= given.tokens <= 300:
        parser.error(
            f"--tokens is {given.tokens}; expected 160 to 300: at least two compressions, and room in the tight cache"
        )
    for package in ("vllm", "triton"):
        if util.find_spec(package) is None:
            print(
                f"error: {package} is not installed; this file's first lines say what is needed",
                file=sys.stderr,
            )
            return 2
    torch.set_num_threads(1)
    try:
        interpret()
    except LaconicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    schedulings = ("sync", "async") if given.scheduling == "both" else (given.scheduling,)
    with tempfile.TemporaryDirectory() as folder:
        bench = run(tiny_model(Path(folder)), given.tokens, schedulings)
        settings = {key: value for key, value in engine_args(Path("tiny")).items() if key != "use_tqdm_on_load"}
    here = script_environment(__file__, argv)
    here["versions"]["triton"] = metadata.version("triton")
    passed = all(row["passed"] for row in bench.rows)
    record = {
        "environment": here,
        "engine": settings,
        "launch": LAUNCH,
        "tokens": given.tokens,
        "seconds": round(time.monotonic() - started),
        "passed": passed,
        "checks": bench.rows,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (given.out / "table.md").write_text(table(bench.rows), encoding="utf-8")
    print(f"{sum(row['passed'] for row in bench.rows)} of {len(bench.rows)} checks passed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
