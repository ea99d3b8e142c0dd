"""STEP-like: who is stopped when KV is full against a slow count, live and replayed, and what happens at the edges."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.compress import RPC
from laconic.engines.hf import HFEngine
from laconic.engines.replay import ReplayEngine
from laconic.engines.shared import SharedEngine
from laconic.errors import LaconicError
from laconic.prune.strategies.registry import parse
from laconic.prune.strategies.self_consistency import SelfConsistency
from laconic.prune.strategies.step import StepLike
from laconic.prune.verdict import Verdict
from laconic.prune.voting import Confidence
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.prune.strategies.test_engines import QUESTION, N, plain, reasoner, records
from tests.prune.strategies.test_engines import SAMPLING as DRAWN
from tests.prune.strategies.test_run import checked

__all__ = ["plain", "reasoner"]  # fixtures
PROMPT = len("<why?>")


def solve(scripts: list[Script], engine: Any = None, **more: Any) -> Verdict:
    engine = engine or ScriptedEngine(scripts)
    verdict = StepLike(len(scripts), **more).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return checked(verdict, complete=True)


def confidence(script: Script, tokens: int, window: int) -> float:
    latest = [-script.logprob(i) for i in range(tokens)][-window:]
    return sum(latest) / len(latest)


def slow_step(
    scripts: list[Script], kv: int, window: int, vote: str
) -> tuple[dict[int, int], dict[str, float], set[int]]:
    """Step by step: tokens of each trace, the weight of each answer, who finished. Without the way back."""
    tokens: dict[int, int] = {}
    running, finished, at = set(range(len(scripts))), set[int](), 0
    while running:
        at += 1
        for i in sorted(running):
            tokens[i] = at
        done = {i for i in running if at == scripts[i].length}
        finished |= done
        running -= done
        # The engine takes its first step in one go with the prefill, which gives the first token.
        while at > 1 and len(running) > 1 and len(running) * (PROMPT + at - 1) + len(running) > kv:
            lowest = min(confidence(scripts[i], at, window) for i in running)
            running.remove(max(i for i in running if confidence(scripts[i], at, window) == lowest))
    weights: Counter[str] = Counter()
    for i in finished:
        answer = scripts[i].answer
        if answer is not None:
            weights[answer] += confidence(scripts[i], scripts[i].length, window) if vote == "confidence" else 1.0  # type: ignore[assignment]
    return tokens, dict(weights), finished


# Quarters add up exactly, so that the reference need not worry about rounding.
CONFIDENCES = st.lists(st.integers(1, 12).map(lambda x: x / 4), min_size=1, max_size=5).map(tuple)
SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 14), st.sampled_from(["1", "1", "2"]), st.just("stop"), CONFIDENCES),
    min_size=1,
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(
    scripts=SCRIPTS,
    kv=st.integers(PROMPT + 1, 150),
    window=st.sampled_from([1, 2, 4]),
    vote=st.sampled_from(["confidence", "plain"]),
)
def test_it_does_what_a_slow_one_does(scripts: list[Script], kv: int, window: int, vote: str) -> None:
    verdict = solve(scripts, kv=kv, window=window, vote=vote)
    tokens, weights, finished = slow_step(scripts, kv, window, vote)
    assert {t.index: t.tokens for t in verdict.traces} == tokens
    assert {t.index for t in verdict.traces if t.fate == "finished"} == finished
    assert {each.answer: each.weight for each in verdict.votes} == pytest.approx(weights)
    assert weights[str(verdict.answer)] == max(weights.values())


def test_nothing_is_stopped_before_the_cache_is_full() -> None:
    scripts = [
        Script(10, "1", confidence=(1.0,)),
        Script(10, "2", confidence=(2.0,)),
        Script(10, "2", confidence=(3.0,)),
    ]
    whole = solve(scripts, kv=3 * (PROMPT + 9))
    assert {t.fate for t in whole.traces} == {"finished"}
    assert [(vote.answer, vote.weight) for vote in whole.votes] == [("2", 5.0), ("1", 1.0)]
    less = solve(scripts, kv=3 * (PROMPT + 9) - 1)
    assert [(t.fate, t.tokens) for t in less.traces] == [("pruned", 9), ("finished", 10), ("finished", 10)]
    assert less.traces[0].reason == "its confidence of 1.00 was the lowest when 42 of 44 KV tokens were held"


def test_where_none_that_ended_has_an_answer_the_best_that_was_stopped_goes_on() -> None:
    scripts = [
        Script(12, None, confidence=(3.0,)),
        Script(12, "1", confidence=(1.0,)),
        Script(12, "2", confidence=(2.0,)),
    ]
    verdict = solve(scripts, kv=PROMPT + 12)
    assert [(t.fate, t.tokens, t.answer) for t in verdict.traces][1:] == [("pruned", 2, None), ("finished", 12, "2")]
    assert verdict.answer == "2"
    assert solve([Script(5, None)] * 3, kv=PROMPT + 6).answer is None


def test_with_fewer_rows_waiting_traces_hold_nothing() -> None:
    scripts = [Script(6, "1", confidence=(float(i + 1),)) for i in range(4)]
    verdict = solve(scripts, ScriptedEngine(scripts, max_batch=2), kv=2 * (PROMPT + 6))
    assert {t.fate for t in verdict.traces} == {"finished"}


def test_replayed_it_is_the_same_as_live(reasoner: Any, plain: Any) -> None:
    prompt = len(plain[0].prompt_ids)
    strategy = StepLike(N, kv=N * (prompt + 30), window=16)
    engine = HFEngine(reasoner[0], reasoner[1], max_batch=N)
    live = checked(strategy.solve(engine, QUESTION, DRAWN), complete=True)
    assert "pruned" in {t.fate for t in live.traces}
    replay = ReplayEngine(records(plain), max_batch=N)
    again = checked(strategy.solve(replay, QUESTION, dataclasses.replace(DRAWN, max_new_tokens=160)), complete=True)
    assert [(t.fate, t.tokens, t.reason) for t in again.traces] == [(t.fate, t.tokens, t.reason) for t in live.traces]
    assert again.answer == live.answer
    for ran in (engine, replay):
        assert ran.stats.peak_kv_tokens <= N * (prompt + 30)
        assert ran.stats.live_kv_tokens == 0


@pytest.mark.parametrize("shared", [False, True])
def test_under_compression_what_is_held_counts(reasoner: Any, shared: bool) -> None:
    """Its limit is never reached where the engine holds less, whoever else asks the engine and when."""
    policy = RPC(interval=16, ratio=8, window=4)
    whole = HFEngine(reasoner[0], reasoner[1], policy, max_batch=6)
    SelfConsistency(6, early_end=False).solve(whole, QUESTION, DRAWN)
    most = whole.stats.peak_kv_tokens
    engine: Any = HFEngine(reasoner[0], reasoner[1], policy, max_batch=6)
    strategy = StepLike(6, kv=most + 12, window=32)
    if shared:
        view = SharedEngine(engine).view()
        run = strategy.begin(view, QUESTION, DRAWN)
        steps = iter(run)
        while any(not progress.waits or view._shared.step() is None for progress in steps):
            pass
        verdict = run.verdict()
    else:
        verdict = strategy.solve(engine, QUESTION, DRAWN)
    assert {trace.fate for trace in verdict.traces} == {"finished"}
    assert sum(t.tokens for t in verdict.traces) > 1.5 * most, "or compression has nothing to do with it"


def test_an_engine_with_a_limit_gives_it() -> None:
    class Limited(ScriptedEngine):
        kv_token_limit = 2 * (PROMPT + 5)

    scripts = [Script(9, "1", confidence=(float(i + 1),)) for i in range(3)]
    verdict = solve(scripts, Limited(scripts))
    assert [t.fate for t in verdict.traces] == ["pruned", "pruned", "finished"]
    assert solve(scripts, Limited(scripts), kv=1000).traces[0].fate == "finished"


def test_the_latest_tokens_alone_count() -> None:
    found = Confidence(3)
    assert found.latest == 0
    for value, mean in ((1.0, 1.0), (2.0, 1.5), (6.0, 3.0), (4.0, 4.0), (2.0, 4.0)):
        found.add(value)
        assert found.latest == mean


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "the engine tells no limit of its KV cache, so step needs one: give kv=TOKENS"),
        ({"kv": PROMPT}, f"kv is {PROMPT} tokens and the prompt alone takes {PROMPT}; give more than that"),
        ({"kv": 0}, "kv is 0"),
        ({"kv": 50, "window": 0}, "window is 0"),
        ({"kv": 50, "vote": "size"}, "vote is 'size'; expected one of confidence, plain"),
    ],
)
def test_bad_input_is_one_sentence(more: dict[str, Any], says: str) -> None:
    with pytest.raises(LaconicError, match=says) as caught:
        solve([Script(5, "1")] * 2, **more)
    assert "\n" not in str(caught.value)


def test_an_engine_without_confidences_is_told_what_to_do() -> None:
    class Silent(ScriptedEngine):
        def _draw(self, row):
            super()._draw(row)
            row.trace.confidences.clear()

    with pytest.raises(
        LaconicError, match=r"has 0 confidences for . tokens; step needs one of each: use an engine that"
    ):
        solve([Script(5, "1")] * 2, Silent([Script(5, "1")] * 2), kv=50)


def test_as_text() -> None:
    assert parse("step:kv=20000,window=64,vote=plain", 8) == StepLike(8, 20000, 64, vote="plain")
    assert parse("step", 8) == StepLike(8)
