"""Options that would have no effect beside others, one command after another: refused by name, with nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laconic.cli.unused import refuse_unused

FILE = ("--file", "{file}")
SOURCE = ("--source", "{file}")
TRACES = ("--traces", "{traces}", "--out", "{out}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ("think", "what is it", "--level", 3),
            "--level 3 is for problems of the bundled set, but PROBLEM names another",
        ),
        (("think", *FILE, "--level", 3), "--level 3 is for problems of the bundled set, but --file names another"),
        (
            ("solve", "what is it", "--level", 3),
            "--level 3 is for problems of the bundled set, but PROBLEM names another",
        ),
        (
            ("solve", "-s", "self-consistency", "--engine", "vllm:x", "--device", "cpu", "hm"),
            "--device cpu is for the hf engine",
        ),
        (("solve", "-s", "self-consistency", "--tau", 0.5), "setting 'tau' of strategy self-consistency is unknown"),
        (("solve", "--interval", 64), "setting 'interval' of policy full is unknown"),
        (("analyze", "{traces}", "--policies", "rpc"), "--policies has no effect on a file of traces; leave it out"),
        (("analyze", "{traces}", "--problems", 3), "--problems has no effect on a file of traces"),
        (("analyze", "{traces}", "--seed", 0), "--seed has no effect on a file of traces"),
        (("analyze", "{traces}", "--temperature", 1), "--temperature has no effect on a file of traces"),
        (("analyze", "-m", "bundled", "--tokenizer", "x"), "--tokenizer has no effect with --model"),
        (
            ("bench", "accuracy", "--source", "{file}", "--problem-seed", 1),
            "--problem-seed has no effect on the problems of",
        ),
        (
            ("bench", "accuracy", "-p", "rpc", "--oracle-pattern", "x"),
            "--oracle-pattern has no effect without the policy oracle",
        ),
        (
            ("bench", "accuracy", "-p", "rpc:interval=64,ratio=4", "--ratios", "8"),
            "--ratios has no effect on policies that are given as whole specs",
        ),
        (
            ("bench", "accuracy", "-p", "full;h2o:budget=64", "--window", 8),
            "--window has no effect on policies that are given as whole specs",
        ),
        (
            ("bench", "throughput", "--preset", "cpu-kv", "--batches", "4"),
            "--batches has no effect beside --preset cpu-kv, which says what to run",
        ),
        (("bench", "throughput", "--preset", "cpu-kv", "--prompt", 4), "--prompt has no effect beside --preset cpu-kv"),
        (("bench", "throughput", "--preset", "cpu-kv", "--steps", 4), "--steps has no effect beside --preset cpu-kv"),
        (
            ("bench", "throughput", "--shapes", "tiny-kv", "--lengths", "64", "--steps", 4),
            "--steps has no effect without --at",
        ),
        (("bench", "throughput", "--shapes", "tiny-kv", "--lengths", "64", "--force"), "--force has no effect without"),
        (("bench", "vllm", "-p", "rpc:interval=64,ratio=4", "--ratios", "8"), "--ratios has no effect on policies"),
        (
            ("bench", "parallel", "-s", "deepconf:low", "--judges", "probe"),
            "--judges has no effect without a strategy that asks a judge",
        ),
        (
            ("bench", "parallel", "--source", "{file}", "--problem-seed", 1),
            "--problem-seed has no effect on the problems of",
        ),
        (
            ("bench", "accuracy", "--source", "aime24:{file}", "--problem-seed", 1),
            "--problem-seed has no effect on the problems of aime24:",
        ),
        (("judge", "train", *TRACES, "--layers", "3"), "--layers has no effect without --vectors states"),
        (("judge", "train", *TRACES, "--cross-entropy", "--alpha", 0.3), "--alpha has no effect with --cross-entropy"),
        (
            ("judge", "train", *TRACES, "--kind", "llm", "--base", "x", "--width", 8),
            "--width has no effect on --kind llm",
        ),
        (("judge", "ablate", *TRACES, "--layers", "3"), "--layers has no effect without --vectors states"),
        (("collect", "-o", "{out}", *SOURCE, "--split", "train"), "a file of problems has no splits"),
        (("collect", "-o", "{out}", *SOURCE, "--level", 3), "only the bundled problems have levels"),
    ],
    ids=lambda value: " ".join(map(str, value[:6])) if isinstance(value, tuple) else "",
)
def test_an_option_without_effect_is_refused(invoke: Any, tmp_path: Path, args: tuple[Any, ...], said: str) -> None:
    places = {name: tmp_path / f"{name}.jsonl" for name in ("file", "traces", "out")}
    places["file"].write_text('{"question": "?", "answer": "1"}\n')
    places["traces"].write_text('{"token_ids": [1, 2, 3]}\n')
    result = invoke(*(str(arg).format(**places) for arg in args))
    assert result.exit_code == 2, result.stderr
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not places["out"].exists()


@pytest.mark.parametrize(
    "args",
    [
        ("problems", "--problems", "99999999999999999999"),
        ("problems", "--level", "99999999999999999999"),
        ("problems", "--seed", "99999999999999999999"),
        ("solve", "--n", "99999999999999999999"),
        *(("solve", option, "99999999999999999999") for option in ("--K", "--K1", "--K2", "--K3", "--batch", "--seed")),
        ("think", "--budget", "99999999999999999999", "-p", "h2o"),
        ("think", "--interval", "99999999999999999999"),
        ("think", "--window", "99999999999999999999"),
        ("think", "--max-new-tokens", "99999999999999999999"),
        ("think", "--top-k", "99999999999999999999"),
        ("think", "--ratio", "1e300"),
        ("think", "--temperature", "1e300"),
        (
            "bench",
            "throughput",
            "-o",
            "{out}",
            "--shapes",
            "tiny-kv",
            "--lengths",
            "64",
            "--threads",
            "99999999999999999999",
        ),
        (
            "bench",
            "throughput",
            "-o",
            "{out}",
            "--shapes",
            "tiny-kv",
            "--lengths",
            "64",
            "--repeats",
            "99999999999999999999",
        ),
        (
            "bench",
            "throughput",
            "-o",
            "{out}",
            "--shapes",
            "tiny-kv",
            "--lengths",
            "64",
            "--batches",
            "99999999999999999999",
        ),
        (
            "bench",
            "throughput",
            "-o",
            "{out}",
            "--shapes",
            "tiny-kv",
            "--lengths",
            "64",
            "--prompt",
            "99999999999999999999",
        ),
        ("bench", "accuracy", "-o", "{out}", "--n", "99999999999999999999"),
        ("bench", "accuracy", "-o", "{out}", "--batch", "99999999999999999999"),
        ("bench", "accuracy", "-o", "{out}", "--interval", "99999999999999999999"),
        ("collect", "-o", "{out}", "-n", "99999999999999999999"),
        ("collect", "-o", "{out}", "--confidence-top-k", "99999999999999999999"),
        ("analyze", "{traces}", "--spans", "99999999999999999999"),
        ("analyze", "{traces}", "--lengths", "99999999999999999999"),
    ],
    ids=" ".join,
)
def test_a_huge_number_is_told_its_limit(invoke: Any, tmp_path: Path, args: tuple[str, ...]) -> None:
    places = {name: tmp_path / f"{name}.jsonl" for name in ("traces", "out")}
    places["traces"].write_text('{"token_ids": [1, 2, 3]}\n')
    result = invoke(*(arg.format(**places) for arg in args))
    assert result.exit_code == 2, result.output
    said = result.stderr.splitlines()[-1]
    assert "at least" not in said  # it isn't too little
    assert any(word in said for word in ("from 0 to", "from 1 to", "64 bits", "expected 1 to", "to 100"))


def test_outside_a_command_nothing_is_refused() -> None:
    refuse_unused("at all", "level")
