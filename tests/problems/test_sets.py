"""What records of problems must agree on, and problems that can't be asked or scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.engines.base import Sampling
from laconic.errors import LaconicError
from laconic.problems import Problem
from laconic.problems.benchmarks import BENCHMARKS
from laconic.problems.sets import (
    check_problems,
    check_scored,
    problem_settings,
    prompt_of,
    refuse_unscored,
    set_name,
)


def test_a_set_s_name_tells_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_name("aime24", 3) == "aime24, HuggingFaceH4/aime_2024:train"
    assert set_name("gsm8k") == "gsm8k, openai/gsm8k:main:test"
    assert set_name("gsm8k:data/test.jsonl") == "gsm8k, data/test.jsonl"
    assert set_name(f"gsm8k:{tmp_path}/test.jsonl") == "gsm8k, test.jsonl"
    assert set_name("gpqa-diamond", 3) == "gpqa-diamond, Idavidrein/gpqa:gpqa_diamond:train, choices by seed 3"
    # Other sources as they were called before.
    assert [set_name(s, 3) for s in (f"{tmp_path}/x.jsonl", "hub:org/x:test")] == ["x.jsonl", "hub:org/x:test"]


def test_only_a_benchmark_has_a_prompt() -> None:
    assert [prompt_of(source) for source in ("bundled", "x.jsonl", "hub:org/gsm8k")] == ["", "", ""]
    assert prompt_of("math500") == prompt_of("math500:x.jsonl") == BENCHMARKS["math500"].prompt


def test_settings_say_how_problems_were_asked() -> None:
    def told(prompt: str) -> dict:
        problems = [Problem("a", "q", "1")]
        return problem_settings(model={}, problem_set="s", problems=problems, sampling=Sampling(), prompt=prompt)[
            "problems"
        ]

    assert told("{question}!") == told("") | {"prompt": "{question}!"}
    assert "prompt" not in told("")


def test_what_only_a_harness_scores() -> None:
    for name, benchmark in BENCHMARKS.items():
        if name in ("ifeval", "livecodebench"):
            with pytest.raises(LaconicError, match=f"^{name} has no reference answers, .*(lm-eval|lighteval)"):
                refuse_unscored(f"{name}:x.jsonl")
        else:
            assert not benchmark.harness
            refuse_unscored(name)
    refuse_unscored("bundled")


def test_problems_that_can_not_be_scored() -> None:
    check_problems([Problem("a", "q", ""), Problem("b", "q", "1")])
    check_scored([Problem("b", "q", "1")])
    with pytest.raises(LaconicError, match="The problem a has no reference answer, so nothing tells what is right"):
        check_scored([Problem("b", "q", "1"), Problem("a", "q", "")])
    with pytest.raises(LaconicError, match="There are no problems"):
        check_scored([])
    with pytest.raises(LaconicError, match="Two problems have the id 'a'"):
        check_scored([Problem("a", "q", "1"), Problem("a", "r", "1")])
