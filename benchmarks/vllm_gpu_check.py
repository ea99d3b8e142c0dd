"""Does compression under vLLM work on this GPU? PASS or FAIL for each attention backend and type; exit code 1 on a FAIL.

    python benchmarks/vllm_gpu_check.py                                   # all backends that are installed, bf16 and fp16
    python benchmarks/vllm_gpu_check.py --backend TRITON_ATTN --dtype float32
    python benchmarks/vllm_gpu_check.py --backend CPU_ATTN                # what of it a CPU can check

**Not run on a GPU yet.** It was written where there was none; its path for CPUs is tested. Run it from a clone of the
repository in an environment with laconic and vLLM; nothing is downloaded. Each engine takes a process of its own, about a
minute with CUDA graphs, so that all backends with both types are done in about twenty minutes.

Half precision rounds, and every backend rounds otherwise, so tokens alone show little: a right engine may write others, and a
wrong one the same. The model made here says a fixed cycle of tokens whatever its cache holds, while the other tokens'
log-probabilities, and what a compression keeps, depend on all of the cache. So these are compared: without compression with
stock vLLM; with it, those under CUDA graphs with those without (by as much as stock vLLM itself differs between the two), and
all of them with the slow reference of the tests in float32, from which they may differ by a third of what compression changes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.vllm_driving import Ask, drive, worker_of
from tests.engines.vllm.live import prompts_of
from tests.engines.vllm.tiny import SPECIAL, tiny_model

from laconic.engines.vllm.plugin.settings import parse_launch
from laconic.environment import script_environment

RPC = {"policy": "rpc", "interval": 64, "ratio": 4, "window": 8}
POLICIES: dict[str, dict[str, Any]] = {
    "none": {"policy": "none"},
    "rpc, layer": RPC,
    "rpc, group": {**RPC, "aggregation": "group"},
    "streamingllm": {"policy": "streamingllm", "budget": 64, "buffer": 32},
}
PACKAGES = {
    "FLASH_ATTN": "vllm.vllm_flash_attn",
    "TRITON_ATTN": "triton",
    "FLASHINFER": "flashinfer",
    "CPU_ATTN": "vllm",
}
DTYPES = ("bfloat16", "float16", "float32")
MODES = ("eager", "graphs")
# Of kept tokens, those that the reference keeps too. Chance gives a third. Rounding moves single tokens across the line.
LEAST_SHARED = {"bfloat16": 0.8, "float16": 0.8, "float32": 0.97}
# A mean difference of log-probabilities that may be rounding, where stock vLLM has none. Compression makes 0.2 and more.
ROUNDING = {"bfloat16": 0.01, "float16": 0.002, "float32": 1e-4}


def cycle_model(path: Path) -> Path:
    """A random model that says one cycle of all tokens: each token's embedding has a direction of its own, and is large."""
    from transformers import AutoModelForCausalLM

    tiny_model(path, head_dim=64, heads=4, kv_heads=2)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    vocab, width = model.lm_head.weight.shape
    made = torch.Generator().manual_seed(0)
    codes = torch.linalg.qr(torch.randn((width, width), generator=made)).Q[:vocab]
    order = torch.randperm(vocab - len(SPECIAL), generator=made) + len(SPECIAL)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(codes * 1500)
        model.lm_head.weight.copy_(torch.randn((vocab, width), generator=made) * 0.05)
        model.lm_head.weight[order.roll(-1)] += codes[order]
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())  # the same model in every type
    model.save_pretrained(path)
    return path


def asks(settings: dict[str, Any] | None, tokens: int) -> list[Ask]:
    """Four requests: as many as a captured graph takes, so that nothing is padded."""
    return [Ask(tuple(prompt), settings, tokens) for prompt in prompts_of((20, 33, 70, 101))]


# ---- one engine, in a process of its own ----------------------------------------------------------------------------------


def work(spec: dict[str, Any]) -> None:
    """Run the engine that `spec` describes and save what it did."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    args: dict[str, Any] = {"block_size": 32} if spec["backend"] == "CPU_ATTN" else {}
    if spec["mode"] == "graphs":
        args["compilation_config"] = {"cudagraph_capture_sizes": [1, 2, 4]}
    if spec["laconic"]:
        args["additional_config"] = {"laconic": RPC}
    llm = LLM(
        model=spec["model"],
        dtype=spec["dtype"],
        attention_backend=spec["backend"],
        enforce_eager=spec["mode"] == "eager",
        max_model_len=512,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 << 20,
        disable_log_stats=True,
        seed=0,
        **args,
    )
    worker, made = worker_of(llm), {}
    for name, settings in POLICIES.items() if spec["laconic"] else [("stock", None)]:
        seen = drive(llm, asks(settings, spec["tokens"]), logprobs=20)
        kept = [{layer: where.tolist() for layer, where in one.items()} for one in seen.kept]
        made[name] = {
            "tokens": seen.tokens,
            "logprobs": seen.logprobs,
            "kept": kept,
            "wrong_blocks": seen.wrong_blocks[:3],
        }
    runner = worker.model_runner
    about = {
        "runner": f"{type(runner).__module__}.{type(runner).__name__}",
        "graphs": str(worker.vllm_config.compilation_config.cudagraph_mode).removeprefix("CUDAGraphMode."),
        "block_size": worker.vllm_config.cache_config.block_size,
        "layouts": [] if not spec["laconic"] else [_round_trip(layer) for layer in worker.compressor.layers],
    }
    torch.save({"made": made, "about": about}, spec["out"])
    llm.llm_engine.engine_core.shutdown()


def _round_trip(layer: Any) -> str:
    """Nothing, or what is wrong with reading what was written into a layer's cache; nobody's requests are in it any more."""
    cache, size = layer.cache(), layer.layout.size
    slots = torch.randperm(cache.shape[0] * size, generator=torch.Generator().manual_seed(0))[:300].to(cache.device)
    made = torch.Generator().manual_seed(1)
    key, value = (
        torch.randn((300, layer.kv_heads, layer.head_size), generator=made).to(device=cache.device, dtype=cache.dtype)
        for _ in range(2)
    )
    layer.write(key, value, cache, slots)
    keys, values = layer.layout.read(cache, slots)
    same = torch.equal(keys, key) and torch.equal(values, value)
    return "" if same else f"{layer.name}: what is read is not what was written"


def start(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`work` in a process; {"error": ...} if it failed."""
    name = "-".join(str(spec[key]) for key in ("backend", "dtype", "mode", "laconic"))
    spec = {**spec, "out": str(folder / f"{name}.pt")}
    command = [sys.executable, __file__, "--worker", json.dumps(spec)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "took longer than 15 minutes"}
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "Error" in line]
            or done.stderr.splitlines()
            or ["nothing said"]
        )
        return {"error": f"exit code {done.returncode}: {lines[-1].strip()}"}
    return dict(torch.load(spec["out"], weights_only=True))


# ---- comparing ------------------------------------------------------------------------------------------------------------


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The mean difference of log-probabilities that both name, up to where the tokens differ; infinite if they do."""
    if one["tokens"] != other["tokens"]:
        return float("inf")
    pairs = [
        abs(a[token] - b[token])
        for first, second in zip(one["logprobs"], other["logprobs"], strict=True)
        for a, b in zip(first, second, strict=True)
        for token in a.keys() & b.keys()
    ]
    return sum(pairs) / len(pairs)


def shared(kept: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> float:
    """Of the tokens that the last compression of each request left in `kept`, the share that `other` has too; the least of all
    layers, each the mean of its requests."""
    if not all(kept) or not all(other):
        return 0.0
    layers = []
    for layer in kept[0]:
        shares = []
        for mine, theirs in zip(kept, other, strict=True):
            for group, against in zip(mine[layer], theirs[layer], strict=True):
                shares.append(len(set(group) & set(against)) / len(group))
        layers.append(sum(shares) / len(shares))
    return min(layers)


def reference(path: Path, settings: dict[str, Any], tokens: int) -> dict[str, Any]:
    """What the slow reference does in float32, as `work` has it: tokens, log-probabilities, what the last compression kept."""
    from tests.reference.generation import reference_run
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    logits: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, args, out: logits.append(out.logits[0, -1]))
    policy = parse_launch(settings).policy
    last = max((n for n in range(1, tokens) if policy.schedule.next_boundary(n - 1) == n), default=0)
    groups = None if settings.get("aggregation") == "group" else 1
    made: dict[str, Any] = {"tokens": [], "logprobs": [], "kept": []}
    for ask in asks(settings, tokens):
        logits.clear()
        run = reference_run(model, torch.tensor([ask.prompt]), policy, tokens)
        made["tokens"].append(run.tokens)
        made["logprobs"].append([dict(enumerate(step.log_softmax(-1).tolist())) for step in logits])
        kept = {
            index: [[p for p in head if p < last] for head in heads[:groups]] for index, heads in run.positions.items()
        }
        made["kept"].append({f"model.layers.{index}.self_attn.attn": heads for index, heads in kept.items()})
    return made


def rows_of(dtype: str, runs: dict[tuple[str, bool], dict[str, Any]], expected: dict[str, dict[str, Any]]) -> list[Any]:
    """(what, passed, numbers) of one backend and type. runs: (mode, with laconic) -> what `start` gave."""
    rows = []
    for (mode, laconic), run in runs.items():
        if "error" in run:
            rows.append((f"{'laconic' if laconic else 'stock vLLM'}, {mode}: the engine ran", False, run["error"]))
    if rows:
        return rows
    modes = [mode for mode in MODES if (mode, True) in runs]
    made = {key: run["made"] for key, run in runs.items()}
    noise = 0.0
    if len(modes) == 2:
        mode = runs["graphs", True]["about"]["graphs"]
        rows.append(("CUDA graphs are captured", mode != "NONE", mode))
        noise = apart(made["eager", False]["stock"], made["graphs", False]["stock"])
        rows.append(("stock: eager and graphs say the same cycle", noise < float("inf"), f"{noise:.5f} apart"))
    most = max(ROUNDING[dtype], 3 * noise)
    for mode in modes:
        about, now = runs[mode, True]["about"], made[mode, True]
        wrong = [said for said in about["layouts"] if said]
        rows.append(
            (f"{mode}: layout round trip", bool(about["layouts"]) and not wrong, "; ".join(wrong) or about["runner"])
        )
        blocks = [said for policy in now.values() for said in policy["wrong_blocks"]]
        rows.append((f"{mode}: blocks after every step", not blocks, "; ".join(blocks[:1])))
        gap = apart(now["none"], made[mode, False]["stock"])
        rows.append((f"{mode}: policy none = stock", gap <= most, f"{gap:.5f} apart"))
        for name, right in expected.items():
            other = "rpc, layer" if name == "none" else "none"
            gap, contrast = apart(now[name], right), apart(now[name], expected[other])
            numbers, passed = f"{gap:.5f} apart, {contrast:.5f} from {other}", gap <= contrast / 3 < float("inf")
            if name != "none":
                share = shared(now[name]["kept"], right["kept"])
                numbers, passed = f"{share:.1%} of kept tokens, {numbers}", passed and share >= LEAST_SHARED[dtype]
            rows.append((f"{mode}: {name} = reference", passed, numbers))
    if len(modes) == 2:
        for name in [name for name in expected if name != "none"]:
            one, other = made["eager", True][name], made["graphs", True][name]
            gap, share = apart(one, other), shared(one["kept"], other["kept"])
            passed = gap <= most and share >= LEAST_SHARED[dtype]
            rows.append((f"{name}: eager = graphs", passed, f"{gap:.5f} apart, {share:.1%} of kept tokens"))
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backend", help=f"with commas, of {', '.join(PACKAGES)} (all three of a GPU that are installed)"
    )
    parser.add_argument(
        "--dtype", help=f"with commas, of {', '.join(DTYPES)} (bfloat16,float16)", default="bfloat16,float16"
    )
    parser.add_argument("--tokens", type=int, default=220, help="that each request generates (220)")
    parser.add_argument("--out", type=Path, help="directory for results.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.worker:
        work(json.loads(given.worker))
        return 0
    backends = given.backend.split(",") if given.backend else list(PACKAGES)[:3]
    dtypes = given.dtype.split(",")
    for option, words, known in (("--backend", backends, PACKAGES), ("--dtype", dtypes, DTYPES)):
        for word in words:
            if word not in known:
                parser.error(f"{option} has {word!r}; expected some of {', '.join(known)}, with commas")
    if not 140 <= given.tokens <= 400:
        parser.error(f"--tokens is {given.tokens}; expected 140 to 400: two compressions at least")
    if util.find_spec("vllm") is None:
        print("error: vllm is not installed; install laconic-llm[vllm]", file=sys.stderr)
        return 2
    if backends != ["CPU_ATTN"] and not torch.cuda.is_available():
        print("error: torch sees no GPU; on a CPU only --backend CPU_ATTN can be checked", file=sys.stderr)
        return 2
    record: list[dict[str, Any]] = []

    def say(backend: str, dtype: str, what: str, result: str, numbers: str) -> None:
        record.append({"backend": backend, "dtype": dtype, "check": what, "result": result, "numbers": numbers})
        print(f"{result}  {backend:11} {dtype:8}  {what}" + (f" ({numbers})" if numbers else ""), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = cycle_model(folder / "model")
        expected = {policy: reference(model, settings, given.tokens) for policy, settings in POLICIES.items()}
        for backend in backends:
            if util.find_spec(PACKAGES[backend]) is None:
                result = "FAIL" if given.backend else "SKIP"
                say(backend, "", "is installed", result, f"there is no package {PACKAGES[backend]}")
                continue
            for dtype in dtypes:
                modes = ("eager",) if backend == "CPU_ATTN" else MODES
                spec = {"model": str(model), "backend": backend, "dtype": dtype, "tokens": given.tokens}
                runs = {
                    (mode, laconic): start({**spec, "mode": mode, "laconic": laconic}, folder)
                    for mode in modes
                    for laconic in (False, True)
                }
                for what, passed, numbers in rows_of(dtype, runs, expected):
                    say(backend, dtype, what, "PASS" if passed else "FAIL", numbers)
    failed = sum(row["result"] == "FAIL" for row in record)
    passed = sum(row["result"] == "PASS" for row in record)
    print(f"{passed} passed, {failed} failed, {len(record) - passed - failed} skipped")
    if given.out:
        here = script_environment(__file__, argv)
        given.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"environment": here, "passed": not failed and passed > 0, "checks": record}, indent=1)
        (given.out / "results.json").write_text(text + "\n", encoding="utf-8")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
