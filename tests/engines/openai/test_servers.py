"""Servers in processes of their own: one that dies in the middle, and the command line over two."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from laconic.engines.base import Sampling
from laconic.engines.openai import OpenAIEngine
from laconic.errors import LaconicWarning
from laconic.problems import generate
from laconic.prune.strategies.registry import parse
from tests.cli.conftest import invoke as invoke  # a fixture
from tests.cli.test_serve import Process

QUESTION = str(generate(1, level=8)[0].question)


@pytest.fixture
def two() -> Iterator[list[Process]]:
    made = [Process("--batch", "2"), Process("--batch", "2")]
    try:
        for each in made:
            each.wait_ready()
        yield made
    finally:
        for each in made:
            each.process.kill()
            each.process.communicate()


def test_a_server_that_is_killed_in_the_middle_costs_no_verdict(two: list[Process]) -> None:
    strategy = parse("self-consistency", 8)
    sampling = Sampling(max_new_tokens=600, temperature=1.0, top_p=0.95, seed=1)
    with OpenAIEngine([each.url for each in two], max_batch=8) as engine, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = strategy.begin(engine, QUESTION, sampling)
        killed = False
        for _ in run:
            if not killed and run.snapshot().generated > 300:
                two[0].process.kill()
                killed = True
        verdict = run.verdict()
        endpoints = [each.failures for each in engine.endpoints.all]
    assert killed
    assert not [each for each in told if each.category is LaconicWarning]
    assert endpoints[0] > 0
    assert endpoints[1] == 0
    assert {trace.fate for trace in verdict.traces} <= {
        "finished",
        "abandoned",
    }  # the vote may be decided before the last
    assert verdict.answer is not None
    assert all(trace.text.count("</think>") <= 1 for trace in verdict.traces)


def test_the_command_line_over_two(two: list[Process], invoke: Callable[..., Any]) -> None:
    urls = ",".join(each.url for each in two)
    result = invoke("solve", QUESTION, "--engine", f"openai:{urls}", "--n", 6, "--seed", 1, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["answer"] is not None
    assert told["tokens"]["generated"] > 100
    refused = invoke("solve", QUESTION, "--engine", f"openai:{urls}", "--strategy", "deepprune", "--judge", "probe")
    assert refused.exit_code == 2
    assert "can't probe" in refused.stderr or "probe" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert threading.active_count() < 20
