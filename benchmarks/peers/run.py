r"""Speed and memory of laconic beside what one would use instead: each method in a process of its own, interleaved.

    python -m venv .venv-kvpress && .venv-kvpress/bin/pip install "kvpress==0.5.5" "transformers<5.3"
    python -m venv .venv-openvino && .venv-openvino/bin/pip install openvino-genai optimum-intel "torch==2.13.0"
    .venv-openvino/bin/optimum-cli export openvino -m DIR --task text-generation-with-past --weight-format fp16 DIR-openvino
    python benchmarks/peers/run.py --model DIR --openvino DIR-openvino --out benchmarks/peers-NAME \
        --python kvpress=.venv-kvpress/bin/python openvino=.venv-openvino/bin/python vllm=.venv-vllm/bin/python

A round runs every method once, another first each time; ratios are taken inside a round, and their medians shown. What was run
is in results.json as soon as it is; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from laconic.environment import script_environment
from laconic.files import write_text

DECODE = Path(__file__).with_name("decode.py")
METHODS = (
    "generate",
    "kvpress SnapKV",
    "kvpress Knorm",
    "laconic SnapKV",
    "laconic KNorm",
    "laconic engine, full KV",
    "laconic engine, SnapKV",
    "laconic engine, RPC",
    "OpenVINO",
    "OpenVINO with eviction",
    "vLLM",
    "vLLM with laconic, RPC",
)
ENVIRONMENTS = (
    ("kvpress", 'pip install "kvpress==0.5.5" "transformers<5.3"'),
    ("OpenVINO", "pip install openvino-genai openvino-tokenizers"),
    ("vLLM", "make setup-vllm"),
)
SHAPE = ("rows", "prompt", "tokens", "budget", "interval", "threads", "cache")


def python_of(method: str, pythons: dict[str, str]) -> str:
    """The interpreter of a method's environment. Ends with a sentence where there is none."""
    for name, how in ENVIRONMENTS:
        if method.startswith(name):
            found = pythons.get(name.lower())
            if found is None or not Path(found).exists():
                sys.exit(
                    f"error: {method} needs an environment of its own, and {found or 'none'} is given for it; make one ({how}) "
                    f"and name its interpreter: --python {name.lower()}=DIR/bin/python, or leave the method out (--methods)"
                )
            return found
    return sys.executable


def measure(method: str, asked: argparse.Namespace, python: str) -> dict[str, Any]:
    shape = [part for name in SHAPE for part in (f"--{name}", str(getattr(asked, name)))]
    command = [
        python,
        str(DECODE),
        method,
        "--model",
        asked.model,
        "--dtype",
        asked.dtype,
        "--openvino",
        asked.openvino,
        *shape,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {method} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    told = [
        line for line in done.stdout.splitlines() if line.startswith('{"method"')
    ]  # vLLM writes lines of its own after it
    if not told:
        sys.exit(f"error: {method} told no figures; its last line is {done.stdout.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(told[-1])
    return found


def table(runs: list[dict[str, Any]], methods: list[str]) -> str:
    lines = [
        "| method | tokens/s | range | to generate | to kvpress SnapKV | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    rounds = sorted({run["round"] for run in runs})
    by = {(run["method"], run["round"]): run for run in runs}

    def ratio(method: str, other: str) -> str:
        both = [
            by[method, n]["tokens_per_second"] / by[other, n]["tokens_per_second"]
            for n in rounds
            if (method, n) in by and (other, n) in by
        ]
        return f"{statistics.median(both):.2f}x" if both and method != other else ""

    for method in methods:
        mine = [by[method, n] for n in rounds if (method, n) in by]
        if mine:
            speeds = [run["tokens_per_second"] for run in mine]
            peak = statistics.median(run["memory"] for run in mine)
            lines.append(
                f"| {method} | {statistics.median(speeds):.1f} | {min(speeds):.1f}-{max(speeds):.1f} "
                f"| {ratio(method, 'generate')} | {ratio(method, 'kvpress SnapKV')} | {peak:,.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--openvino", default="", metavar="DIR", help="the model as optimum-cli exported it (see above)"
    )
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--methods", help="separated by semicolons", default=";".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    for name, value in (("rows", 8), ("prompt", 64), ("tokens", 2048), ("budget", 512), ("interval", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=int, default=1024)
    asked = parser.parse_args()
    methods = asked.methods.split(";")
    pythons = dict(each.split("=", 1) for each in asked.python)
    of = {method: python_of(method, pythons) for method in methods}
    if (
        any(method.startswith("OpenVINO") for method in methods)
        and not Path(asked.openvino, "openvino_model.xml").exists()
    ):
        sys.exit(
            f"error: {asked.openvino!r} holds no model that OpenVINO reads; export one (optimum-cli export "
            f"openvino -m {asked.model} --task text-generation-with-past --weight-format fp16 DIR) and name it: --openvino DIR"
        )
    asked.out.mkdir(parents=True, exist_ok=True)
    place = asked.out / "results.json"
    settings = {"model": Path(asked.model).name, "dtype": asked.dtype, **{name: getattr(asked, name) for name in SHAPE}}
    found: dict[str, Any] = {**script_environment(__file__), "settings": settings, "runs": []}
    if place.exists():
        found = json.loads(place.read_text(encoding="utf-8"))
        differ = [name for name, value in settings.items() if found["settings"].get(name) != value]
        if differ:
            sys.exit(
                f"error: {place} is of other settings ({', '.join(differ)}); nothing was changed: name another directory"
            )
    have = {(run["method"], run["round"]) for run in found["runs"]}
    for number in range(asked.repeats):
        turn = number % len(methods)
        for method in methods[turn:] + methods[:turn]:
            if (method, number) not in have:
                run = {**measure(method, asked, of[method]), "round": number}
                found["runs"].append(run)
                write_text(place, json.dumps(found, indent=1) + "\n")
                print(f"{number + 1} of {asked.repeats}: {method}: {run['tokens_per_second']} tokens/s", flush=True)
    write_text(asked.out / "table.md", table(found["runs"], methods))
    print(table(found["runs"], methods))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: what was run is in --out, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
