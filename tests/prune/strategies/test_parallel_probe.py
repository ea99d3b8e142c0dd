"""Parallel-Probe on scripted probes: against a plain loop over steps, and what a verdict says of each trace."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.answers import extract
from laconic.errors import LaconicError
from laconic.prune.probing import DYNASOR_SUFFIX
from laconic.prune.strategies.parallel_probe import SHORT, ParallelProbe
from laconic.prune.strategies.registry import parse
from tests.prune.scripted import PROBE_COST, SAMPLING, ProbedScripts, Script
from tests.prune.strategies.test_run import checked

FAST: dict[str, Any] = {"interval": 2, "warmup": 1, "patience": 2, "stable": 4}


def solve(scripts, said, engine=None, **settings_):
    engine = engine or ProbedScripts(scripts, said=said)
    verdict = ParallelProbe(len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return checked(verdict, complete=True, probed=True)


def most_common(answers):
    """The answer that most traces gave; of equals that of the first trace; None without any."""
    found: dict[str, int] = {}
    for _, answer in sorted(answers.items()):
        if answer is not None:
            found[answer] = found.get(answer, 0) + 1
    return max(found, key=lambda answer: found[answer]) if found else None


def step_by_step(scripts, said, interval, warmup, patience, stable):
    """(tokens, fate, its answer at the end) of each trace, the steps that were decided, and how many probes there were."""
    n = len(scripts)
    fates, tokens = ["running"] * n, [0] * n
    answers: dict[int, str | None] = dict.fromkeys(range(n))
    differed = [0] * n
    before, held, probes, number = None, 0, 0, 0
    while True:
        number += 1
        for i, script in enumerate(scripts):
            if fates[i] != "running":
                continue
            if script.length <= number * interval:
                fates[i], tokens[i], answers[i] = "finished", script.length, script.answer
            else:
                probes += 1
                text = said(i, number * interval)
                tokens[i], answers[i] = number * interval, text[:-1] if text.endswith("}") and text != "}" else None
        if "running" not in fates:
            break
        step = number - 2
        if step < 0:
            continue
        active = {i: answers[i] for i in range(n) if fates[i] != "pruned"}
        lead = most_common(active)
        if step >= warmup and len(active) > 1:
            for i in active:
                if fates[i] == "running":
                    differed[i] = differed[i] + 1 if lead is not None and answers[i] != lead else 0
                    if differed[i] >= patience:
                        fates[i], answers[i] = "pruned", None
        lead = most_common({i: answers[i] for i in range(n) if fates[i] != "pruned"})
        held = held + 1 if lead is not None and lead == before else 0
        before = lead
        if held >= stable:
            fates = ["abandoned" if fate == "running" else fate for fate in fates]
            break
        if "running" not in fates:
            break
    return list(zip(tokens, fates, answers.values(), strict=True)), probes


SCRIPTS = st.lists(
    st.builds(Script, st.integers(1, 40), st.sampled_from(["5", "7", "8", None])), min_size=1, max_size=9
)


def drawn(seed):
    """Answers that mostly stay what they were."""

    def said(index, tokens):
        draw = random.Random(f"{seed} {index} {tokens // 8}")
        return draw.choice(["5}", "5}", "7}", "8}", "}", "5", "no}"])

    return said


@settings(max_examples=300, deadline=None)
@given(
    scripts=SCRIPTS,
    seed=st.integers(0, 999),
    interval=st.integers(2, 5),
    warmup=st.integers(0, 3),
    patience=st.integers(1, 3),
    stable=st.integers(1, 6),
    batch=st.integers(1, 9),
)
def test_the_outcome_is_that_of_all_side_by_side(scripts, seed, interval, warmup, patience, stable, batch):
    said = drawn(seed)
    given_ = {"interval": interval, "warmup": warmup, "patience": patience, "stable": stable}
    want, probes = step_by_step(scripts, said, **given_)
    engine = ProbedScripts(scripts, max_batch=batch, said=said)
    verdict = solve(scripts, said, engine, **given_)
    assert [(t.tokens, t.fate) for t in verdict.traces] == [w[:2] for w in want]
    voters = {i: answer for i, (_, fate, answer) in enumerate(want) if fate != "pruned" and answer is not None}
    if voters:
        assert {t.index: t.answer for t in verdict.traces if t.weight} == voters
        assert verdict.answer == most_common(voters)
    assert verdict.tokens.judged == PROBE_COST * probes == PROBE_COST * sum(map(len, engine.asked))
    if batch >= len(scripts):
        assert engine.rebuilt == 0, "nobody was carried out who goes on"


def test_deviating_traces_are_dropped_and_a_lasting_majority_ends_it():
    scripts = [Script(90, "1")] * 5 + [Script(5, "8")]
    said = {0: "4}", 1: "4}", 2: "7}", 3: "4}", 4: "}", 5: "}"}
    engine = ProbedScripts(scripts, said=lambda i, t: said[i])
    run = ParallelProbe(6, **FAST).begin(engine, "why?", SAMPLING)
    messages = [progress.message for progress in run if progress.message]
    verdict = checked(run.verdict(), complete=True, probed=True)
    # Step 0 is the second probe, at 4 tokens. From step 1 on differences count, and two of them drop; at step 4 the majority
    # has been the same for the fourth time.
    dropped, held = "differed from the majority 2 steps in a row", "the majority had stayed the same 4 steps"
    assert [(t.fate, t.tokens, t.reason, t.answer, t.weight) for t in verdict.traces] == [
        ("abandoned", 12, held, "4", 1),
        ("abandoned", 12, held, "4", 1),
        ("pruned", 8, dropped, None, 0),
        ("abandoned", 12, held, "4", 1),
        ("pruned", 8, dropped, None, 0),
        ("finished", 5, "came to its end", "8", 1),
    ]
    assert [(v.answer, v.traces) for v in verdict.votes] == [("4", (0, 1, 3)), ("8", (5,))]
    assert messages == [
        "6 traces start, probed every 2 tokens",
        "step 0: the majority is 4, 3 of 6 traces",
        f"trace 2 pruned: {dropped}",
        f"trace 4 pruned: {dropped}",
        "the majority has been 4 for 4 steps: 3 traces stopped",
    ]
    assert verdict.tokens.judged == PROBE_COST * (2 * 6 + 2 * 5 + 2 * 3)
    assert engine.how == {(DYNASOR_SUFFIX, 20, True)}, "the scripts have no tokenizer"
    assert verdict.winner == 0
    assert verdict.traces[0].text.endswith("w11 \n\nThe final answer is \\boxed{4}")
    assert all(extract(t.text) == t.answer for t in verdict.traces)
    assert run.snapshot().extra == {"step": 4, "held": 4}
    engine.forget([t.id for t in verdict.traces])
    assert engine.clean


def test_the_published_settings():
    strategy = ParallelProbe(64)
    assert (strategy.interval, strategy.warmup, strategy.patience, strategy.stable) == (500, 15, 7, 40)
    scripts = [Script(30_000, "1")] * 3
    verdict = ParallelProbe(3).solve(
        engine := ProbedScripts(scripts, chunk_tokens=500, said=lambda i, t: "7}" if i == 2 else "4}"),
        "why?",
        type(SAMPLING)(max_new_tokens=40_000, temperature=1.0),
    )
    # Seven differences from the 17th probe on; the first of two that are compared is the second.
    assert verdict.traces[2].tokens == 500 * (17 + 6)
    assert verdict.traces[0].tokens == 500 * (2 + 40)
    assert engine.rebuilt == 0


def test_one_trace_ends_when_its_own_answer_has_lasted():
    verdict = solve([Script(90, "1")], lambda i, t: f"{min(t, 10)}}}", **FAST)
    assert (verdict.answer, verdict.traces[0].tokens) == ("10", 18)
    whole = solve([Script(9, "1")], lambda i, t: "4}", **FAST)
    assert (whole.answer, whole.traces[0].fate) == ("1", "finished")


def test_of_equals_the_first_traces_answer_is_the_majority():
    said = {0: "}", 1: "7}", 2: "4}"}
    verdict = solve([Script(90, "1")] * 3, lambda i, t: said[i], **FAST)
    assert [t.fate for t in verdict.traces] == ["pruned", "abandoned", "pruned"]
    assert verdict.answer == "7"


def test_a_trace_that_comes_back_to_the_majority_is_not_dropped():
    wrong = {2: (6, 10, 14, 18)}
    verdict = solve(
        [Script(40, "1")] * 3, lambda i, t: "7}" if t in wrong.get(i, ()) else "4}", **{**FAST, "stable": 30}
    )
    assert {t.fate for t in verdict.traces} == {"finished"}


def test_without_any_answer_nobody_differs_and_nothing_lasts():
    verdict = solve([Script(20, None), Script(30, "3")], lambda i, t: "}", **FAST)
    assert [t.fate for t in verdict.traces] == ["finished", "finished"]
    assert verdict.answer == "3"


def test_a_trace_that_ends_without_an_answer_loses_its_vote():
    scripts = [Script(7, None), Script(40, "3"), Script(40, "3")]
    verdict = solve(scripts, lambda i, t: "4}" if i == 0 else f"{i}}}", interval=2, warmup=30, stable=30)
    assert [t.answer for t in verdict.traces] == [None, "3", "3"]
    assert verdict.votes[0].traces == (1, 2)


def test_where_nobody_has_an_answer_the_latest_probes_vote():
    scripts = [Script(7, None), Script(9, None), Script(60, None)]
    said = {0: "4}", 1: "4}", 2: "7}"}
    verdict = solve(scripts, lambda i, t: said[i], interval=2, warmup=0, patience=2, stable=30)
    assert verdict.traces[2].fate == "pruned"
    assert (verdict.answer, verdict.note) == ("4", "no trace came to an answer, so what the latest probes gave voted")
    assert verdict.votes[0].traces == (0, 1)


def test_answers_are_compared_by_what_they_mean():
    said = {0: "0.5}", 1: "1/2}", 2: "\\frac{1}{2}}"}
    verdict = solve([Script(90, "1")] * 3, lambda i, t: said[(i + t // 2) % 3], **FAST)
    assert {t.fate for t in verdict.traces} == {"abandoned"}
    assert len(verdict.votes) == 1


def test_the_preset_for_short_traces():
    assert parse("parallel-probe:short", 4) == ParallelProbe(4, **SHORT)
    assert parse("parallel_probe:short,interval=16", 4) == ParallelProbe(4, **{**SHORT, "interval": 16})
    assert parse("parallel-probe:warmup=0", 4) == ParallelProbe(4, warmup=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"interval": 0}, "interval is 0; expected a whole number of at least 1 (tokens)"),
        ({"warmup": -1}, "warmup is -1; expected a whole number of at least 0 (steps)"),
        ({"patience": 0}, "patience is 0; expected a whole number of at least 1 (steps)"),
        ({"stable": 0}, "stable is 0; expected a whole number of at least 1 (steps)"),
        ({"stable": 1.5}, "stable is 1.5"),
        ({"tokens": 0}, "tokens is 0"),
        ({"suffix": "now"}, "suffix is 'now'; expected published, closing, or a text that ends in an open brace"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(LaconicError, match=re.escape(said)):
        ParallelProbe(**{"n": 4, **wrong})
