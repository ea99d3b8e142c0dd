"""Both halves together: problems solved an hour by one vLLM with a fixed KV cache, by strategy and compression policy.

    .venv-vllm/bin/python benchmarks/both_halves.py --problems 100 --n 16 --cache-tokens 4000 --max-new-tokens 900 \\
        --strategies "self-consistency;deepprune" --policies "none;rpc" --judge bundled --out benchmarks/both-halves-bundled

Every pair of a strategy and a policy solves the same problems with the same seeds, side by side, as `laconic solve --source`
does: a problem begins as soon as fewer traces run or wait than may run at once. vLLM gets the same bytes of KV cache for all
pairs, and as many rows at once as it can use; what doesn't fit waits, or is preempted and computed again. So what compression
frees, and what pruning doesn't run, is there for other traces and other problems.

Each pair has a process of its own in each round, the rounds are interleaved, and time counts from the first problem to the last
verdict: loading, and a problem that is solved before to warm up, don't count. What is finished is kept in samples.jsonl, and
the same command goes on. Right answers are a strategy's own, with an interval over problems; all rounds of a pair draw the same
traces as far as vLLM's sums allow, so that they are one sample of accuracy and several of time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from laconic.cli.tables import Table, number
from laconic.environment import script_environment
from laconic.errors import LaconicError
from laconic.files import write_text
from laconic.intervals import normal_quantile, wilson_interval

SAMPLES = "samples.jsonl"
MARK = "both-halves: "
LONGEST = 7200.0  # seconds of one pair in one round


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="bundled, a directory, or a name on the Hub")
    parser.add_argument("--source", default="bundled", help="as of laconic solve")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--n", type=int, default=16, help="traces of each problem")
    parser.add_argument("--strategies", default="self-consistency;deepprune", help="by semicolons")
    parser.add_argument("--policies", default="none;rpc", help="by semicolons")
    parser.add_argument("--judge", default=None, help="of strategies that ask one")
    parser.add_argument("--cache-tokens", type=int, required=True, help="of KV that vLLM has room for")
    parser.add_argument("--rows", type=int, default=256, help="traces at once, at most")
    parser.add_argument("--max-new-tokens", type=int, default=None)
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--top-p", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=None, help=argparse.SUPPRESS)  # one pair, in a process of its own
    return parser.parse_args(words)


def pairs(asked: argparse.Namespace) -> list[tuple[str, str]]:
    return list(itertools.product(asked.strategies.split(";"), asked.policies.split(";")))


def solve(asked: argparse.Namespace, strategy: str, policy: str) -> dict[str, Any]:
    """One pair, in this process: what a line of samples.jsonl holds."""
    from laconic.cli.common import choose_policy, choose_sampling, choose_strategy, is_bundled, model_path
    from laconic.engines.vllm import VLLMEngine
    from laconic.engines.vllm.engine.starting import start
    from laconic.judges.registry import open_judge
    from laconic.problems.sources import load_problems
    from laconic.prune.strategies.registry import needs_judge
    from laconic.solve_set import solve_each
    from laconic.solved import SetResults

    small = is_bundled(asked.model)
    problems = load_problems(asked.source, asked.problems + 1, asked.seed)
    chosen = choose_policy(policy, small)
    path, dtype = str(model_path(asked.model)), "float32"
    limit = {} if asked.max_new_tokens is None else {"max_model_len": asked.max_new_tokens + 512}
    # A start tells what a token takes; the cache is set in bytes.
    began = time.perf_counter()
    each = bytes_a_token(path, dtype)
    started = start(path, chosen, asked.rows, dtype, kv_cache_memory_bytes=asked.cache_tokens * each, **limit)
    engine = VLLMEngine.over(started, asked.rows)
    sampling = choose_sampling(
        started,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
    )
    judge = None
    if needs_judge(strategy):
        if asked.judge is None:
            raise SystemExit(f"error: strategy {strategy} asks a judge; give one with --judge")
        judge = open_judge(asked.judge, tokenizer=engine.tokenizer)
    method = choose_strategy(strategy, asked.n, judge, small)
    try:
        for _ in solve_each(problems[:1], engine, method, sampling, SetResults(problems[:1])):
            pass
        loaded = time.perf_counter() - began
        results = SetResults(problems[1:])
        before, start_of_all = engine.stats, time.perf_counter()
        verdicts = [
            step.solved
            for step in solve_each(problems[1:], engine, method, sampling, results, rows=asked.rows)
            if step.solved is not None
        ]
        seconds = time.perf_counter() - start_of_all
        after = engine.stats
    finally:
        started.client.close()
    return {
        "strategy": strategy,
        "policy": chosen.spec(),
        "seconds": seconds,
        "loading": loaded,
        "problems": len(verdicts),
        "right": sum(bool(each.right) for each in verdicts),
        "generated": after.generated_tokens - before.generated_tokens,
        "prompt": after.prompt_tokens - before.prompt_tokens,
        "steps": after.steps - before.steps,
        "preemptions": after.preemptions - before.preemptions,
        "cache_tokens": engine.kv_token_limit,
    }


def bytes_a_token(path: str, dtype: str) -> int:
    """Of KV, over all layers, by the model's configuration."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * heads * width * (4 if dtype == "float32" else 2))


def run(asked: argparse.Namespace, words: list[str]) -> None:
    """All that samples.jsonl lacks, round by round."""
    asked.out.mkdir(parents=True, exist_ok=True)
    place = asked.out / SAMPLES
    try:
        have = [json.loads(line) for line in place.read_text().splitlines()] if place.is_file() else []
    except ValueError as error:
        raise SystemExit(
            f"error: {place} has a broken line ({error}); remove the line, and the same command goes on"
        ) from None
    done = {(each["round"], each["strategy_asked"], each["policy_asked"]) for each in have}
    for turn in range(asked.rounds):
        order = pairs(asked)
        for strategy, policy in order[turn % len(order) :] + order[: turn % len(order)]:
            if (turn, strategy, policy) in done:
                continue
            print(f"round {turn + 1} of {asked.rounds}: {strategy}, {policy}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, *words, "--only", json.dumps([strategy, policy])]
            environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            found = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, env=environment)
            lines = [line for line in found.stdout.splitlines() if line.startswith(MARK)]
            if found.returncode or not lines:
                told = (found.stderr.strip().splitlines() or ["nothing was said"])[-1]
                raise SystemExit(f"error: {strategy} with {policy} failed: {told.removeprefix('error: ')}")
            sample = json.loads(lines[-1].removeprefix(MARK))
            sample |= {"round": turn, "strategy_asked": strategy, "policy_asked": policy}
            with place.open("a") as out:
                out.write(json.dumps(sample) + "\n")
            have.append(sample)
    report(asked, have)


def report(asked: argparse.Namespace, samples: list[dict[str, Any]]) -> None:
    rows, order = [], pairs(asked)
    of_first = {s["round"]: s for s in samples if (s["strategy_asked"], s["policy_asked"]) == order[0]}
    for strategy, policy in order:
        mine = [s for s in samples if (s["strategy_asked"], s["policy_asked"]) == (strategy, policy)]
        rates = [3600 * s["problems"] / s["seconds"] for s in mine]
        ratios = [of_first[s["round"]]["seconds"] / s["seconds"] for s in mine if s["round"] in of_first]
        count, right = sum(s["problems"] for s in mine), sum(s["right"] for s in mine)
        low, high = wilson_interval(right / count, count / len(mine), normal_quantile(0.975))
        rows.append(
            {
                "strategy": strategy,
                "policy": policy,
                "problems_an_hour": statistics.median(rates),
                "from": min(rates),
                "to": max(rates),
                "to_first": statistics.median(ratios),
                "ratios": ratios,
                "accuracy": {"value": right / count, "low": low, "high": high},
                "tokens_a_problem": statistics.median(s["generated"] / s["problems"] for s in mine),
                "tokens_a_second": statistics.median(s["generated"] / s["seconds"] for s in mine),
                "rows_a_step": statistics.median(s["generated"] / s["steps"] for s in mine),
                "preemptions": statistics.median(s["preemptions"] for s in mine),
            }
        )
    settings = {key: value for key, value in vars(asked).items() if key not in ("out", "only")}
    told = {**script_environment(__file__), "settings": settings, "rows": rows}
    write_text(asked.out / "results.json", json.dumps(told, indent=1) + "\n")
    table = Table(
        title=f"Problems an hour in a KV cache of {asked.cache_tokens:,} tokens",
        columns=[
            ("strategy", "left"),
            ("policy", "left"),
            ("problems an hour", "right"),
            ("to the first", "right"),
            ("accuracy", "right"),
            ("tokens a problem", "right"),
            ("tokens a second", "right"),
            ("rows a step", "right"),
            ("preemptions", "right"),
        ],
        rows=[
            [
                row["strategy"],
                row["policy"],
                f"{number(row['problems_an_hour'])} ({number(row['from'])}-{number(row['to'])})",
                f"{row['to_first']:.2f}",
                "{value:.1%} [{low:.1%}, {high:.1%}]".format(**row["accuracy"]),
                number(row["tokens_a_problem"]),
                number(row["tokens_a_second"]),
                number(row["rows_a_step"], 1),
                number(row["preemptions"]),
            ]
            for row in rows
        ],
        notes=["Medians over rounds, the least and the most in brackets. Accuracy: 95 % intervals over problems."],
    )
    write_text(asked.out / "table.md", table.markdown())
    print(table.markdown())


def main() -> None:
    asked = options()
    try:
        if asked.only is not None:
            print(MARK + json.dumps(solve(asked, *json.loads(asked.only))), flush=True)
        else:
            run(asked, sys.argv[1:])
    except LaconicError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; finished pairs are kept, and the same command goes on") from None


if __name__ == "__main__":
    main()
