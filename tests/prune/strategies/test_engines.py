"""Strategies on engines that run a model: the same traces with and without pruning, and memory that is freed."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.answers import extract
from laconic.assets import reasoner_path
from laconic.compress import RPC
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.replay import ReplayEngine
from laconic.errors import LaconicError
from laconic.prune.strategies.deepconf import DeepConf
from laconic.prune.strategies.deepprune import DeepPrune
from laconic.prune.strategies.dynasor import DynasorCoT
from laconic.prune.strategies.judged import JudgedVote
from laconic.prune.strategies.parallel_probe import ParallelProbe
from laconic.prune.strategies.self_consistency import SelfConsistency
from laconic.traces import TraceRecord
from tests.prune.scripted import TableJudge
from tests.prune.strategies.test_run import checked

QUESTION = "given b=1 c=2 ; d:b d+c d>. ; start *>d ; find d ?"
SAMPLING = Sampling(max_new_tokens=160, temperature=1.0, top_p=0.95, seed=5)
N, K = 8, 12


class Words(TableJudge):
    """How many words two excerpts share."""

    name = "words"

    def __init__(self, excerpt=None):
        super().__init__(None, excerpt)

    def read(self, excerpts, engine=None):
        super().read(excerpts, engine)
        self.read_while = [engine.trace(e.trace_id).state for e in excerpts]
        return [frozenset(e.text.split()) for e in excerpts]

    def compare(self, pairs):
        return [len(a & b) / max(1, len(a | b)) for a, b in pairs]


@pytest.fixture(scope="module")
def reasoner():
    return AutoModelForCausalLM.from_pretrained(reasoner_path()), AutoTokenizer.from_pretrained(reasoner_path())


@pytest.fixture(scope="module")
def plain(reasoner):
    """The traces as they are when nobody stops them."""
    engine = HFEngine(reasoner[0], reasoner[1], max_batch=N)
    return engine.generate([engine.render(QUESTION)], dataclasses.replace(SAMPLING, confidence_top_k=20), N)[0]


def test_self_consistency(reasoner, plain):
    engine = HFEngine(reasoner[0], reasoner[1], max_batch=N)
    verdict = checked(SelfConsistency(N, early_end=False).solve(engine, QUESTION, SAMPLING), complete=True)
    assert [t.tokens for t in verdict.traces] == [len(t.token_ids) for t in plain]
    early = checked(SelfConsistency(N).solve(engine, QUESTION, SAMPLING), complete=True)
    assert early.answer == verdict.answer
    assert early.tokens.generated <= verdict.tokens.generated
    assert early.kv["token_steps"] <= verdict.kv["token_steps"]
    assert verdict.kv["steps"] == max(len(t.token_ids) for t in plain) - 1 >= early.kv["steps"]
    assert engine.stats.live_kv_bytes == 0


def test_deepprune_stops_at_the_excerpt_and_the_survivors_are_what_they_would_have_been(reasoner, plain):
    engine = HFEngine(reasoner[0], reasoner[1], max_batch=N)
    judge = Words(f"tokens:{K}")
    solving = DeepPrune(N, judge, K2=2, early_end=False).begin(engine, QUESTION, SAMPLING)
    held = []
    for progress in solving:
        if not progress.message:
            held.append((progress.phase, solving.snapshot().kv_bytes))
    verdict = checked(solving.verdict(), complete=True)
    assert verdict.clusters
    assert set(judge.read_while) == {"running"}  # judged before the engine carried the stops out
    assert [e.token_ids for e in judge.seen] == [tuple(t.token_ids[:K]) for t in plain]
    assert all(len(engine.trace(t.id).token_ids) == t.tokens for t in verdict.traces)
    for trace, whole in zip(verdict.traces, plain, strict=True):
        want = whole.token_ids if trace.fate == "finished" else whole.token_ids[:K]
        assert engine.trace(trace.id).token_ids == want
    assert engine.stats.prompt_tokens == len(plain[0].prompt_ids), "one prefill, and no survivor was rebuilt"
    explored = max(held_ for phase, held_ in held if phase == "explore")
    finishing = [held_ for phase, held_ in held if phase == "finish"]
    assert verdict.kv["peak_bytes"] == engine.stats.peak_kv_bytes
    assert finishing[0] < explored / 2  # six of eight are gone
    engine.forget([t.id for t in verdict.traces])


def test_with_fewer_rows_the_outcome_is_the_same(reasoner, plain):
    wide = DeepPrune(N, Words(), excerpt=f"tokens:{K}", K2=3).solve(
        HFEngine(reasoner[0], reasoner[1]), QUESTION, SAMPLING
    )
    engine = HFEngine(reasoner[0], reasoner[1], max_batch=3, chunk_tokens=5)
    narrow = DeepPrune(N, Words(), excerpt=f"tokens:{K}", K2=3).solve(engine, QUESTION, SAMPLING)
    assert (narrow.clusters, narrow.answer) == (wide.clusters, wide.answer)
    assert engine.stats.live_kv_bytes == 0


def test_what_compression_kept_can_be_judged(reasoner):
    engine = HFEngine(reasoner[0], reasoner[1], policy=RPC(interval=16, ratio=4, window=8), max_batch=N)
    judge = Words()
    verdict = DeepPrune(N, judge, excerpt="kept", K2=2).solve(engine, QUESTION, SAMPLING)
    # P / c chosen ones, the window and the newest; layers choose differently, and half of them must agree.
    cut = [e for e in judge.seen if not e.complete]
    assert cut
    assert all(8 < len(e.token_ids) <= 4 + 8 + 4 for e in cut)
    assert all(" … " in e.text for e in cut)
    stopped = [t.tokens for t in verdict.traces if t.fate == "pruned"]
    assert set(stopped) == {16 + 8 + 1}


def records(plain):
    return [
        TraceRecord(
            problem="p",
            question=QUESTION,
            gold="3",
            level=1,
            index=t.index,
            seed=SAMPLING.seed,
            settings={
                "policy": "full",
                "temperature": 1.0,
                "top_p": 0.95,
                "top_k": 0,
                "max_new_tokens": 160,
                "logprobs": 20,
            },
            prompt_ids=t.prompt_ids,
            token_ids=tuple(t.token_ids),
            text=t.text,
            answer=None,
            correct=False,
            finish_reason=t.finish_reason,
            confidences=tuple(t.confidences),
        )
        for t in plain
    ]


@pytest.mark.parametrize(
    "strategy",
    [
        DynasorCoT(N, m=1, k=12, early_end=False),
        DynasorCoT(N, m=1, k=12, tokens=3),
        ParallelProbe(N, interval=12, warmup=1, patience=2, stable=3),
    ],
)
def test_probes_leave_traces_as_they_are_and_are_counted(reasoner, plain, strategy):
    model, tokenizer = reasoner
    engine = HFEngine(model, tokenizer, max_batch=N)
    verdict = checked(strategy.solve(engine, QUESTION, SAMPLING), complete=True, probed=True)
    assert any(t.fate != "finished" for t in verdict.traces)
    for trace, whole in zip(verdict.traces, plain, strict=True):
        assert trace.tokens <= len(whole.token_ids)
        assert trace.fate == "finished" or trace.tokens % 12 == 0
        assert trace.text.startswith(tokenizer.decode(whole.token_ids[: trace.tokens - 1]))
    assert verdict.tokens.judged == engine.stats.side_tokens > 0
    assert engine.stats.prompt_tokens == len(plain[0].prompt_ids), "one prefill, and nobody was rebuilt"
    assert all(extract(t.text, thinking=True, ended=True) == t.answer for t in verdict.traces if t.weight)
    # A recording and its model say the same, for as many tokens.
    played = ReplayEngine(records(plain), max_batch=N, model_engine=HFEngine(model, tokenizer, max_batch=N))
    replay = checked(strategy.solve(played, QUESTION, SAMPLING), complete=True, probed=True)
    assert replay.tokens == verdict.tokens
    assert replay.votes == verdict.votes
    assert [(t.fate, t.tokens, t.answer) for t in replay.traces] == [
        (t.fate, t.tokens, t.answer) for t in verdict.traces
    ]
    # Fewer rows than traces: the same outcome.
    narrow = strategy.solve(HFEngine(model, tokenizer, max_batch=3), QUESTION, SAMPLING)
    if isinstance(strategy, ParallelProbe) or not strategy.early_end:
        assert [(t.fate, t.tokens, t.answer) for t in narrow.traces] == [
            (t.fate, t.tokens, t.answer) for t in verdict.traces
        ]
    assert narrow.answer == verdict.answer


def test_a_replay_without_a_model_can_not_be_probed(plain):
    with pytest.raises(
        LaconicError, match="probe needs the model that wrote the traces: make the replay with model_engine"
    ):
        DynasorCoT(N).solve(ReplayEngine(records(plain)), QUESTION, SAMPLING)


@pytest.mark.parametrize("spec", ["cons", "deepprune", "judged-vote", "deepconf"])
def test_a_replay_is_the_live_run(reasoner, plain, spec):
    model, tokenizer = reasoner
    strategy = {
        "cons": SelfConsistency(N),
        "deepprune": DeepPrune(N, Words(), excerpt=f"tokens:{K}", K2=3),
        "judged-vote": JudgedVote(N, Words(), price=0.001, excerpt=f"tokens:{K}", tpr=0.9, fpr=0.1, ties="index"),
        "deepconf": DeepConf(N, "low", warmup=3, window=8),
    }[spec]
    live = strategy.solve(HFEngine(model, tokenizer, max_batch=N), QUESTION, SAMPLING)
    replay = strategy.solve(ReplayEngine(records(plain), max_batch=N, tokenizer=tokenizer), QUESTION, SAMPLING)
    assert (replay.answer, replay.clusters) == (live.answer, live.clusters)
    for played, lived in zip(replay.votes, live.votes, strict=True):  # confidences are floating point
        assert (played.answer, played.traces) == (lived.answer, lived.traces)
        assert played.weight == pytest.approx(lived.weight, rel=1e-5)
    assert replay.tokens == live.tokens
    assert replay.kv["token_steps"] == live.kv["token_steps"]
    assert replay.kv["steps"] == live.kv["steps"]
    assert [(t.fate, t.tokens, t.reason) for t in replay.traces] == [(t.fate, t.tokens, t.reason) for t in live.traces]
    if strategy.acts_at() is not None:
        leaping = ReplayEngine(records(plain), max_batch=N, tokenizer=tokenizer, acts_at=strategy.acts_at())
        leapt = strategy.solve(leaping, QUESTION, SAMPLING)
        assert (leapt.votes, leapt.traces, leapt.tokens, leapt.kv) == (
            replay.votes,
            replay.traces,
            replay.tokens,
            replay.kv,
        )


def test_engines_decode(reasoner, plain):
    model, tokenizer = reasoner
    tokens = plain[0].token_ids
    assert HFEngine(model, tokenizer).decode(tokens[:K]) == tokenizer.decode(tokens[:K])
    assert ReplayEngine(records(plain), tokenizer=tokenizer).decode(tokens[:K]) == tokenizer.decode(tokens[:K])
    for name, engine in (("hf", HFEngine(model, None)), ("replay", ReplayEngine(records(plain)))):
        with pytest.raises(LaconicError, match=f"the {name} engine has no tokenizer: make it with one"):
            engine.decode(tokens)
