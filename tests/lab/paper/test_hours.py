"""Estimates of GPU hours, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.lab.paper.commands import RunChoices
from laconic.lab.paper.deepprune import PAPER as DEEPPRUNE
from laconic.lab.paper.hours import CellCost, estimate
from laconic.lab.paper.rpc import PAPER as RPC

HOW = RunChoices(Path("out"))


def cost(name: str, how: RunChoices = HOW, rate: float | None = None) -> CellCost | None:
    return estimate(next(cell for cell in (*RPC.cells, *DEEPPRUNE.cells) if cell.name == name), how, rate)


@pytest.mark.parametrize(
    ("name", "how", "rate", "tokens", "hours", "bound"),
    [
        ("accuracy/r1-distill-qwen-7b/aime24/full", HOW, None, 30 * 8 * 32768, 30 * 8 * 32768 / 343 / 3600, True),
        ("accuracy/r1-distill-qwen-7b/aime24/rpc-4x-p1024", HOW, None, 240 * 32768, 240 * 32768 / 650 / 3600, True),
        ("accuracy/r1-distill-qwen-7b/ifeval/tova-4x", HOW, 100.0, 541 * 32768, 541 * 32768 / 100 / 3600, True),
        (
            "accuracy/qwq-32b/aime24/full",
            RunChoices(Path("out"), mean_length=10_000.0),
            None,
            2_400_000,
            2_400_000 * 32.8 / 7.6 / 343 / 3600,
            False,
        ),
        ("votes/qwen3-32b/aime24", HOW, 1000.0, 1.93e8, 1.93e8 / 1000 / 3600, False),
        (
            "votes/qwen3-32b/aime24",
            RunChoices(Path("out"), problems=3, n=64),
            1000.0,
            1.93e8 / 80,
            1.93e5 / 80 / 3600,
            False,
        ),
        ("traces/qwen3-32b", HOW, 1000.0, 1.93e8 * 16 / 512, 1.93e5 * 16 / 512 / 3600, False),
        ("traces/r1-distill-llama-8b", HOW, 1.0, 115 * 16 * 32768, 115 * 16 * 32768 / 3600, True),
    ],
)
def test_tokens_and_hours(
    name: str, how: RunChoices, rate: float | None, tokens: float, hours: float, bound: bool
) -> None:
    found = cost(name, how, rate)
    assert found is not None
    assert (found.tokens, found.hours, found.bound) == (pytest.approx(tokens), pytest.approx(hours), bound)


def test_speed_takes_every_method_and_repeat_and_nothing_for_what_runs_out_of_memory() -> None:
    found = cost("speed/r1-distill-qwen-7b/32x32768", RunChoices(Path("out"), repeats=2))
    assert found is not None
    assert found.hours == pytest.approx(2 * 32 * 32768 * (1 / 883 + 1 / 977) / 3600)
    assert cost("speed/qwq-32b/16x16384") is None  # the paper has a ratio alone
    assert cost("speed/qwq-32b/16x16384", rate=100.0) is not None


def test_what_generates_nothing_or_has_no_command_has_no_estimate() -> None:
    assert cost("judge/words-25-both") is None
    assert cost("accuracy/r1-distill-qwen-7b/aime24/lightthinker") is None
