"""What strategies, judges and excerpts say they need, and that engines arrange for it or refuse before anything runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from laconic.engines.base import Engine, Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.replay import ReplayEngine
from laconic.errors import LaconicError
from laconic.judges.baselines import FactOverlap, RandomJudge, TokenJaccard
from laconic.judges.encoder import PairEncoder
from laconic.judges.input_spec import EncoderInputSpec
from laconic.judges.network import EncoderConfig
from laconic.judges.probe import ProbeJudge
from laconic.judges.vectors import ReasonerStates
from laconic.prune import (
    DeepConf,
    DeepPrune,
    DynasorCoT,
    Needs,
    ParallelProbe,
    SelfConsistency,
    Strategy,
    Verdict,
    excerpts,
)
from laconic.prune.needs import needs_of
from laconic.traces import TraceRecord
from tests.judges.models import WORDS, llama, word_tokenizer
from tests.prune.scripted import Script, ScriptedEngine, TableJudge

LAYERS = (1, -1)
STATES = Needs(state_tokens=9, state_layers=LAYERS)
SAMPLING = Sampling(max_new_tokens=24, temperature=1.0, seed=3)


def states_judge(kind: str = "tokens:5", layers: tuple[int, ...] = LAYERS) -> PairEncoder:
    width = len(layers) * int(llama(len(WORDS)).config.hidden_size)
    shape = EncoderConfig(given=width, tokens=9, width=16, heads=2, pools=2, encoding=8, hidden=8)
    return PairEncoder(EncoderInputSpec(kind, "states", layers), shape, ReasonerStates(width, layers), seed=1)


# ---- what is said -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (Needs(), Needs(), Needs()),
        (STATES, Needs(), STATES),
        (Needs(state_tokens=4), Needs(state_tokens=7), Needs(state_tokens=7)),
        (Needs(state_tokens=12), STATES, Needs(state_tokens=12, state_layers=LAYERS)),
        (Needs(probe=True), Needs(kept=True), Needs(probe=True, kept=True)),
        (Needs(token_ids=True), Needs(kept=True), Needs(token_ids=True, kept=True)),
        (Needs(confidence_top_k=20), Needs(probe=True), Needs(probe=True, confidence_top_k=20)),
        (Needs(confidence_top_k=5), Needs(confidence_top_k=5), Needs(confidence_top_k=5)),
    ],
)
def test_a_union_is_what_either_needs(a: Needs, b: Needs, both: Needs) -> None:
    assert a | b == b | a == both


def test_what_one_run_can_not_give_has_no_union() -> None:
    with pytest.raises(LaconicError, match=r"layers \[-1\] and \[1, -1\] are asked for"):
        STATES | Needs(state_tokens=3, state_layers=(-1,))
    with pytest.raises(LaconicError, match="confidences of 5 and 20 candidates are asked for"):
        Needs(confidence_top_k=20) | Needs(confidence_top_k=5)


@pytest.mark.parametrize(
    ("kind", "needs", "most"),
    [
        ("tokens:56", Needs(), 56),
        ("words:25", Needs(), None),
        ("kept", Needs(kept=True), None),
        ("kept:64", Needs(kept=True), None),
    ],
)
def test_what_each_excerpt_needs(kind: str, needs: Needs, most: int | None) -> None:
    cut = excerpts.parse(kind)
    assert (cut.needs(), cut.most_tokens) == (needs, most)


@pytest.mark.parametrize(
    ("judge", "needs"),
    [
        (ProbeJudge(), Needs(probe=True)),
        (states_judge(), STATES),
        (PairEncoder(EncoderInputSpec("tokens:5"), EncoderConfig(vocabulary=40, tokens=9)), Needs(token_ids=True)),
        (RandomJudge(), Needs()),
        (TokenJaccard(), Needs()),
        (FactOverlap(), Needs()),
        (TableJudge(None), Needs()),
    ],
)
def test_what_each_judge_needs(judge: Any, needs: Needs) -> None:
    """One that says nothing needs nothing."""
    assert needs_of(judge) == needs


def test_a_judge_that_says_something_else_is_refused() -> None:
    class Odd(TableJudge):
        def needs(self):
            return {"probe": True}

    with pytest.raises(LaconicError, match=r"needs\(\) gives is \{'probe': True\}; expected a laconic.prune.Needs"):
        DeepPrune(3, Odd(None)).needs()


@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (SelfConsistency(4), Needs()),
        (DeepConf(4, top_k=7), Needs(confidence_top_k=7)),
        (DynasorCoT(4), Needs(probe=True)),
        (ParallelProbe(4), Needs(probe=True)),
        (DeepPrune(4, TokenJaccard()), Needs()),
        (DeepPrune(4, TokenJaccard(), vote="confidence"), Needs(confidence_top_k=20)),
        (DeepPrune(4, TokenJaccard(), excerpt="kept:9"), Needs(kept=True)),
        # As far as the excerpt goes, where that is known; else as far as the judge can read.
        (DeepPrune(4, states_judge("tokens:5")), Needs(state_tokens=5, state_layers=LAYERS)),
        (DeepPrune(4, states_judge("tokens:40")), Needs(state_tokens=40, state_layers=LAYERS)),
        (DeepPrune(4, states_judge("words:2")), STATES),
        (
            DeepPrune(4, ProbeJudge(), excerpt="kept", vote="confidence"),
            Needs(probe=True, kept=True, confidence_top_k=20),
        ),
    ],
)
def test_what_each_strategy_needs(strategy: Strategy, needs: Needs) -> None:
    assert strategy.needs() == needs


# ---- what engines do about it -------------------------------------------------------------------------------------------


class Blind(Engine):
    """A script as an engine that tells tokens alone; notes what it is asked for."""

    name = "blind"

    def __init__(self) -> None:
        self.script: Any = ScriptedEngine([Script(30, "1")] * 3)
        self.calls: list[Any] = []

    def prepare(self, needs: Needs) -> None:
        self.calls.append(needs)
        super().prepare(needs)

    def submit(self, *args: Any, **more: Any) -> list[str]:
        self.calls.append("submit")
        return list(self.script.submit(*args, **more))

    def stream(self) -> Any:
        return self.script.stream()

    def stop(self, trace_id: str) -> None:
        self.script.stop(trace_id)

    def resume(self, trace_id: str) -> None:
        self.script.resume(trace_id)

    def trace(self, trace_id: str) -> Any:
        return self.script.trace(trace_id)

    def forget(self, trace_ids: Any) -> None:
        self.script.forget(trace_ids)

    def render(self, question: str) -> str:
        return question

    @property
    def stats(self) -> Any:
        return self.script.stats


@pytest.mark.parametrize(
    ("judge", "kind", "says"),
    [
        (states_judge("tokens:5"), "tokens:5", "the blind engine gives no hidden states: use a judge that reads text"),
        (
            ProbeJudge(),
            "tokens:5",
            "the blind engine can't probe a trace: use the hf engine, or a strategy or judge that reads text",
        ),
        (RandomJudge(), "kept:9", "the blind engine does not tell what compression kept: use another excerpt"),
    ],
)
def test_what_an_engine_lacks_is_refused_before_anything_is_submitted(judge: Any, kind: str, says: str) -> None:
    engine = Blind()
    strategy = DeepPrune(3, judge, excerpt=kind)
    with pytest.raises(LaconicError, match=says):
        Blind.check_needs(strategy.needs())
    with pytest.raises(LaconicError, match=says):
        strategy.solve(engine, "q", SAMPLING)
    assert engine.calls == [strategy.needs()]
    assert engine.script.clean


def test_an_engine_is_asked_before_it_gets_the_traces() -> None:
    engine = Blind()
    strategy = DeepPrune(3, RandomJudge(), excerpt="tokens:5", vote="confidence")
    strategy.solve(engine, "q", SAMPLING)
    assert engine.calls == [strategy.needs(), "submit"]


def solve_with(engine: HFEngine, judge: Any, kind: str | None = None) -> tuple[Any, Verdict]:
    """What an engine ran for the judge, and the verdict but for its clock."""
    before = engine.stats.side_tokens
    verdict = DeepPrune(6, judge, excerpt=kind, K2=2).solve(engine, "a b c", SAMPLING)
    return engine.stats.side_tokens - before, dataclasses.replace(verdict, seconds={})


def model_engine(**settings: Any) -> HFEngine:
    return HFEngine(llama(len(WORDS)), word_tokenizer(), max_batch=6, **settings)


@pytest.mark.parametrize("kind", ["tokens:5", "tokens:12"])
def test_states_are_noted_for_the_judge_without_a_word_from_the_user(kind: str) -> None:
    """The verdict is that of an engine that was set up by hand, and nothing is run again."""
    by_hand = solve_with(model_engine(record_states=12, state_layers=LAYERS), states_judge(kind))
    engine = model_engine()
    run_again, verdict = solve_with(engine, states_judge(kind))
    assert (run_again, verdict.tokens.judged) == (0, 0)
    assert len(verdict.clusters) > 0
    assert dataclasses.replace(verdict, traces=()) == dataclasses.replace(by_hand[1], traces=())
    assert [(t.text, t.fate) for t in verdict.traces] == [(t.text, t.fate) for t in by_hand[1].traces]
    # Another judge on the same engine gets its own layers.
    assert solve_with(engine, states_judge(kind, (2,)))[0] == 0
    assert engine.state_layers == (2,)


def test_an_engine_made_for_other_layers_refuses_before_anything_is_submitted() -> None:
    engine = model_engine(state_layers=(2,))
    with pytest.raises(LaconicError, match=r"layers \[1, -1\] are to be read, the engine gives those of \[2\]"):
        solve_with(engine, states_judge())
    with pytest.raises(LaconicError, match=r"state_layers is \(9,\); expected indices from -3 to 2"):
        model_engine().prepare(Needs(state_tokens=3, state_layers=(9,)))
    assert engine.stats.generated_tokens == 0
    assert engine.state_layers == (2,)


def record(index: int) -> TraceRecord:
    drawn = {"policy": "full", "temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_new_tokens": 24}
    return TraceRecord("p", "a b c", "1", 0, index, 3, drawn, (4, 5), (6, 7, 8), "a b c", None, False, "length")


def test_a_replay_asks_its_models_engine_and_refuses_without_one() -> None:
    records = [record(i) for i in range(3)]
    model = HFEngine(llama(len(WORDS)), word_tokenizer())
    ReplayEngine(records, model_engine=model).prepare(STATES)
    assert model.state_layers == LAYERS
    alone = ReplayEngine(records)
    alone.prepare(Needs(kept=True, confidence_top_k=5))  # of a trace that was never compressed that needs no model
    with pytest.raises(LaconicError, match="states needs the model that wrote the traces"):
        alone.prepare(STATES)
    with pytest.raises(LaconicError, match="probe needs the model that wrote the traces"):
        DeepPrune(3, ProbeJudge(), excerpt="tokens:2").solve(alone, "a b c", SAMPLING)
    assert alone.stats.steps == 0
