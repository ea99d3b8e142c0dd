"""What strategies that probe share: interruptions, engines that move unevenly or can't be probed, failures, and texts."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from laconic.answers import answer_of, extract
from laconic.errors import LaconicError
from laconic.prune import DynasorCoT, Needs, ParallelProbe
from laconic.prune.probing import DYNASOR_SUFFIX, SUFFIXES
from tests.prune.scripted import PROBE_COST, SAMPLING, ProbedScripts, Script, ScriptedEngine
from tests.prune.strategies.test_dynasor import drawn as doubtful
from tests.prune.strategies.test_dynasor import one_after_another
from tests.prune.strategies.test_parallel_probe import drawn, step_by_step
from tests.prune.strategies.test_run import checked
from tests.prune.test_needs import Blind

SCRIPTS = [Script(9 + 5 * i % 23, str(i % 3) if i % 4 else None) for i in range(10)]
STEPS: dict[str, Any] = {"interval": 3, "warmup": 1, "patience": 2, "stable": 3}


def strategies():
    return [DynasorCoT(10, m=2, k=3, early_end=False), DynasorCoT(10, m=2, k=3), ParallelProbe(10, **STEPS)]


class Uneven(ProbedScripts):
    """At each step some of the rows move, as traces on servers do."""

    draw: random.Random

    def _step(self):
        self.steps += 1
        for row in self._batch:
            if self.draw.random() < 0.5:
                self._draw(row)
        self._emit()


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("batch", [64, 4])
def test_a_verdict_at_every_step_and_after_an_interruption_at_any(which, chunk, batch):
    def begin():
        engine = ProbedScripts(SCRIPTS, max_batch=batch, chunk_tokens=chunk, said=drawn(3))
        return engine, strategies()[which].begin(engine, "why?", SAMPLING)

    engine, solving = begin()
    checked(solving.verdict(), complete=False, probed=True)
    whole = []
    for progress in solving:
        verdict = checked(solving.verdict(), complete=False, probed=True)
        assert verdict.tokens.judged == engine.side_tokens == solving.snapshot().judged
        assert all(extract(t.text) == t.answer for t in verdict.traces if t.weight)
        whole.append(progress)
    final = checked(solving.verdict(), complete=True, probed=True)
    assert not any(t.fate in ("waiting", "running", "interrupted") for t in final.traces)
    assert solving.interrupt() == final
    for at in range(0, len(whole), 3):
        engine, solving = begin()
        for count, _ in enumerate(solving):
            if count == at:
                break
        verdict = checked(solving.interrupt(), complete=False, probed=True)
        assert not any(t.fate in ("waiting", "running") for t in verdict.traces)
        assert [len(engine.trace(t.id).token_ids) for t in verdict.traces] == [t.tokens for t in verdict.traces]
        engine.forget([t.id for t in verdict.traces])
        assert engine.clean


@pytest.mark.parametrize("seed", range(30))
def test_on_an_engine_whose_traces_move_unevenly_the_steps_are_the_same(seed):
    engine = Uneven(SCRIPTS, max_batch=4 + seed % 7, said=drawn(seed))
    engine.draw = random.Random(seed)
    verdict = ParallelProbe(10, **STEPS).solve(engine, "why?", SAMPLING)
    want, probes = step_by_step(SCRIPTS, drawn(seed), **STEPS)
    assert [(t.tokens, t.fate) for t in verdict.traces] == [w[:2] for w in want]
    assert verdict.tokens.judged == PROBE_COST * probes
    assert engine.clean


@pytest.mark.parametrize("seed", range(30))
def test_there_each_trace_is_still_decided_by_its_own_probes(seed):
    engine = Uneven(SCRIPTS, max_batch=4 + seed % 7, said=doubtful(seed))
    engine.draw = random.Random(seed)
    verdict = checked(
        DynasorCoT(10, m=2, k=3, early_end=False).solve(engine, "why?", SAMPLING), complete=True, probed=True
    )
    want = one_after_another(SCRIPTS, doubtful(seed), 2, 3)
    assert [(t.tokens, t.answer, t.fate == "pruned") for t in verdict.traces] == [w[:3] for w in want]
    assert engine.clean


@pytest.mark.parametrize("strategy", strategies()[1:])
def test_it_needs_an_engine_that_can_be_probed(strategy):
    assert strategy.needs() == Needs(probe=True)
    blind = Blind()
    says = "the blind engine can't probe a trace: use the hf engine, or a strategy or judge that reads text"
    with pytest.raises(LaconicError, match=says):
        strategy.solve(blind, "why?", SAMPLING)
    assert blind.calls == [Needs(probe=True)]
    engine = ScriptedEngine(SCRIPTS)
    with pytest.raises(
        LaconicError, match=r"the ScriptedEngine engine has no probe_texts, by which .* use the hf engine"
    ):
        strategy.solve(engine, "why?", SAMPLING)
    assert engine.clean


@pytest.mark.parametrize("strategy", strategies()[1:])
def test_a_probe_that_fails_leaves_a_verdict_and_a_clean_engine(strategy):
    def said(index, tokens):
        if tokens >= 6:
            raise RuntimeError("the probe broke")
        return "4}"

    engine = ProbedScripts(SCRIPTS, said=said)
    solving = strategy.begin(engine, "why?", SAMPLING)
    with pytest.raises(RuntimeError, match="the probe broke"):
        list(solving)
    verdict = checked(solving.interrupt(), complete=False, probed=True)
    assert {t.fate for t in verdict.traces} <= {"interrupted", "finished"}
    engine.forget([t.id for t in verdict.traces])
    assert engine.clean


def tokenizer(*words, unknown=None):
    """One token a word; `unknown` for those that aren't in the vocabulary."""

    def call(text, add_special_tokens):
        return {"input_ids": [words.index(w) if w in words else unknown for w in text.split()]}

    known = type("Tokenizer", (), {"__call__": staticmethod(call)})()
    known.get_vocab = lambda: dict.fromkeys(words, 0)
    known.unk_token_id = unknown
    return known


@pytest.mark.parametrize(
    ("strategy", "known", "suffix"),
    [
        (DynasorCoT(1, k=4), tokenizer("</think>", *DYNASOR_SUFFIX.split(), unknown=99), DYNASOR_SUFFIX),
        (DynasorCoT(1, k=4), tokenizer("</think>", unknown=99), SUFFIXES["</think>"]),
        (DynasorCoT(1, k=4), tokenizer("</think>"), DYNASOR_SUFFIX),
        (DynasorCoT(1, k=4, suffix="closing"), tokenizer("</think>"), SUFFIXES["</think>"]),
        (ParallelProbe(1, interval=4), tokenizer("</think>"), SUFFIXES["</think>"]),
        (ParallelProbe(1, interval=4, suffix="published"), tokenizer("</think>"), DYNASOR_SUFFIX),
        (ParallelProbe(1, interval=4, suffix="So: {"), None, "So: {"),
    ],
)
def test_what_is_appended(strategy, known, suffix):
    engine = ProbedScripts([Script(9, "1")])
    engine.tokenizer = known
    strategy.solve(engine, "why?", SAMPLING)
    assert {asked[0] for asked in engine.how} == {suffix}


def test_closing_needs_a_tokenizer():
    engine = ProbedScripts([Script(9, "1")])
    with pytest.raises(LaconicError, match=r"tells no tokenizer.*give the probe a suffix"):
        DynasorCoT(1, k=4, suffix="closing").solve(engine, "why?", SAMPLING)
    assert engine.clean


def test_an_open_thought_is_closed_before_the_answer():
    class Thinking(ProbedScripts):
        def submit(self, *args, **more):
            names = super().submit(*args, **more)
            self.trace(names[0]).thinking = True
            return names

    engine = Thinking([Script(30, "1")], said=lambda i, t: "4}")
    engine.tokenizer = tokenizer("</think>")
    verdict = DynasorCoT(1, m=1, k=4).solve(engine, "why?", SAMPLING)
    assert verdict.traces[0].text == "w0 w1 w2 w3 \n</think>\n\n\\boxed{4}"
    assert answer_of(SimpleNamespace(text=verdict.traces[0].text, finish_reason="stop", thinking=True)) == "4"
