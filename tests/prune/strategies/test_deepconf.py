"""DeepConf on scripted confidences: the bar, who falls under it, the weights, and that timing changes nothing."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.strategies.deepconf import DeepConf
from tests.prune.scripted import SAMPLING, Script, ScriptedEngine
from tests.prune.strategies.test_run import checked
from tests.reference.clustering import window_confidence


def solve(scripts, engine=None, **settings_):
    engine = engine or ScriptedEngine(scripts)
    verdict = DeepConf(len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return checked(verdict, complete=True)


def sequential(scripts, mode, warmup, window, threshold, quorum):
    """One trace after another. (votes as index -> weight, tokens of each trace that ran, which were stopped)"""
    series = [[script.logprob(i) for i in range(script.length)] for script in scripts]
    lowest = [float(window_confidence(s, window)) for s in series]
    first = sorted(lowest[:warmup])
    at = (0.9 if mode == "low" else 0.1) * (len(first) - 1)
    low = int(at)
    bar = first[low] + (first[min(low + 1, len(first) - 1)] - first[low]) * (at - low)
    weights, tokens, stopped = {}, {}, set()
    for index, script in enumerate(scripts):
        length = script.length
        if index >= warmup:
            for end in range(window, script.length + 1):
                if sum(-x for x in series[index][end - window : end]) / window < bar:
                    length = end
                    stopped.add(index)
                    break
        tokens[index] = length
        if script.answer is not None and lowest[index] >= bar:
            weights[index] = lowest[index]
        if index + 1 >= warmup and len(weights) >= quorum:
            shares: dict[str | None, float] = {}
            for i, weight in weights.items():
                shares[scripts[i].answer] = shares.get(scripts[i].answer, 0) + weight
            if max(shares.values()) >= threshold * sum(shares.values()) - 1e-12:
                break
    return weights, tokens, stopped


# Quarters add up exactly, so that the reference need not worry about rounding.
CONFIDENCES = st.lists(st.integers(1, 12).map(lambda x: x / 4), min_size=1, max_size=6).map(tuple)
SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 16), st.sampled_from(["1", "1", "2", None]), st.just("stop"), CONFIDENCES),
    min_size=1,
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(
    scripts=SCRIPTS,
    mode=st.sampled_from(["low", "high"]),
    warmup=st.integers(1, 6),
    window=st.sampled_from([1, 2, 4]),
    quorum=st.integers(1, 3),
    parallel=st.integers(1, 5),
    batch=st.integers(1, 8),
    chunk=st.integers(1, 5),
)
def test_the_outcome_is_that_of_one_trace_after_another(scripts, mode, warmup, window, quorum, parallel, batch, chunk):
    weights, tokens, stopped = sequential(scripts, mode, min(warmup, len(scripts)), window, 0.8, quorum)
    verdict = solve(
        scripts,
        ScriptedEngine(scripts, batch, chunk),
        mode=mode,
        warmup=warmup,
        window=window,
        threshold=0.8,
        quorum=quorum,
        parallel=parallel,
    )
    if weights:
        assert {t.index: t.weight for t in verdict.traces if t.weight} == pytest.approx(weights)
    else:
        assert (verdict.answer is None) == all(s.answer is None for i, s in enumerate(scripts) if i not in stopped)
    for trace in verdict.traces:
        if trace.index in tokens:
            assert (trace.fate == "pruned") == (trace.index in stopped)
            if chunk == 1:  # two tokens come with a trace's first step
                assert tokens[trace.index] <= trace.tokens <= tokens[trace.index] + 1


def confident(*levels, answers="1" * 99, length=20):
    return [Script(length, a, confidence=(level,)) for level, a in zip(levels, answers, strict=False)]


def test_low_keeps_the_most_confident_tenth_and_high_nine_tenths():
    scripts = confident(*[float(i) for i in range(1, 12)], 5.0, 11.0, answers="2222222222111")
    low = solve(scripts, mode="low", warmup=11, window=4, quorum=9)
    # The 90th percentile of 1..11 is 10: of the warm-up two vote, trace 11 falls under the bar, trace 12 doesn't.
    assert {t.index: t.weight for t in low.traces if t.weight} == {9: 10.0, 10: 11.0, 12: 11.0}
    assert low.answer == "1"
    assert (low.traces[11].fate, low.traces[11].tokens) == ("pruned", 4)
    assert low.traces[11].reason == "its confidence fell to 5.00, under the bar of 10.00"
    assert low.strategy == "deepconf:low"
    high = solve(scripts, mode="high", warmup=11, window=4, quorum=99)
    assert [t.index for t in high.traces if not t.weight] == [0]
    assert high.answer == "2"
    assert {t.fate for t in high.traces} == {"finished"}


def test_sampling_ends_with_the_consensus():
    scripts = confident(*[2.0] * 40, answers="1" * 40)
    verdict = solve(scripts, mode="high", warmup=4, window=4, quorum=6, parallel=2)
    assert [t.fate for t in verdict.traces][:6] == ["finished"] * 6
    assert {t.fate for t in verdict.traces[6:]} <= {"abandoned"}
    assert sum(t.tokens for t in verdict.traces[6:]) == 0
    assert sum(len(v.traces) for v in verdict.votes) == 6
    at_once = solve(scripts, mode="high", warmup=4, window=4, quorum=4)
    assert [t.tokens for t in at_once.traces] == [20] * 4 + [0] * 36
    split = confident(*[2.0] * 10, answers="1111111112")
    assert len(solve(split, mode="high", warmup=10, window=4, threshold=0.9).votes) == 2
    never = solve(confident(*[2.0] * 12, answers="12" * 6), mode="high", warmup=4, window=4)
    assert {t.fate for t in never.traces} == {"finished"}


def test_no_more_than_asked_run_side_by_side():
    scripts = confident(*[2.0] * 20, answers="12" * 10)
    engine = ScriptedEngine(scripts)
    solving = DeepConf(20, "high", warmup=4, window=4, parallel=3).begin(engine, "why?", SAMPLING)
    rows = set()
    for _ in solving:
        rows.add((solving.phase, len(engine._batch) + len(engine._waiting)))
    assert max(count for phase, count in rows if phase == "explore") == 4
    assert max(count for phase, count in rows if phase == "finish") == 3
    assert solving.snapshot().extra == {"bar": 2.0}


def test_what_the_bar_kept_out_votes_rather_than_nobody():
    scripts = [
        *confident(1.0, 2.0, answers="47"),
        Script(20, None, confidence=(9.0,)),
        Script(20, "1", confidence=(1.0,)),
    ]
    verdict = solve(scripts, warmup=3, window=4)
    assert verdict.answer == "7"
    assert verdict.note == "no trace above the bar gave an answer, so all that ended voted"
    assert verdict.traces[3].fate == "pruned"
    none = solve([Script(9), Script(9)], window=4)
    assert (none.answer, none.note) == (None, "of 2 traces that ended none gave an answer")


def test_a_trace_shorter_than_the_window_is_one_group_and_never_stopped():
    scripts = [*confident(4.0, 4.0), Script(6, "2", confidence=(9.0, 1.0)), Script(6, "3", confidence=(1.0,))]
    verdict = solve(scripts, mode="high", warmup=2, window=30, quorum=9)
    assert [t.weight for t in verdict.traces] == [4, 4, 5, 0]
    assert {t.fate for t in verdict.traces} == {"finished"}


def test_an_engine_without_confidences_is_refused():
    class Mute(ScriptedEngine):
        def _draw(self, row):
            super()._draw(row)
            row.trace.confidences.clear()

    engine = Mute([Script(5, "1")])
    with pytest.raises(LaconicError, match="0 confidences for 2 tokens; DeepConf needs one of each"):
        DeepConf(1).solve(engine, "why?", SAMPLING)
    assert engine.clean


def test_random_confidences_at_the_published_settings():
    draw = random.Random(0)
    scripts = [
        Script(60 + draw.randrange(90), draw.choice("1123"), confidence=tuple(draw.uniform(1, 9) for _ in range(50)))
        for _ in range(64)
    ]
    low = solve(scripts, window=32)
    high = solve(scripts, mode="high", window=32)
    assert low.tokens.generated < high.tokens.generated < sum(s.length for s in scripts)
    assert high.settings["top_k"] == 20
    assert high.settings["mode"] == "high"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"mode": "middle"}, "mode is 'middle'; expected one of low, high"),
        ({"warmup": 0}, "warmup is 0; expected a whole number from 1 to 4096 (traces)"),
        ({"window": 0}, "window is 0; expected a whole number from 1 to 1048576 (tokens)"),
        ({"top_k": 0}, "top_k is 0; expected a whole number from 1 to 1000 (candidates)"),
        ({"threshold": 1.01}, "threshold is 1.01; expected a number from 0 to 1"),
        ({"quorum": 0}, "quorum is 0"),
        ({"parallel": 0}, "parallel is 0"),
    ],
)
def test_settings_out_of_range(wrong, said):
    with pytest.raises(LaconicError, match=re.escape(said)):
        DeepConf(**{"n": 4} | wrong)


def test_what_fell_in_its_last_tokens_votes_never_and_no_note_says_so() -> None:
    scripts = [
        Script(4, None, confidence=(5,) * 4),
        Script(4, None, confidence=(5,) * 4),
        Script(4, "7", confidence=(5, 5, 5, 1)),
    ]
    verdict = DeepConf(3, "low", warmup=2, window=2, quorum=1).solve(ScriptedEngine(scripts), "why?", SAMPLING)
    assert verdict.answer is None
    assert verdict.traces[2].fate == "pruned"
    assert "above the bar" not in verdict.note
