"""Dynasor-CoT on scripted probes: against a plain loop over each trace, and what a verdict says of stopped traces."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.answers import extract
from laconic.errors import LaconicError
from laconic.prune.probing import DYNASOR_SUFFIX
from laconic.prune.strategies.dynasor import EFFORTS, DynasorCoT
from laconic.prune.strategies.registry import parse
from tests.prune.scripted import PROBE_COST, SAMPLING, ProbedScripts, Script
from tests.prune.strategies.test_run import checked

SAYINGS = [
    "5} \\]",
    "5} so",
    "7}",
    "7} \\] Wait, is it",
    "5} hmm",
    "} but",
    "  }",
    "5",
    "\\frac{1}{2}} and",
    "know}",
    "5} note: nobody holds it",
]


def solve(scripts, said, engine=None, **settings_):
    engine = engine or ProbedScripts(scripts, said=said)
    verdict = DynasorCoT(len(scripts), **settings_).solve(engine, "why?", SAMPLING)
    assert engine.clean
    return checked(verdict, complete=True, probed=True)


def read_slowly(text):
    """(the answer or "", whether a word of doubt stands in the text): by characters and by words."""
    depth, answer = 0, ""
    for at, character in enumerate(text):
        if character == "{":
            depth += 1
        if character == "}":
            if depth == 0:
                answer = text[:at].strip()
                break
            depth -= 1
    words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
    return answer, any(word in words for word in ("wait", "hold", "but", "okay", "no", "hmm"))


def one_after_another(scripts, said, m, k):
    """(tokens, answer, whether it was stopped, probes) of each trace, by itself."""
    found = []
    for index, script in enumerate(scripts):
        told = []
        for tokens in range(k, script.length, k):
            told.append(read_slowly(said(index, tokens)))
            latest = told[-m:]
            if len(latest) == m and all(a == latest[0][0] != "" and not doubt for a, doubt in latest):
                found.append((tokens, latest[0][0], True, len(told)))
                break
        else:
            found.append((script.length, script.answer, False, len(told)))
    return found


def drawn(seed):
    return lambda index, tokens: random.Random(f"{seed} {index} {tokens}").choice(SAYINGS)


SCRIPTS = st.lists(st.builds(Script, st.integers(1, 24), st.sampled_from(["5", "7", None])), min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(
    scripts=SCRIPTS,
    seed=st.integers(0, 999),
    m=st.integers(1, 3),
    k=st.integers(2, 6),
    batch=st.integers(1, 9),
)
def test_the_outcome_is_that_of_each_trace_by_itself(scripts, seed, m, k, batch):
    said = drawn(seed)
    engine = ProbedScripts(scripts, max_batch=batch, said=said)
    want = one_after_another(scripts, said, m, k)
    verdict = solve(scripts, said, engine, m=m, k=k, early_end=False)
    if any(answer for _, answer, _, _ in want):
        assert [(t.tokens, t.answer, t.fate == "pruned") for t in verdict.traces] == [w[:3] for w in want]
        counts = Counter(answer for _, answer, _, _ in want if answer)
        assert {v.answer: v.weight for v in verdict.votes} == counts
    probes = sum(w[3] for w in want)
    assert (verdict.tokens.judged, sum(map(len, engine.asked))) == (PROBE_COST * probes, probes)
    early = solve(scripts, said, m=m, k=k)
    if any(answer for _, answer, _, _ in want):
        assert early.answer == verdict.answer
    assert early.tokens.total <= verdict.tokens.total


def test_traces_that_are_due_together_are_asked_together():
    scripts = [Script(20, "1"), Script(10, "1"), Script(20, "1"), Script(20, "1")]
    engine = ProbedScripts(scripts, max_batch=3, said=lambda i, t: "}")
    solve(scripts, None, engine, m=2, k=4, early_end=False)
    # Trace 3 takes the place of trace 1, which has ended after 10 tokens, so it stands elsewhere.
    assert engine.asked == [
        [(0, 4), (1, 4), (2, 4)],
        [(0, 8), (1, 8), (2, 8)],
        [(0, 12), (2, 12)],
        [(3, 4)],
        [(0, 16), (2, 16)],
        [(3, 8)],
        [(3, 12)],
        [(3, 16)],
    ]
    assert engine.how == {(DYNASOR_SUFFIX, 20, False)}


def test_chunks_of_several_tokens_are_probed_at_their_ends():
    engine = ProbedScripts([Script(40, "1")], chunk_tokens=5, said=lambda i, t: f"{t}}}")
    verdict = solve([Script(40, "1")], None, engine, m=9, k=4)
    assert [t for asked in engine.asked for _, t in asked] == [5, 10, 15, 20, 25, 30, 35]
    assert verdict.answer == "1"


def test_a_verdict_says_who_was_stopped_and_why():
    scripts = [Script(50, "1"), Script(6, "8"), Script(50, "1"), Script(50, None, finish="length")]
    said = {0: "5} \\]", 1: "5}", 2: "5}", 3: "}"}
    verdict = solve(scripts, lambda i, t: said[i], m=2, k=4, early_end=False)
    assert [(t.fate, t.reason, t.tokens, t.answer, t.weight) for t in verdict.traces] == [
        ("pruned", "settled: the latest 2 probes gave 5", 8, "5", 1),
        ("finished", "came to its end", 6, "8", 1),
        ("pruned", "settled: the latest 2 probes gave 5", 8, "5", 1),
        ("finished", "reached its limit of 50 tokens", 50, None, 0),
    ]
    assert (verdict.answer, verdict.winner) == ("5", 0)
    assert verdict.tokens.judged == PROBE_COST * (2 + 1 + 2 + 12)
    assert verdict.tokens.saved == 4 * 28 - verdict.tokens.total
    assert verdict.traces[0].text == "w0 w1 w2 w3 w4 w5 w6 w7 \n\nThe final answer is \\boxed{5}"
    assert verdict.traces[1].text.endswith("\\boxed{8}")
    assert all(extract(t.text) == t.answer for t in verdict.traces)
    assert verdict.settings == {"m": 2, "k": 4, "tokens": 20, "suffix": None, "early_end": False}
    assert verdict.strategy == "dynasor"


def test_of_those_that_gave_the_answer_one_that_came_to_its_end_stands_for_it():
    scripts = [Script(50, "1"), Script(6, "5")]
    verdict = solve(scripts, lambda i, t: "5}" if i == 0 else "}", m=1, k=4, early_end=False)
    assert (verdict.answer, verdict.winner, [t.fate for t in verdict.traces]) == ("5", 1, ["pruned", "finished"])


def test_one_trace_is_the_published_use():
    verdict = solve([Script(500, "9")], lambda i, t: "\\frac{1}{2}}" if t >= 192 else f"{t}}}", m=3, k=64)
    assert verdict.answer == "\\frac{1}{2}"
    assert verdict.traces[0].tokens == 320
    assert verdict.votes[0].weight == 1
    whole = solve([Script(100, "9")], lambda i, t: "4}", m=3, k=64)
    assert (whole.answer, whole.traces[0].fate, whole.tokens.judged) == ("9", "finished", PROBE_COST)


def test_answers_are_compared_by_what_they_mean():
    spelled = {4: "0.5}", 8: "\\frac{1}{2}}", 12: "1/2}"}
    verdict = solve([Script(40, "9")], lambda i, t: spelled.get(t, "}"), m=3, k=4)
    assert (verdict.answer, verdict.traces[0].tokens) == ("1/2", 12)


@pytest.mark.parametrize("doubt", ["5} Wait", "5}, but", "5} no", "5} Hmm.", "5} okay", "5} HOLD on", "}", "5", "{5}"])
def test_doubt_or_no_answer_in_the_window_keeps_a_trace_running(doubt):
    verdict = solve([Script(30, "9")], lambda i, t: doubt if t in (8, 20) else "5}", m=3, k=4)
    assert (verdict.answer, verdict.traces[0].fate) == ("9", "finished")
    settled = solve([Script(30, "9")], lambda i, t: doubt if t == 8 else "5}", m=3, k=4)
    assert (settled.answer, settled.traces[0].tokens) == ("5", 20)


def test_ties_go_to_the_first_trace_and_the_rest_is_stopped_once_it_is_decided():
    said = {0: "}", 1: "4}", 2: "3}", 3: "3}", 4: "4}", 5: "}"}
    scripts = [Script(90, "1"), *[Script(90, "2")] * 4, Script(90, "1")]
    tie = solve(scripts[:5], lambda i, t: said[i], m=2, k=4, early_end=False)
    assert [(v.answer, v.traces) for v in tie.votes] == [("4", (1, 4)), ("3", (2, 3)), ("1", (0,))]
    agreed = solve(scripts, lambda i, t: "4}" if 0 < i < 5 else "}", m=2, k=4)
    assert [t.fate for t in agreed.traces] == ["abandoned", *["pruned"] * 4, "abandoned"]
    assert [t.tokens for t in agreed.traces] == [8] * 6
    assert agreed.traces[0].reason == "the vote was decided without it"


def test_where_nobody_has_an_answer_the_latest_probes_vote():
    scripts = [Script(20, None), Script(20, None), Script(20, None)]
    said = {(0, 4): "3}", (0, 8): "}", (2, 12): "4}", (1, 8): "4}"}
    verdict = solve(scripts, lambda i, t: said.get((i, t), "?"), m=2, k=4)
    assert (verdict.answer, verdict.note) == ("4", "no trace came to an answer, so what the latest probes gave voted")
    assert [t.answer for t in verdict.traces] == ["3", "4", "4"]
    none = solve(scripts, lambda i, t: "?", m=2, k=4)
    assert (none.answer, none.note) == (None, "of 3 traces that ended none gave an answer")


def test_presets_are_words_and_the_settings_beside_them_win():
    assert [(e["m"], e["k"]) for e in EFFORTS.values()] == [(8, 64), (5, 64), (3, 64), (2, 64), (2, 32)]
    for word, effort in EFFORTS.items():
        assert parse(f"dynasor:{word}", 4) == DynasorCoT(4, **effort)
    assert parse("dynasor", 4) == parse("dynasor:mid", 4)
    assert parse("dynasor: high ,k=16,suffix=closing", 4) == DynasorCoT(4, m=2, k=16, suffix="closing")
    assert parse("dynasor:high", 4, m=7) == DynasorCoT(4, m=7)
    with pytest.raises(LaconicError, match="'low' in strategy 'dynasor:high,low' has no value"):
        parse("dynasor:high,low", 4)
    with pytest.raises(LaconicError, match="'fast' in strategy 'dynasor:fast' has no value"):
        parse("dynasor:fast", 4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"m": 0}, "m is 0; expected a whole number of at least 1 (probes)"),
        ({"k": 0}, "k is 0; expected a whole number of at least 1 (tokens)"),
        ({"k": 2.5}, "k is 2.5"),
        ({"tokens": 0}, "tokens is 0; expected a whole number of at least 1 (tokens of an answer)"),
        ({"early_end": 1}, "early_end is 1"),
        ({"suffix": 5}, "suffix is 5; expected"),
        ({"suffix": " "}, "suffix is"),
        (
            {"suffix": "So:"},
            "suffix is 'So:'; expected published, closing, or a text that ends in an open brace, such as",
        ),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(LaconicError, match=re.escape(said)):
        DynasorCoT(**{"n": 4, **wrong})
