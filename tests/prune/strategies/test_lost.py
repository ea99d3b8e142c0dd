"""Traces that the engine gives up: they have no vote, the others decide, and nothing waits for them."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.errors import EngineError
from laconic.prune import Strategy, parse
from tests.prune.scripted import SAMPLING, ProbedScripts, Script, TableJudge, perfect

N = 6
SCRIPTS = [Script(9 + index, "12"[index % 2], confidence=(1.0 + index,)) for index in range(N)]
SPECS = [
    "self-consistency",
    "self-consistency:ties=confidence",
    "priced-vote",
    "priced-vote:first=4,parallel=4",
    "adaptive-consistency",
    "deepconf:warmup=2,window=2",
    "deepprune:excerpt=tokens:4,K2=2",
    "deepprune:excerpt=tokens:4,K2=2,vote=size",
    "judged-vote:excerpt=tokens:4",
    "dynasor:k=4,m=2",
    "parallel-probe:interval=4",
    "step:kv=1000",
]


def made(spec: str) -> Strategy:
    return parse(spec, n=N, judge=TableJudge(perfect(SCRIPTS)))


def engine(**more: Any) -> ProbedScripts:
    return ProbedScripts(SCRIPTS, **more)


@pytest.mark.parametrize("lost", [{0: 1}, {0: 2, 1: 6}, {2: 5}, {5: 3, 4: 3, 3: 3}, {0: 7, 1: 8, 2: 9, 3: 10}])
@pytest.mark.parametrize("spec", SPECS)
def test_the_others_decide(spec: str, lost: dict[int, int]) -> None:
    running = engine(lost=lost)
    verdict = made(spec).solve(running, "q", SAMPLING)
    assert verdict.complete
    assert verdict.answer in ("1", "2")
    gone = [trace for trace in verdict.traces if trace.fate == "lost"]
    assert all(trace.index in lost for trace in gone)
    assert {trace.index for trace in gone} >= {index for index, at in lost.items() if at < 4 and index < 2}
    assert all((trace.answer, trace.weight, trace.reason) == (None, 0.0, "the line was cut") for trace in gone)
    assert ("lost: the line was cut" in verdict.note) == bool(gone)
    assert not [trace for trace in verdict.traces if trace.fate in ("running", "waiting")]
    voters = {index for vote in verdict.votes for index in vote.traces}
    assert not voters & {trace.index for trace in gone}
    assert running.clean


@pytest.mark.parametrize("spec", SPECS)
def test_without_any_other_the_run_ends_in_its_error(spec: str) -> None:
    running = engine(lost=dict.fromkeys(range(N), 2))
    with pytest.raises(EngineError, match="none of the traces came to its end; trace 0 is lost: the line was cut"):
        made(spec).solve(running, "q", SAMPLING)
    assert running.clean
