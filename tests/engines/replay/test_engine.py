"""ReplayEngine: the conformance tests on traces that HFEngine wrote, and every count as HFEngine reports it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any, cast

import pytest
import torch

from laconic.compress import RPC, FullKV, Policy, StreamingLLM
from laconic.engines.base import Engine, Sampling, Trace
from laconic.engines.hf import HFEngine
from laconic.engines.replay import ReplayEngine, recorded_sampling
from laconic.errors import LaconicError
from laconic.prune import Pool, PoolBudget
from laconic.traces import TraceRecord, tokenizer_fingerprint
from tests.engines.conformance import GREEDY, WARM, Conformance
from tests.engines.hf.families import family, prompts
from tests.engines.hf.tokens import tokenizer

PROMPTS = prompts([12, 3, 9, 17])
RATIO4 = RPC(interval=16, ratio=4, window=8)
LONG = Sampling(max_new_tokens=100, temperature=1.0, top_p=0.95, seed=2)
UNTIMED: dict[str, Any] = {"prefill_seconds": 0.0, "decode_seconds": 0.0, "reserved_kv_bytes": 0}


def written(trace: Trace, engine: HFEngine) -> TraceRecord:
    """A finished trace of an HFEngine as a record."""
    sampling = trace.sampling
    return TraceRecord(
        problem=f"p{len(trace.prompt_ids)}",
        question=f"w{len(trace.prompt_ids)} ?",
        gold="1",
        level=0,
        index=trace.index,
        seed=sampling.seed,
        settings={
            "policy": engine.policy.spec(),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_new_tokens": sampling.max_new_tokens,
            "logprobs": sampling.confidence_top_k,
            "tokenizer": tokenizer_fingerprint(tokenizer()),
        },
        prompt_ids=trace.prompt_ids,
        token_ids=tuple(trace.token_ids),
        text=trace.text,
        answer=None,
        correct=False,
        finish_reason=str(trace.finish_reason),
        confidences=tuple(trace.confidences) if sampling.confidence_top_k else None,
        kv={"bytes_per_token": engine.stats.peak_kv_bytes // engine.stats.peak_kv_tokens},
    )


def record(prompt: list[int], sampling: Sampling, n: int, policy: Policy) -> list[TraceRecord]:
    """n traces of a prompt."""
    engine = HFEngine(family("llama"), tokenizer(), policy, chunk_tokens=16)
    return [written(trace, engine) for trace in engine.generate([prompt], sampling, n)[0]]


@cache
def recorded(policy: Policy) -> tuple[TraceRecord, ...]:
    """Four traces of every prompt, up to 100 tokens; every second prompt's end early, each at a place of its own."""
    found = []
    for i, prompt in enumerate(PROMPTS):
        for trace in record(prompt, LONG, 6, policy):
            found.append(trace if i % 2 == 0 else cut(trace, 40 + 7 * trace.index))
    return tuple(found)


def cut(trace: TraceRecord, at: int) -> TraceRecord:
    """As if the model's context had ended it there."""
    ids = trace.token_ids[:at]
    return replace(trace, token_ids=ids, text=cast(str, tokenizer().decode(list(ids))), finish_reason="length")


class TestConformance(Conformance):
    prompts = PROMPTS

    def make(self, **settings):
        return ReplayEngine(conforming(), tokenizer=tokenizer(), **settings)

    def plain(self, prompt, steps):
        return (
            family("llama")
            .generate(torch.tensor([prompt]), max_new_tokens=steps, do_sample=False)[0, len(prompt) :]
            .tolist()
        )

    def test_bad_input_is_refused_in_a_sentence(self):
        engine = self.make()
        with pytest.raises(LaconicError, match="prompt is empty"):
            engine.submit([], GREEDY)
        with pytest.raises(LaconicError, match="n is 0"):
            engine.submit(self.prompts[0], GREEDY, n=0)
        engine.submit(self.prompts[0], GREEDY, ids=["mine"])
        with pytest.raises(LaconicError, match="'mine' is in use"):
            engine.submit(self.prompts[0], GREEDY, ids=["mine"])
        with pytest.raises(LaconicError, match="expected 2 different ones"):
            engine.submit(self.prompts[0], GREEDY, n=2, ids=["a", "a"])
        with pytest.raises(LaconicError, match="is waiting"):
            engine.resume("mine")
        with pytest.raises(LaconicError, match="is waiting"):
            engine.forget(["mine"])
        with pytest.raises(KeyError, match="no trace 'yours'"):
            engine.trace("yours")

    def test_logprobs_come_when_asked(self):
        with pytest.raises(LaconicError, match="logprobs is 2, but recorded traces hold none"):
            self.make().submit(self.prompts[0], replace(GREEDY, logprobs=2))

    def test_token_ids_out_of_the_vocabulary_are_refused(self):
        with pytest.raises(LaconicError, match="no traces of this prompt"):
            self.make().submit([1, 10**7], GREEDY)


@cache
def conforming() -> tuple[TraceRecord, ...]:
    """What the conformance tests ask for."""
    again = replace(WARM, seed=12)
    marked = Sampling(max_new_tokens=12, temperature=1.0, confidence_top_k=5)
    found = []
    for prompt in PROMPTS:
        for sampling in (GREEDY, WARM, again, marked):
            found += record(prompt, sampling, 4, FullKV())
    return tuple(found)


def drive(engine: HFEngine | ReplayEngine, seed: int) -> tuple[list, list[Trace]]:
    """What a strategy might do, the same for the same seed: submit some, stop and resume at random, read on the way."""
    rng = random.Random(seed)
    seen: list = []
    ids = engine.submit(PROMPTS[0], LONG, n=6)
    later, tokens = [1, 2, 3], engine.chunk_tokens
    while True:
        for chunk in engine.stream():
            seen.append((chunk, replace(engine.stats, **UNTIMED)))
            if later and rng.random() < 0.03 * tokens:
                ids += engine.submit(PROMPTS[later.pop()], replace(LONG, max_new_tokens=rng.choice([30, 100])), n=4)
            if rng.random() < 0.04 * tokens:
                engine.stop(rng.choice(ids))
            back = rng.choice(ids)
            if rng.random() < 0.02 * tokens and engine.trace(back).state == "stopped":
                engine.resume(back)
            if rng.random() < 0.01:
                break
        else:
            halted = [i for i in ids if engine.trace(i).state == "stopped"]
            if not halted and not later:
                return seen, [replace(engine.trace(i)) for i in ids]
            for i in halted:
                engine.resume(i)
            if later:
                ids += engine.submit(PROMPTS[later.pop()], LONG, n=2)


@pytest.mark.parametrize("policy", [FullKV(), RATIO4, StreamingLLM(budget=24, buffer=4)], ids=lambda p: p.name)
@pytest.mark.parametrize(("max_batch", "chunk_tokens", "seed"), [(64, 1, 0), (5, 1, 1), (3, 7, 2)])
def test_every_chunk_and_every_count_is_the_live_engines(
    policy: Policy, max_batch: int, chunk_tokens: int, seed: int
) -> None:
    """Same chunks in the same order, same statistics at every one of them, whatever is stopped and resumed.

    The records are the live run's own traces, so that not even another batch's floating point can tell the two apart.
    """
    live = HFEngine(family("llama"), tokenizer(), policy, max_batch=max_batch, chunk_tokens=chunk_tokens)
    want, traces = drive(live, seed)
    assert sum(chunk.finish_reason == "stopped" for chunk, _ in want) > 2
    records = [written(trace, live) for trace in traces]
    played = ReplayEngine(records, policy, max_batch, tokenizer=tokenizer(), chunk_tokens=chunk_tokens)
    got, again = drive(played, seed)
    assert next((pair for pair in zip(got, want, strict=False) if pair[0] != pair[1]), None) is None
    assert len(got) == len(want)
    assert again == traces
    assert asdict(played.stats) == asdict(live.stats) | UNTIMED
    assert live.stats.kv_token_steps > 0


def prune(engine: Engine, ids: list[str]) -> None:
    """All traces to 56 tokens, stopped there; then two of them to the end."""
    for _ in engine.stream():
        for i in ids:
            if engine.trace(i).state == "running" and len(engine.trace(i).token_ids) >= 56:
                engine.stop(i)
    for i in ids[1:3]:
        engine.resume(i)
    for _ in engine.stream():
        pass


@pytest.mark.parametrize("policy", [FullKV(), RATIO4], ids=lambda p: p.name)
def test_a_strategy_gets_the_same_texts_and_pays_the_same(policy: Policy) -> None:
    live = HFEngine(family("llama"), tokenizer(), policy, max_batch=4)
    played = ReplayEngine(record(PROMPTS[0], LONG, 6, policy), max_batch=4, tokenizer=tokenizer())
    assert played.policy == policy, "the recorded policy, where none is named"
    for engine in (live, played):
        prune(engine, engine.submit(PROMPTS[0], LONG, n=6))
    traces = [[asdict(e.trace(f"p0-{i}")) for i in range(6)] for e in (live, played)]
    assert traces[0] == traces[1]
    assert [len(t["token_ids"]) for t in traces[1]] == [56, 100, 100, 56, 56, 56]
    assert all(t["text"] for t in traces[1])
    assert asdict(played.stats) == asdict(live.stats) | UNTIMED
    assert played.stats.prompt_tokens == 12 * 4, "two prefills, as four rows fit; two resumed"


def ends(engine: Engine, seed: int) -> list[Any]:
    """Acts as a vote might when traces end, and then only: what it saw of the engine there."""
    rng = random.Random(seed)
    ids = (
        engine.submit(PROMPTS[0], LONG, n=6)
        + engine.submit(PROMPTS[1], LONG, n=6)
        + engine.submit(PROMPTS[3], LONG, n=6)
    )
    for i in ids[8:]:
        engine.stop(i)
    seen: list[Any] = []

    def resume_one() -> None:
        for i in (i for i in ids if engine.trace(i).state == "stopped"):
            engine.resume(i)
            return

    while any(engine.trace(i).state != "finished" for i in ids):
        resume_one()
        for chunk in engine.stream():
            if chunk.finish_reason in (None, "stopped"):
                continue
            lengths = [len(engine.trace(i).token_ids) for i in ids]
            seen.append((chunk.trace_id, chunk.finish_reason, asdict(engine.stats), lengths))
            running = [i for i in ids if engine.trace(i).state == "running"]
            if running and rng.random() < 0.5:
                engine.stop(rng.choice(running))
            if rng.random() < 0.7:
                resume_one()
    return [*seen, [asdict(engine.trace(i)) for i in ids], asdict(engine.stats)]


@pytest.mark.parametrize("policy", [FullKV(), RATIO4, StreamingLLM(budget=24, buffer=4)], ids=lambda p: p.name)
@pytest.mark.parametrize("max_batch", [64, 3, 1])
@pytest.mark.parametrize("text", [True, False])
def test_leaps_change_nothing_for_who_acts_when_traces_end(policy: Policy, max_batch: int, text: bool) -> None:
    """The same traces, texts and counts at every end, those that were stopped in the middle too."""
    of: dict[str, Any] = {"tokenizer": tokenizer() if text else None}
    for seed in range(3):
        want = ends(ReplayEngine(recorded(policy), policy, max_batch, **of), seed)
        got = ends(ReplayEngine(recorded(policy), policy, max_batch, acts_at=0, **of), seed)
        assert got == want
        assert len(want) > 10


@pytest.mark.parametrize("parallel", [2, 5, 64])
@pytest.mark.parametrize("budget", [PoolBudget(traces=2.5), PoolBudget(tokens=900), PoolBudget(tokens=1700)])
def test_a_pool_spends_alike_where_traces_leap(parallel: int, budget: PoolBudget) -> None:
    """A pool weighs what its running traces have taken so far whenever one ends."""
    records = [
        replace(r, text=f"\\boxed{{{r.index % (2 + r.level)}}}", level=len(r.prompt_ids) % 3)
        for r in recorded(FullKV())
    ]
    seen = []
    for acts_at in (None, 0):
        engine = ReplayEngine(records, max_batch=parallel, acts_at=acts_at)
        run = Pool(6, budget, parallel=parallel, ties="index").begin(
            engine, [f"w{len(prompt)} ?" for prompt in PROMPTS], [LONG] * len(PROMPTS)
        )
        ends = [(event.problem, event.trace.index, run.generated) for event in run if event.trace is not None]
        seen.append((ends, run.to_json(), asdict(engine.stats)))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) > 6


def test_who_acts_at_some_tokens_sees_a_trace_there() -> None:
    seen: list[list[tuple[str, int, str]]] = []
    for acts_at in (None, 5, 0):
        engine = ReplayEngine(conforming(), tokenizer=tokenizer(), acts_at=acts_at)
        ids = engine.submit(PROMPTS[0], Sampling(max_new_tokens=12, temperature=1.0, confidence_top_k=5), n=3)
        traces = {i: engine.trace(i) for i in ids}
        seen.append([(c.trace_id, len(traces[c.trace_id].token_ids), traces[c.trace_id].text) for c in engine.stream()])
    every, there, ends = seen
    at = [each for each in every if each[1] == 5]
    assert len(at) == 3
    assert set(at) <= set(there) <= set(every)
    assert not set(at) & set(ends)
    assert len(there) == 15  # the first token, all but the fifth, the fifth, all but the last, the last


def test_leaps_carry_confidences() -> None:
    marked = Sampling(max_new_tokens=12, temperature=1.0, confidence_top_k=5)
    traces = []
    for acts_at in (None, 0):
        engine = ReplayEngine(conforming(), tokenizer=tokenizer(), acts_at=acts_at)
        ids = engine.submit(PROMPTS[0], marked, n=3)
        chunks = list(engine.stream())
        traces.append([engine.trace(i) for i in ids])
        assert sum(len(chunk.confidences or ()) for chunk in chunks) == 36
    assert len(chunks) == 9  # the first token, all but the last, the last
    assert traces[0] == traces[1]


def test_records_are_found_by_their_question_too() -> None:
    engine = ReplayEngine(recorded(FullKV()), tokenizer=tokenizer())
    ids = engine.submit(engine.render("w12 ?"), LONG, n=2)
    ids += engine.submit(" ".join(f"w{t}" for t in PROMPTS[1]), LONG)
    for _ in engine.stream():
        pass
    assert [engine.trace(i).prompt_ids for i in ids] == [tuple(PROMPTS[0])] * 2 + [tuple(PROMPTS[1])]
    with pytest.raises(LaconicError, match="problem is empty"):
        engine.render(" ")


def test_text_without_a_tokenizer_comes_with_the_last_chunk() -> None:
    records = recorded(FullKV())
    engine = ReplayEngine(records)
    ids = engine.submit("w12 ?", LONG, n=2)
    texts = [chunk.text for chunk in engine.stream() if not chunk.finish_reason]
    assert set(texts) == {""}
    assert [engine.trace(i).text for i in ids] == [r.text for r in records[:2]]
    with pytest.raises(LaconicError, match="needs a tokenizer"):
        engine.submit("w12 ?", replace(LONG, max_new_tokens=50))
    with pytest.raises(LaconicError, match="no traces of this question"):
        engine.submit("w13 ?", LONG)


def test_a_text_ends_where_the_request_ends() -> None:
    engine = ReplayEngine(recorded(FullKV()), tokenizer=tokenizer())
    whole = recorded(FullKV())[0].token_ids
    end = whole[20]
    at = whole.index(end)
    for sampling, count, shown, reason in (
        (replace(LONG, max_new_tokens=15), 15, 15, "length"),
        (replace(LONG, stop_token_ids=(end,)), at + 1, at, "stop"),
        (replace(LONG, stop_token_ids=(end,), max_new_tokens=at), at, at, "length"),
        (replace(LONG, stop_token_ids=(whole[-1],), max_new_tokens=100), whole.index(whole[-1]) + 1, None, "stop"),
    ):
        live = HFEngine(family("llama"), tokenizer())
        traces = [e.generate([PROMPTS[0]], sampling)[0][0] for e in (live, engine)]
        assert traces[1].token_ids == traces[0].token_ids == list(whole[:count])
        assert traces[1].text == traces[0].text
        assert shown is None or len(traces[1].text.split()) == shown
        assert traces[1].finish_reason == traces[0].finish_reason == reason


def test_a_trace_that_ended_with_the_context_ends_there_again() -> None:
    short = recorded(FullKV())[6]
    assert len(short.token_ids) == 40 < LONG.max_new_tokens
    engine = ReplayEngine(recorded(FullKV()), tokenizer=tokenizer())
    (trace,) = engine.generate([PROMPTS[1]], replace(LONG, max_new_tokens=500))[0]
    assert trace.token_ids == list(short.token_ids)
    with pytest.raises(LaconicError, match=r"max_new_tokens is 500, but trace 0 of problem p12 was cut at 100"):
        engine.submit(PROMPTS[0], replace(LONG, max_new_tokens=500))


def test_confidences_are_those_recorded_or_refused() -> None:
    sampling = replace(LONG, max_new_tokens=20, confidence_top_k=5)
    records = record(PROMPTS[0], sampling, 2, FullKV())
    engine = ReplayEngine(records)
    chunks: dict[str, list[float]] = {}
    ids = engine.submit(PROMPTS[0], sampling, n=2)
    for chunk in engine.stream():
        assert chunk.confidences is not None
        assert len(chunk.confidences) == len(chunk.token_ids)
        chunks.setdefault(chunk.trace_id, []).extend(chunk.confidences)
    assert [tuple(chunks[i]) for i in ids] == [r.confidences for r in records]
    assert engine.trace(ids[0]).confidences == chunks[ids[0]]
    ids = engine.submit(PROMPTS[0], replace(sampling, confidence_top_k=0))
    assert {chunk.confidences for chunk in engine.stream()} == {None}
    with pytest.raises(LaconicError, match=r"confidence_top_k is 20, but trace 0 of problem p12 was recorded with 5"):
        engine.submit(PROMPTS[0], replace(sampling, confidence_top_k=20))
    with pytest.raises(LaconicError, match=r"was recorded with 0"):
        ReplayEngine(recorded(FullKV())).submit(PROMPTS[0], replace(LONG, confidence_top_k=5))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (lambda e: e.submit(PROMPTS[0], LONG, n=7), r"n is 7, but trace 6 of this prompt was not recorded \(6 were\)"),
        (lambda e: e.submit([1, 2], LONG), "no traces of this prompt"),
        (
            lambda e: e.submit(PROMPTS[0], replace(LONG, seed=3)),
            r"recorded with temperature 1, top_p 0.95, top_k 0, seed 2; asked for .*seed 3",
        ),
        (lambda e: e.submit(PROMPTS[0], GREEDY), "asked for temperature 0"),
        (lambda e: e.submit(PROMPTS[0], replace(LONG, top_k=5)), "top_k 5"),
    ],
)
def test_what_was_not_recorded_is_refused(request_: Callable[[Engine], object], says: str) -> None:
    engine = ReplayEngine(recorded(FullKV()))
    with pytest.raises(LaconicError, match=says):
        request_(engine)
    assert list(engine.stream()) == []


def test_records_that_do_not_belong_together_are_refused() -> None:
    full, rpc = recorded(FullKV()), recorded(RATIO4)
    with pytest.raises(LaconicError, match="two policies, full and rpc"):
        ReplayEngine([*full, *rpc])
    with pytest.raises(LaconicError, match=r"recorded under full, this replay has rpc"):
        ReplayEngine(full, policy=RATIO4)
    with pytest.raises(LaconicError, match=r"recorded under full, the model's engine has rpc"):
        ReplayEngine(full, model_engine=HFEngine(family("llama"), tokenizer(), RATIO4))
    with pytest.raises(LaconicError, match="no recorded traces"):
        ReplayEngine([])
    with pytest.raises(LaconicError, match="recorded twice"):
        ReplayEngine([*full, full[0]])
    with pytest.raises(LaconicError, match="without token ids"):
        ReplayEngine([replace(full[0], prompt_ids=())])
    with pytest.raises(LaconicError, match="lack temperature, top_p"):
        ReplayEngine([replace(full[0], settings={"policy": "full", "top_k": 0})])
    with pytest.raises(LaconicError, match="traces of one model"):
        ReplayEngine([full[0], replace(full[1], kv={"bytes_per_token": 1})])
    other = replace(full[0], settings={**full[0].settings, "tokenizer": "0" * 16})
    with pytest.raises(LaconicError, match="recorded with the tokenizer 0000000000000000, this one is"):
        ReplayEngine([other], tokenizer=tokenizer())


@pytest.mark.parametrize(
    ("settings", "says"), [({"max_batch": 0}, "max_batch is 0"), ({"chunk_tokens": 0}, "chunk_tokens is 0")]
)
def test_bad_settings(settings: dict, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        ReplayEngine(recorded(FullKV()), **settings)


def test_how_a_record_was_drawn() -> None:
    assert recorded_sampling(recorded(FullKV())[0]) == LONG


def test_what_needs_a_model_says_so() -> None:
    engine = ReplayEngine(recorded(RATIO4))
    ids = engine.submit(PROMPTS[0], LONG, n=2)
    for _ in engine.stream():
        pass
    for ask in (lambda: engine.states(ids, 8), lambda: engine.probe(ids, "w5", 2), lambda: engine.kept(ids[0])):
        with pytest.raises(LaconicError, match=r"needs the model .* model_engine"):
            ask()


@pytest.mark.parametrize("policy", [FullKV(), RATIO4, RPC(interval=16, ratio=4, window=8, aggregation="group")])
def test_what_needs_a_model_is_what_the_live_engine_says_and_costs(policy: Policy) -> None:
    """Asked in the middle of a run, of running and of stopped traces of two prompts."""
    live = HFEngine(family("llama"), tokenizer(), policy, record_states=30, record_held=True)
    model = HFEngine(family("llama"), tokenizer(), policy)
    records = [r for prompt in PROMPTS[:2] for r in record(prompt, LONG, 3, policy)]
    played = ReplayEngine(records, policy, model_engine=model)
    answers = []
    for engine in (live, played):
        ids = engine.submit(PROMPTS[0], LONG, n=3) + engine.submit(PROMPTS[1], LONG, n=3)
        found: list = []
        for chunk in engine.stream():
            tokens = len(engine.trace(ids[0]).token_ids)
            if chunk.trace_id != ids[-1]:
                continue
            if tokens == 20:
                found.append([engine.kept(i) for i in ids])
                engine.stop(ids[1])
            if tokens == 50:
                engine.stop(ids[4])
            if tokens == 60:
                found += [engine.states(ids[::-1], 30), engine.states(ids[:1], 7)]
                found += [engine.probe(ids, "w5 w6 w7", 3), engine.probe(ids[:1], "", 2)]
                found += [engine.probe_texts(ids, "w5 w6 w7", 6), engine.probe_texts(ids[:1], "", 2, until_closed=True)]
                found.append([engine.kept(i) for i in ids])
                found.append((engine.stats.side_tokens, engine.stats.peak_kv_tokens, engine.stats.peak_kv_bytes))
        answers.append(found)
    for ours, theirs in zip(answers[1], answers[0], strict=True):
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours, theirs)
        else:
            assert ours == theirs
    assert answers[1][0][0] == list(range(20))
    if policy.schedule.next_boundary(0) is not None:
        assert 0 < len(answers[1][-2][0]) < 40
    assert asdict(played.stats) == asdict(live.stats) | UNTIMED
