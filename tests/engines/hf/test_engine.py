"""HFEngine: the conformance tests, and what is its own: rows at different points of their compression in one batch."""

from __future__ import annotations

import random
from contextlib import contextmanager

import pytest
import torch

from laconic.compress import (
    H2O,
    RKV,
    RPC,
    TOVA,
    Custom,
    FullKV,
    KNorm,
    Oracle,
    Proportional,
    Random,
    RandomAttention,
    StreamingLLM,
    VaSE,
)
from laconic.compress.scorers import WindowAttention
from laconic.engines.base import Chunk, Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.hf.buffers import KVBuffers
from laconic.errors import LaconicError
from tests.engines.conformance import GREEDY, Conformance
from tests.engines.hf.families import VOCAB, family, prompts
from tests.engines.hf.tokens import tokenizer

POLICIES = [
    RPC(interval=16, ratio=4, window=8),
    RPC(interval=16, ratio=4, window=8, aggregation="group"),
    H2O(budget=24),
    H2O(budget=24, buffer=8),
    TOVA(budget=24),
    StreamingLLM(budget=24),
    StreamingLLM(budget=24, buffer=4),
    RKV(budget=24, buffer=16, window=8),
    Random(interval=16, ratio=4, window=8),
    RandomAttention(interval=16, ratio=4, window=8),
    KNorm(budget=24, buffer=16),
]
# What scores equal tokens alike in the first layer has to say by itself which of them stay, not leave it to rounding.
TIED = [
    KNorm(budget=16, buffer=16),
    KNorm(budget=24, buffer=1, aggregation="layer"),
    VaSE(interval=16, ratio=2, window=4, protected=1.0),
    VaSE(interval=16, ratio=4, window=4),
]


def plain(name, prompt, steps):
    ids = torch.tensor([prompt])
    return family(name).generate(ids, max_new_tokens=steps, do_sample=False)[0, len(prompt) :].tolist()


class HFConformance(Conformance):
    prompts = prompts([12, 3, 9, 17])
    family: str

    def make(self, **settings):
        return HFEngine(family(self.family), tokenizer(), **settings)

    def plain(self, prompt, steps):
        return plain(self.family, prompt, steps)


class TestLlama(HFConformance):
    family = "llama"


class TestGemma3(HFConformance):
    family = "gemma3"


class TestGptOss(HFConformance):
    family = "gpt-oss"


class TestGemma4(HFConformance):  # layers that read another's keys and values
    family = "gemma4"


class TestDeepseekV3(HFConformance):  # latent attention
    family = "deepseek-v3"


class TestQwen3Next(HFConformance):  # linear layers, whose states come and go with the rows
    family = "qwen3-next"


class TestFalconH1(HFConformance):  # attention and a linear state in one layer
    family = "falcon-h1"


def alone(name, policy, prompt, sampling):
    """The trace as a batch of its own."""
    engine = HFEngine(family(name), None, policy)
    (trace,) = engine.generate([prompt], sampling)[0]
    return trace.token_ids


@pytest.mark.parametrize("name", ["llama", "gpt-oss", "deepseek-v3", "falcon-h1"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.spec())
def test_rows_at_different_points_of_compression_share_a_batch(name, policy):
    """Rows of other lengths come and go, so that each is due at another step: every trace must be what it is alone."""
    rows = prompts([12, 3, 9, 17, 30, 5, 8], seed=5)
    lengths = [70, 41, 90, 25, 66, 83, 57]
    engine = HFEngine(family(name), None, policy, max_batch=3)
    ids = [
        engine.submit(row, Sampling(max_new_tokens=n, temperature=0))[0] for row, n in zip(rows, lengths, strict=True)
    ]
    for _ in engine.stream():
        pass
    for i, row, n in zip(ids, rows, lengths, strict=True):
        assert engine.trace(i).token_ids == alone(name, policy, row, Sampling(max_new_tokens=n, temperature=0))
    schedule = policy.schedule
    assert engine.stats.evicted == sum(schedule.evicted(n - 1) for n in lengths) > 0


@pytest.mark.parametrize("name", ["llama", "deepseek-v3"])
@pytest.mark.parametrize(
    "make",
    [lambda: H2O(24), lambda: TOVA(24), lambda: StreamingLLM(24), lambda: KNorm(24, buffer=1)],
    ids=["h2o", "tova", "streaming", "knorm"],
)
@pytest.mark.parametrize("waiting", [True, False])
def test_a_newest_token_in_the_slot_of_one_that_goes_changes_no_trace(name, make, waiting, monkeypatch):
    """Where every row gives up one token at each step, nothing else moves: as if all that stays had closed up.

    When the longest row leaves, another joins that is not yet due; or none, and what stays closes up.
    """
    put: list[object] = []
    ordered: list[object] = []

    def spy(calls, method):
        whole = getattr(KVBuffers, method)

        def seen(self, *args):
            found = whole(self, *args)
            calls.append(found)
            return found

        monkeypatch.setattr(KVBuffers, method, seen)

    spy(put, "replace")
    spy(ordered, "put_in_order")
    found = []
    for pointwise in (True, False):
        policy = make()
        object.__setattr__(policy.scorer, "pointwise", pointwise)
        engine = HFEngine(family(name), None, policy, max_batch=3, record_held=True)
        ids = [
            engine.submit(row, Sampling(max_new_tokens=n, temperature=0))[0]
            for row, n in zip(
                prompts([9, 20, 12, 7][: 3 + waiting], seed=5), [80, 45, 70, 60][: 3 + waiting], strict=True
            )
        ]
        for _ in engine.stream():
            pass
        found.append([(engine.trace(i).token_ids, engine.held(i).tolist()) for i in ids])
        assert bool(put) == pointwise
        assert any(order is not None for order in ordered) == pointwise
        put.clear()
        ordered.clear()
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "qwen3-next"])
@pytest.mark.parametrize("policy", [POLICIES[0], POLICIES[1], POLICIES[7]], ids=lambda p: p.spec())
@pytest.mark.parametrize("seed", range(3))
def test_stopping_and_resuming_at_random_changes_nothing_under_eviction(name, policy, seed):
    rows, sampling = prompts([12, 3, 17], seed=seed), Sampling(max_new_tokens=100, temperature=0)
    engine = HFEngine(family(name), None, policy, max_batch=4)
    ids = [engine.submit(row, sampling)[0] for row in rows]
    rng, stopped = random.Random(seed), 0
    while any(engine.trace(i).state != "finished" for i in ids):
        for i in ids:
            if engine.trace(i).state == "stopped":
                engine.resume(i)
        for _ in engine.stream():
            if rng.random() < 0.03:
                engine.stop(rng.choice(ids))
                stopped += 1
    assert stopped > 2
    for i, row in zip(ids, rows, strict=True):
        assert engine.trace(i).token_ids == alone(name, policy, row, sampling)


@pytest.mark.parametrize("policy", TIED, ids=lambda p: p.spec())
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_rounding_says_nothing_of_equal_tokens(name, policy):
    """Whatever else runs, and however often a trace is computed again in other pieces."""
    rows, sampling = prompts([50, 7, 20, 33], seed=2), Sampling(max_new_tokens=150, temperature=1.0, seed=4)
    apart = HFEngine(family(name), None, policy, max_batch=1)
    want = [apart.trace(apart.submit(row, sampling)[0]) for row in rows]
    for _ in apart.stream():
        pass
    for seed in (None, 0, 1):
        engine, rng = HFEngine(family(name), None, policy, max_batch=4), random.Random(seed)
        ids = [engine.submit(row, sampling)[0] for row in rows]
        while any(engine.trace(i).state != "finished" for i in ids):
            for i in ids:
                if engine.trace(i).state == "stopped":
                    engine.resume(i)
            for _ in engine.stream():
                if seed is not None and rng.random() < 0.03:
                    engine.stop(rng.choice(ids))
        assert [engine.trace(i).token_ids for i in ids] == [trace.token_ids for trace in want]


def test_what_a_trace_holds_is_not_told_from_before_an_interruption(monkeypatch):
    engine = HFEngine(family("llama"), None, RPC(16, 4, 4), record_held=True)
    (name,) = engine.submit(prompts([9])[0], Sampling(max_new_tokens=120, temperature=0))
    for _ in engine.stream():
        if len(engine.trace(name).token_ids) == 30:
            engine.stop(name)
    assert engine.held(name).shape[-1] == 30
    engine.resume(name)
    step = engine._batch.step

    def broken():
        if len(engine.trace(name).token_ids) == 90:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine._batch, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        list(engine.stream())
    for ask in (engine.held, engine.kept):
        with pytest.raises(LaconicError, match="waits to be computed again"):
            ask(name)
    monkeypatch.undo()
    list(engine.stream())
    assert engine.held(name).shape[-1] == 120


def test_what_a_trace_holds_is_what_the_schedule_says_at_every_step():
    policy = RPC(interval=16, ratio=4, window=8)
    engine = HFEngine(family("llama"), None, policy)
    rows = prompts([12, 3, 9])
    ids = [engine.submit(row, Sampling(max_new_tokens=80, temperature=0))[0] for row in rows]
    most = dict.fromkeys(ids, 0)
    for _ in engine.stream():
        traces = [engine.trace(i) for i in ids]
        if any(t.state != "running" or t.kv_tokens == 0 for t in traces) or len({len(t.token_ids) for t in traces}) > 1:
            continue
        for i, trace in zip(ids, traces, strict=True):
            assert engine._batch.cache is not None
            row = engine._batch.cache.ledger.rows[engine._batch.entries.index(engine._scheduler.entry(i))]
            assert (
                row.tokens
                == trace.kv_tokens
                == policy.schedule.physical(len(trace.token_ids) - 1, len(trace.prompt_ids))
            )
            most[i] = max(most[i], row.tokens)
        assert engine._batch.cache is not None
        per_token = engine._batch.cache.bytes_per_token
        assert engine.stats.live_kv_bytes == sum(t.kv_tokens for t in traces) * per_token
    for i in ids:
        assert engine.trace(i).peak_kv_tokens >= most[i] > 0
        assert engine.trace(i).mean_kv_tokens == pytest.approx(
            policy.schedule.mean(79, len(engine.trace(i).prompt_ids))
        )


def test_a_peak_counts_what_was_held_beside_a_cache_that_is_rebuilt():
    """A trace that resumes is fed again piece by piece, and holds most just before its last compression."""
    policy = RPC(interval=16, ratio=4, window=4)
    engine = HFEngine(family("llama"), None, policy, max_batch=2)
    long, other = (engine.submit(row, Sampling(max_new_tokens=300, temperature=0))[0] for row in prompts([80, 9]))
    stream, stopped = engine.stream(), False
    for _ in stream:
        if not stopped and len(engine.trace(other).token_ids) == 60:
            engine.stop(other)
            stopped = True
        if stopped and engine.trace(other).state == "stopped" and len(engine.trace(long).token_ids) == 150:
            break
    held = engine.trace(long).kv_tokens
    engine.resume(other)
    before = engine.stats.peak_kv_tokens
    while engine.trace(other).state != "running":
        next(stream)
    rebuilt = policy.schedule.peak(59, 9)
    assert engine.stats.peak_kv_tokens >= held + rebuilt > before


def test_a_peak_counts_the_copies_of_a_prompt_that_traces_share():
    """They are made beside the passes that tokens go through, and traces of one token make no other."""
    engine = HFEngine(family("llama"), None, FullKV(), max_batch=4)
    engine.generate(prompts([30]), Sampling(max_new_tokens=1, temperature=1.0), n=4)
    assert engine.stats.peak_kv_tokens == 4 * 30


def test_memory_shrinks_when_rows_leave():
    engine = HFEngine(family("llama"), None, FullKV())
    short, long = Sampling(max_new_tokens=10, temperature=0), Sampling(max_new_tokens=60, temperature=0)
    engine.submit(prompts([300])[0], short, n=6)
    last = engine.submit(prompts([8])[0], long)[0]
    sizes = {}
    for _ in engine.stream():
        cache = engine._batch.cache
        if cache is not None:
            sizes[len(engine.trace(last).token_ids)] = (engine.stats.reserved_kv_bytes, cache.ledger.length)
    assert sizes[12][0] < sizes[5][0] / 3, "buffers of rows that left must go"
    assert sizes[12][1] < 40, "the frame must shrink to the rows that are left"
    assert engine.trace(last).token_ids == plain("llama", prompts([8])[0], 60)


def test_n_traces_share_one_prefill():
    engine = HFEngine(family("llama"), None)
    engine.submit(prompts([40])[0], GREEDY, n=8)
    for _ in engine.stream():
        pass
    assert engine.stats.prompt_tokens == 40
    assert engine.stats.generated_tokens == 8 * 60


def test_held_says_which_tokens_each_layer_still_holds():
    policy = RPC(interval=16, ratio=4, window=8, aggregation="group")
    engine = HFEngine(family("llama"), None, policy, record_held=True)
    (trace,) = engine.generate([prompts([12])[0]], Sampling(max_new_tokens=80, temperature=0))[0]
    held = engine.held(trace.id)
    assert held.shape == (2, 2, 80)
    assert (held.sum(-1) == policy.schedule.physical(79) + 1).all()
    assert held[:, :, -8:].all(), "the window is always held"
    assert engine.compression_points(trace.id) == [24, 40, 56, 72]
    assert not torch.equal(held[0], held[1]), "layers choose for themselves"
    forgetful = HFEngine(family("llama"), None, policy)
    (trace,) = forgetful.generate([prompts([12])[0]], GREEDY)[0]
    with pytest.raises(LaconicError, match="record_held"):
        forgetful.held(trace.id)


def test_oracle_sees_token_ids_and_keeps_what_it_is_told():
    wanted = set(range(1, VOCAB, 9))
    table = torch.tensor([1.0 if i in wanted else 0.0 for i in range(VOCAB)])
    policy = Oracle(keep=lambda ids: table[ids], interval=16, ratio=2, window=4)
    engine = HFEngine(family("llama"), None, policy, record_held=True, max_batch=2)
    rows = prompts([12, 5, 7])
    for (trace,) in engine.generate(rows, Sampling(max_new_tokens=70, temperature=1.0, top_p=1.0)):
        held = engine.held(trace.id)[0, 0]
        last = engine.compression_points(trace.id)[-1]
        lost = [t for t, stays in zip(trace.token_ids[: last - 4], held[: last - 4].tolist(), strict=True) if not stays]
        kept = [t for t, stays in zip(trace.token_ids[: last - 4], held[: last - 4].tolist(), strict=True) if stays]
        assert sum(t in wanted for t in kept) >= 5
        assert not any(t in wanted for t in lost), "there was room for all that the oracle wanted"


def test_oracle_rows_of_different_ages_share_a_batch():
    """Rows at their first and at later compressions, due together: the younger ones have fewer candidates."""
    table = torch.tensor([float(i % 9 == 1) for i in range(VOCAB)])
    policy = Oracle(keep=lambda ids: table[ids], interval=16, ratio=2, window=4)
    engine = HFEngine(family("llama"), None, policy, max_batch=2)
    rows, lengths = prompts([12, 5, 7, 9]), [36, 68, 90, 70]
    ids = [engine.submit(r, Sampling(max_new_tokens=n, temperature=0))[0] for r, n in zip(rows, lengths, strict=True)]
    for _ in engine.stream():
        pass
    for i, row, n in zip(ids, rows, lengths, strict=True):
        assert engine.trace(i).token_ids == alone("llama", policy, row, Sampling(max_new_tokens=n, temperature=0))


def test_any_schedule_with_any_scorer():
    policy = Custom(Proportional(interval=16, ratio=2, window=4), WindowAttention(queries=4))
    same = RPC(interval=16, ratio=2, window=4)
    row = prompts([12])[0]
    assert alone("llama", policy, row, GREEDY) == alone("llama", same, row, GREEDY)


def test_the_context_bounds_a_trace():
    engine = HFEngine(family("llama"), None)
    (trace,) = engine.generate([prompts([1000])[0]], Sampling(max_new_tokens=500, temperature=0))[0]
    assert len(trace.token_ids) == 24
    assert trace.finish_reason == "length"


def test_text_needs_a_tokenizer():
    with pytest.raises(LaconicError, match="no tokenizer"):
        HFEngine(family("llama"), None).submit("hello", GREEDY)
    engine = HFEngine(family("llama"), tokenizer())
    with pytest.raises(LaconicError, match="problem is empty"):
        engine.render("  ")
    (trace,) = engine.generate(["w5 w6 w7"], GREEDY)[0]
    assert trace.prompt_ids == (5, 6, 7)
    assert trace.text.split() == [f"w{t}" if t else "<pad>" for t in trace.token_ids]


@pytest.mark.parametrize(
    ("settings", "says"), [({"max_batch": 0}, "max_batch is 0"), ({"chunk_tokens": 0}, "chunk_tokens")]
)
def test_bad_settings(settings, says):
    with pytest.raises(LaconicError, match=says):
        HFEngine(family("llama"), None, **settings)


def test_one_stream_at_a_time():
    engine = HFEngine(family("llama"), None)
    engine.submit(prompts([4])[0], GREEDY)
    stream = engine.stream()
    next(stream)
    with pytest.raises(LaconicError, match="streaming already"):
        next(engine.stream())
    stream.close()
    assert family("llama").config._attn_implementation == "sdpa"


@contextmanager
def poisoned(name, value, at):
    """Logits of rows whose newest token is at position `at` are `value` throughout."""

    def poison(module, args, kwargs, out):
        positions = kwargs.get("position_ids")
        last = out.logits.new_full((len(out.logits),), kwargs["input_ids"].shape[1] - 1)
        if positions is not None:
            last = positions[:, -1]
        out.logits = out.logits.masked_fill((last == at)[:, None, None], value)
        return out

    handle = family(name).register_forward_hook(poison, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("record_held", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_trace_without_probabilities_is_named_and_the_others_run_on(value, temperature, record_held):
    short, long = prompts([12, 40])
    sampling = Sampling(max_new_tokens=30, temperature=temperature, seed=3, confidence_top_k=4)
    policy = RPC(interval=8, ratio=4, window=4)
    healthy = HFEngine(family("llama"), tokenizer(), policy=policy)
    wanted = [trace.token_ids for (trace,) in healthy.generate([short, long], sampling)]
    engine = HFEngine(family("llama"), tokenizer(), policy=policy, record_held=record_held, chunk_tokens=4)
    ids = [*engine.submit(short, sampling, ids=["bad"]), *engine.submit(long, sampling, ids=["good"])]
    chunks: list[Chunk] = []
    with (
        poisoned("llama", value, at=21),
        pytest.raises(LaconicError, match="token 10 of trace 'bad': its logits are NaN"),
    ):
        chunks += engine.stream()
    bad, good = map(engine.trace, ids)
    # Positions 12 to 21 hold ten tokens, and the eleventh can't be drawn.
    assert (bad.state, bad.finish_reason, bad.token_ids) == ("stopped", "stopped", wanted[0][:10])
    assert len(bad.confidences) == 10
    assert (good.state, good.finish_reason, good.token_ids) == ("finished", "length", wanted[1])
    assert [t for c in chunks if c.trace_id == "bad" for t in c.token_ids] == wanted[0][:10]
    assert engine.stats.generated_tokens == 40
    # Mended, it goes on as if nothing had been.
    engine.resume("bad")
    assert [t for chunk in engine.stream() for t in chunk.token_ids] == wanted[0][10:]


def test_a_prompt_without_probabilities_stops_its_traces():
    engine = HFEngine(family("llama"), tokenizer(), record_held=True)
    short, long = prompts([12, 40])
    bad = engine.submit(short, Sampling(max_new_tokens=5), n=3)
    (good,) = engine.submit(long, Sampling(max_new_tokens=5, temperature=0))
    with (
        poisoned("llama", float("nan"), at=11),
        pytest.raises(LaconicError, match=r"token 0 of .* .and 2 more of its stream"),
    ):
        list(engine.stream())
    assert [engine.trace(name).state for name in bad] == ["stopped"] * 3
    assert engine.trace(good).finish_reason == "length"
    for name in bad:
        engine.resume(name)
    list(engine.stream())
    assert [len(engine.trace(name).token_ids) for name in bad] == [5] * 3


def test_a_stream_that_was_closed_leaves_no_error_behind():
    engine = HFEngine(family("llama"), tokenizer(), chunk_tokens=1)
    short, long = prompts([12, 40])
    (bad,) = engine.submit(short, Sampling(max_new_tokens=30, temperature=0))
    engine.submit(long, Sampling(max_new_tokens=30, temperature=0))
    with poisoned("llama", float("nan"), at=14):
        stream = engine.stream()
        while engine.trace(bad).state != "stopped":
            next(stream)
        stream.close()
    assert any(chunk.finish_reason == "length" for chunk in engine.stream())
