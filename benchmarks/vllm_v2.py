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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

from tests.engines.vllm.tiny import engine_args, runner_of, running, scheduler_of, tiny_model
from tests.reference.generation import reference_generate

from laconic.bench.environment import environment
from laconic.engines.vllm.settings import parse_launch
from laconic.errors import LaconicError

RPC = {"policy": "rpc", "interval": 64, "ratio": 4, "window": 8}
GROUP = {**RPC, "aggregation": "group"}
NONE = {"policy": "none"}
MIXED = [
    NONE,
    RPC,
    GROUP,
    {"policy": "rpc", "interval": 48, "ratio": 2, "window": 16},
    {"policy": "rkv", "budget": 64, "buffer": 32, "window": 8},
    {"policy": "streamingllm", "budget": 40, "buffer": 16},
]
LAUNCH = {**RPC, "queries": 16}
BLOCK = 32
SEED = 1


@dataclass(frozen=True)
class Ask:
    """A request: token ids; laconic's settings; how many tokens to generate; how many of the ids are the prompt (none: all)."""

    prompt: tuple[int, ...]
    settings: dict[str, Any]
    tokens: int
    prompt_tokens: int | None = None


@dataclass
class Seen:
    """What a drive saw: each ask's tokens, and counts over all steps."""

    tokens: list[list[int]] = field(default_factory=list)
    steps: int = 0
    preemptions: int = 0
    hits: int = 0
    wrong_blocks: list[str] = field(default_factory=list)
    least_held: float = 1.0


def physical(settings: dict[str, Any], prompt: int, computed: int) -> int:
    """Tokens a request holds once `computed` are: from the settings alone, without laconic."""
    generated = max(0, computed - prompt)
    if settings["policy"] == "none":
        return computed
    if settings["policy"] == "rpc":
        interval = settings["interval"]
        rounds = max(0, (generated - settings["window"]) // interval)
        return computed - rounds * (interval - interval // settings["ratio"])
    return computed - max(0, (generated - settings["budget"]) // settings["buffer"]) * settings["buffer"]


def drive(llm: Any, asks: Sequence[Ask], *, between: Callable[[int], None] | None = None, abort_after: int = 0) -> Seen:
    """Run `asks` together, step by step, and look at every request's blocks after each step.

    between: called with the step's number after each step. abort_after: steps after which every second request is aborted.
    """
    from vllm import SamplingParams

    engine, scheduler, tables = llm.llm_engine, scheduler_of(llm), runner_of(llm).block_tables
    seen, done, preempted = Seen(), {}, {}
    for number, ask in enumerate(asks):
        extra = {"laconic": ask.settings | ({} if ask.prompt_tokens is None else {"prompt_tokens": ask.prompt_tokens})}
        params = SamplingParams(temperature=0.0, max_tokens=ask.tokens, ignore_eos=True, extra_args=extra)
        engine.add_request(str(number), {"prompt_token_ids": list(ask.prompt)}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                done[int(output.request_id)] = list(output.outputs[0].token_ids)
                seen.hits += output.num_cached_tokens or 0
        seen.steps += 1
        rows = runner_of(llm).req_states.req_id_to_index
        for request in scheduler.running:
            given = request.sampling_params.extra_args["laconic"]
            prompt = given.get("prompt_tokens", request.num_prompt_tokens)
            held = physical(given, prompt, request.num_computed_tokens)
            ids = [block.block_id for block in scheduler.blocks.req_to_blocks[request.request_id]]
            row = rows.get(request.request_id)
            count = 0 if row is None else int(tables.num_blocks.np[0, row])
            theirs = tables.block_tables[0].gpu[row, :count].tolist()
            if len(ids) != -(-held // BLOCK) or theirs != ids:
                seen.wrong_blocks.append(f"step {seen.steps}: {held} tokens in blocks {ids}, the runner's {theirs}")
            seen.least_held = min(seen.least_held, held / max(1, request.num_computed_tokens))
            preempted[request.request_id] = request.num_preemptions
        if between is not None:
            between(seen.steps)
        if seen.steps == abort_after:
            engine.abort_request([str(number) for number in range(0, len(asks), 2)])
    seen.tokens = [done.get(number, []) for number in range(len(asks))]
    seen.preemptions = sum(preempted.values())
    return seen


class Bench:
    """The model, what stock and the reference make of it, and the checks with their rows."""

    def __init__(self, path: Path, tokens: int) -> None:
        from transformers import AutoModelForCausalLM

        self.path, self.tokens = path, tokens
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        made = torch.Generator().manual_seed(SEED)
        lengths = (20, 33, 70, 101)
        self.prompts = [tuple(torch.randint(4, 100, (n,), generator=made).tolist()) for n in lengths]
        self.stock: list[list[int]] = []
        self.rows: list[dict[str, Any]] = []
        self._reference = cache(self._reference_of)

    def reference(self, ask: Ask) -> list[int]:
        return self._reference(ask.prompt, json.dumps(ask.settings), ask.tokens)

    def _reference_of(self, prompt: tuple[int, ...], settings: str, tokens: int) -> list[int]:
        policy = parse_launch(json.loads(settings)).policy
        return reference_generate(self.model, torch.tensor([prompt]), policy, tokens)

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
    compressor = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.laconic
    drive(llm, [Ask(prompts[0], NONE, 2)])  # a step in which the worker hears who has finished
    left = [len(scheduler_of(llm).plans), len(compressor._held) - 1]
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


def interpret() -> None:
    """Let vLLM believe in Triton here: it looks for a compiler for CPUs, where the interpreter needs none."""
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=object(), compiler=None)
    try:
        from vllm.triton_utils import HAS_TRITON
    finally:
        del backends["cpu"]
    if not HAS_TRITON:
        raise LaconicError(
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
    here = environment(["laconic", *(sys.argv[1:] if argv is None else argv)])
    here["command"] = here["command"].replace("laconic", "python benchmarks/vllm_v2.py", 1)
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
