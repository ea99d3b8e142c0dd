"""Hidden states, probes and what compression kept, against passes of the plain model over the same tokens."""

from __future__ import annotations

import pytest
import torch

from laconic.compress import RPC, FullKV, Random, RandomAttention, VaSE
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine
from laconic.engines.sampling import trace_key
from laconic.errors import LaconicError
from laconic.prune import Needs
from tests.engines.hf.families import family, prompts
from tests.engines.hf.tokens import tokenizer

FAMILIES = ["llama", "gemma3", "gpt-oss"]
WARM = Sampling(max_new_tokens=40, temperature=1.0, top_p=0.95, seed=3)
LEAN = RPC(interval=8, ratio=4, window=4)
PROMPTS = prompts([7, 12])


def running(name, policy=None, upto=20, n=3, **settings):
    """An engine whose traces have come to `upto` tokens and still run, and their ids."""
    engine = HFEngine(family(name), tokenizer(), policy, **settings)
    ids = [i for prompt in PROMPTS for i in engine.submit(prompt, WARM, n=n)]
    stream = engine.stream()
    while len(engine.trace(ids[-1]).token_ids) < upto:
        next(stream)
    return engine, ids, stream


def stop(engine, trace_id, stream):
    engine.stop(trace_id)
    while engine.trace(trace_id).state != "stopped":
        next(stream)


@torch.no_grad()
def reread(name, prompt, tokens, layers):
    """The plain model's hidden states at the generated tokens [K, D]."""
    hidden = family(name)(torch.tensor([[*prompt, *tokens]]), output_hidden_states=True).hidden_states
    return torch.cat([hidden[layer][0, len(prompt) :] for layer in layers], dim=-1)


@torch.no_grad()
def peek(name, prompt, tokens, suffix, steps):
    """The plain model's distributions over the next tokens, taken greedily [steps, V]."""
    ids, found = [*prompt, *tokens, *suffix], []
    for _ in range(steps):
        found.append(family(name)(torch.tensor([ids])).logits[0, -1].softmax(-1))
        ids.append(int(found[-1].argmax()))
    return torch.stack(found)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("recorded", [12, 5, 0])
def test_states_are_those_of_a_plain_pass(name, recorded):
    engine, ids, _ = running(name, record_states=recorded, state_layers=(1, -1))
    states = engine.states(ids, 12)
    for row, trace in zip(states, map(engine.trace, ids), strict=True):
        torch.testing.assert_close(row, reread(name, trace.prompt_ids, trace.token_ids[:12], (1, -1)))
    # Tokens are run again only where nothing was recorded; each prompt once.
    assert engine.stats.side_tokens == (0 if recorded == 12 else sum(map(len, PROMPTS)) + 12 * len(ids))


def test_recorded_states_under_compression_are_those_read_again():
    engine, ids, _ = running("llama", LEAN, upto=30, record_states=25)
    again, its, _ = running("llama", LEAN, upto=30)
    states = engine.states(ids, 25)
    assert engine.stats.side_tokens == 0
    torch.testing.assert_close(states, again.states(its, 25))
    full = torch.stack([reread("llama", t.prompt_ids, t.token_ids[:25], (-1,)) for t in map(engine.trace, ids)])
    torch.testing.assert_close(states[:, :11], full[:, :11])
    assert not torch.allclose(states[:, 12:], full[:, 12:], atol=1e-3), "later tokens no longer see what was evicted"


def test_what_was_noted_of_other_layers_is_read_again():
    """An engine whose layers nobody has fixed notes those that are asked for last; of its older traces, too, it tells those."""
    engine, ids, stream = running("llama", upto=15, record_states=12)
    stop(engine, ids[0], stream)
    engine.prepare(Needs(state_tokens=12, state_layers=(1, -1)))
    states = engine.states(ids, 12)
    for row, trace in zip(states, map(engine.trace, ids), strict=True):
        torch.testing.assert_close(row, reread("llama", trace.prompt_ids, trace.token_ids[:12], (1, -1)))
    before = engine.stats.side_tokens
    assert before > 0
    its = engine.submit(PROMPTS[0], WARM)
    for _ in stream:
        pass
    want = reread("llama", PROMPTS[0], engine.trace(its[0]).token_ids[:12], (1, -1))
    torch.testing.assert_close(engine.states(its, 12)[0], want)
    assert engine.stats.side_tokens == before


def test_what_compression_kept_is_recorded_once_it_is_asked_for():
    engine = HFEngine(family("llama"), tokenizer(), LEAN)
    for ready in (False, True):
        (trace_id,) = engine.submit(PROMPTS[0], WARM)
        for _ in engine.stream():
            pass
        if ready:
            assert 0 < len(engine.kept(trace_id)) < 40
        else:
            with pytest.raises(LaconicError, match="was not recorded"):
                engine.kept(trace_id)
        engine.prepare(Needs(kept=True))


def test_states_end_where_a_trace_ends():
    engine = HFEngine(family("llama"), tokenizer(), record_states=50)
    short, long = (engine.submit(PROMPTS[0], Sampling(max_new_tokens=m, temperature=0)) for m in (6, 30))
    assert engine.states(short, 4).eq(0).all(), "nothing has run yet"
    for _ in engine.stream():
        pass
    states = engine.states([*short, *long], 20)
    tokens = engine.trace(long[0]).token_ids
    want = reread("llama", PROMPTS[0], tokens[:20], (-1,))
    torch.testing.assert_close(states[1], want)
    torch.testing.assert_close(states[0, :5], want[:5])
    assert states[0, 5:].eq(0).all(), "the last token was never fed"
    torch.testing.assert_close(engine.states_of(PROMPTS[0], [tokens[:5], tokens], 20), states)


def test_a_trace_that_was_stopped_and_resumed_has_the_same_states():
    engine, ids, stream = running("llama", LEAN, upto=6, record_states=20)
    stop(engine, ids[0], stream)
    engine.resume(ids[0])
    for _ in stream:
        pass
    whole = HFEngine(family("llama"), tokenizer(), LEAN, record_states=20)
    its = [i for prompt in PROMPTS for i in whole.submit(prompt, WARM, n=3)]
    for _ in whole.stream():
        pass
    torch.testing.assert_close(engine.states(ids, 20), whole.states(its, 20))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_probe_is_the_plain_models_answer_and_leaves_no_mark(name):
    undisturbed = HFEngine(family(name), tokenizer())
    want = [t.token_ids for row in undisturbed.generate(PROMPTS, WARM, n=3) for t in row]
    engine, ids, stream = running(name)
    stop(engine, ids[0], stream)
    tail = tokenizer()("w5 w9", add_special_tokens=False)["input_ids"]
    before = engine.stats
    answers = engine.probe(ids, "w5 w9", 2)
    for answer, trace in zip(answers, map(engine.trace, ids), strict=True):
        torch.testing.assert_close(answer, peek(name, trace.prompt_ids, trace.token_ids, tail, 2))
    stopped = engine.trace(ids[0])
    rebuilt = len(stopped.prompt_ids) + len(stopped.token_ids) - 1
    # On the bill: each newest token, the suffix and one token less than asked for; the stopped trace had to be rebuilt.
    assert engine.stats.side_tokens == len(ids) * (1 + len(tail) + 1) + rebuilt
    for field in ("steps", "kv_token_steps", "live_kv_tokens", "generated_tokens", "compressions"):
        assert getattr(engine.stats, field) == getattr(before, field), field
    assert engine.stats.peak_kv_tokens > before.peak_kv_tokens, "the copies were held too"
    engine.resume(ids[0])
    for _ in stream:
        pass
    assert [engine.trace(i).token_ids for i in ids] == want


def write(name, prompt, tokens, suffix, most, ends):
    """The plain model's greedy tokens after the suffix, up to the one that ends them."""
    ids = [*prompt, *tokens, *suffix]
    found: list[int] = []
    while len(found) < most and (not found or found[-1] not in ends):
        with torch.no_grad():
            found.append(int(family(name)(torch.tensor([ids])).logits[0, -1].argmax()))
        ids.append(found[-1])
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_probes_texts_are_the_plain_models_and_rows_leave_when_theirs_are_over(name):
    engine, ids, stream = running(name)
    stop(engine, ids[1], stream)
    tail = tokenizer()("w5 w9", add_special_tokens=False)["input_ids"]
    traces = [engine.trace(i) for i in ids]
    # End tokens that some of the texts have, each at another place.
    whole = [write(name, t.prompt_ids, t.token_ids, tail, 9, ()) for t in traces]
    ends = {whole[0][1], whole[3][4]}
    want = [write(name, t.prompt_ids, t.token_ids, tail, 9, ends) for t in traces]
    assert len({len(w) for w in want}) > 1
    engine.model_reader.end_ids = frozenset(ends)
    before = engine.stats
    texts = engine.probe_texts(ids, "w5 w9", 9)
    assert texts == [tokenizer().decode([t for t in w if t not in ends]) for w in want]
    stopped = engine.trace(ids[1])
    rebuilt = len(stopped.prompt_ids) + len(stopped.token_ids) - 1
    # On the bill: each newest token, the suffix, and the text but for its last token.
    assert engine.stats.side_tokens == before.side_tokens + rebuilt + sum(len(tail) + len(w) for w in want)
    for field in ("steps", "kv_token_steps", "live_kv_tokens", "generated_tokens", "compressions"):
        assert getattr(engine.stats, field) == getattr(before, field), field
    for _ in stream:
        pass
    undisturbed = HFEngine(family(name), tokenizer())
    plain = [t.token_ids for row in undisturbed.generate(PROMPTS, WARM, n=3) for t in row]
    assert [engine.trace(i).token_ids for i in ids if i != ids[1]] == [*plain[:1], *plain[2:]]


def test_a_probe_of_rows_of_several_lengths_sees_no_padding_in_a_sliding_window():
    """Lengths that all lie within the window, so that a shorter row's junk is in it."""
    engine = HFEngine(family("gemma3"), tokenizer())
    ids = [i for prompt in prompts([3, 9]) for i in engine.submit(prompt, WARM)]
    stream = engine.stream()
    while len(engine.trace(ids[-1]).token_ids) < 3:
        next(stream)
    tail = tokenizer()("w5", add_special_tokens=False)["input_ids"]
    for answer, trace in zip(engine.probe(ids, "w5", 2), map(engine.trace, ids), strict=True):
        torch.testing.assert_close(
            answer, peek("gemma3", trace.prompt_ids, trace.token_ids, tail, 2), atol=1e-7, rtol=1e-5
        )


def test_a_text_ends_with_the_brace_that_closes_the_box(monkeypatch):
    engine, ids, _ = running("llama")
    words = {0: "5", 1: "{1}", 2: "}", 3: "so"}
    monkeypatch.setattr(
        "laconic.engines.hf.model_reader.decode", lambda _, tokens: " ".join(words[t % 4] for t in tokens)
    )
    found = engine.probe_texts(ids, "w5", 12)
    before = engine.stats.side_tokens
    closed = engine.probe_texts(ids, "w5", 12, until_closed=True)
    assert any("}" in text.replace("{1}", "") for text in found), "or there is nothing to see here"
    for whole, text in zip(found, closed, strict=True):
        assert whole.startswith(text)
        assert text == whole or text.endswith("}")
        assert text.count("}") == text.count("{") + (text != whole)
    # The suffix of one word and the texts' words: nothing was run behind a brace.
    assert engine.stats.side_tokens - before == len(ids) + sum(len(text.split()) for text in closed)


@pytest.mark.parametrize("policy", [Random(8, 4, 4), RandomAttention(8, 4, 4), VaSE(8, 4, 4)], ids=lambda p: p.name)
def test_recorded_traces_are_read_as_they_stood_by_their_keys(policy):
    engine, ids, _ = running("llama", policy, upto=27)
    traces = [engine.trace(i) for i in ids[:3]]
    keys = [trace_key(WARM.seed, trace.index) & 0xFFFFFFFF for trace in traces]
    tokens = [list(trace.token_ids) for trace in traces]
    order = [2, 0, 1]
    told = engine.probe_of(PROMPTS[0], [tokens[i] for i in order], "w5", 2, [keys[i] for i in order])
    torch.testing.assert_close(told, engine.probe(ids[:3], "w5", 2)[order])
    states = engine.states_of(PROMPTS[0], [tokens[i] for i in order], 26, [keys[i] for i in order])
    torch.testing.assert_close(states, engine.states(ids[:3], 26)[order])


def test_nothing_appended_needs_no_tokenizer():
    engine = HFEngine(family("llama"), None)
    assert engine.probe_of([5, 6, 7], [[8, 9]], "", 1).shape[:2] == (1, 1)


def test_a_probe_before_any_token_of_a_prompt_of_one_is_refused():
    engine = HFEngine(family("llama"), tokenizer())
    ids = [*engine.submit([7], WARM), *engine.submit([7, 8], WARM)]
    with pytest.raises(LaconicError, match="the prompt has one token; probe it once it has begun"):
        engine.probe(ids[:1], "w5", 2)
    assert engine.probe(ids[1:], "w5", 2).shape[:2] == (1, 2)


@pytest.mark.parametrize("policy", [FullKV(), LEAN], ids=["full", "rpc"])
def test_a_probe_of_recorded_tokens_is_the_live_one(policy):
    engine, ids, _ = running("llama", policy, upto=27)
    live = engine.probe(ids[:3], "w5", 3)
    tokens = [list(engine.trace(i).token_ids) for i in ids[:3]]
    torch.testing.assert_close(engine.probe_of(PROMPTS[0], tokens, "w5", 3), live)
    ragged = [tokens[0][:20], tokens[1], []]
    mixed = engine.probe_of(PROMPTS[0], ragged, "w5", 3)
    torch.testing.assert_close(mixed[1], live[1])
    if policy == FullKV():
        tail = tokenizer()("w5", add_special_tokens=False)["input_ids"]
        for row, t in zip(mixed, ragged, strict=True):
            torch.testing.assert_close(row, peek("llama", PROMPTS[0], t, tail, 3))


@pytest.mark.parametrize("policy", [Random(8, 4, 4), RandomAttention(8, 4, 4), VaSE(8, 4, 4)], ids=lambda p: p.name)
def test_a_stopped_trace_is_read_as_it_stood_where_the_policy_draws(policy):
    """What is kept goes by the trace: not by what the engine ran before it, nor by its row in a cache that is rebuilt."""
    first, ids, _ = running("llama", policy, upto=27)
    want = first.probe(ids, "w5", 2), [first.held(i) for i in ids]
    engine = HFEngine(family("llama"), tokenizer(), policy, record_held=True)
    engine.generate(prompts([9, 5]), WARM)
    ids = [i for prompt in PROMPTS for i in engine.submit(prompt, WARM, n=3)]
    stream = engine.stream()
    while len(engine.trace(ids[-1]).token_ids) < 27:
        next(stream)
    for trace_id in ids:
        engine.stop(trace_id)
    for _ in stream:
        pass
    torch.testing.assert_close(engine.probe(ids, "w5", 2), want[0])
    for trace_id, held in zip(ids, want[1], strict=True):
        assert torch.equal(engine.held(trace_id), held)


def test_a_probe_across_a_compression_point_does_not_compress():
    engine, ids, stream = running("llama", LEAN, upto=11)
    engine.probe(ids, "w1 w2 w3 w4 w5 w6 w7 w8", 4)
    for _ in stream:
        pass
    want = HFEngine(family("llama"), tokenizer(), LEAN).generate(PROMPTS, WARM, n=3)
    assert [engine.trace(i).token_ids for i in ids] == [t.token_ids for row in want for t in row]


def test_kept_is_what_the_latest_compression_left():
    engine, ids, _ = running("llama", LEAN, upto=11)
    assert engine.kept(ids[0]) == list(range(11)), "no compression yet"
    engine, ids, _ = running("llama", LEAN, upto=26)
    points = engine.compression_points(ids[0])
    kept = engine.kept(ids[0])
    held = engine.held(ids[0])[..., : points[-1]].float().mean(dim=(0, 1))
    assert kept == [i for i, share in enumerate(held.tolist()) if share >= 0.5]
    assert set(range(points[-1] - 4, points[-1])) <= set(kept), "the window stays in every layer"
    assert max(kept) < points[-1]


def test_bad_requests_are_refused():
    with pytest.raises(LaconicError, match=r"state_layers is \(9,\); expected indices from -3 to 2"):
        HFEngine(family("llama"), tokenizer(), state_layers=(9,))
    with pytest.raises(LaconicError, match="record_states is -1"):
        HFEngine(family("llama"), tokenizer(), record_states=-1)
    engine, ids, _ = running("llama")
    with pytest.raises(LaconicError, match="tokens is 0"):
        engine.states(ids, 0)
    with pytest.raises(LaconicError, match="steps is 0"):
        engine.probe(ids, "w1", 0)
    with pytest.raises(LaconicError, match="max_tokens is 0"):
        engine.probe_texts(ids, "w1", 0)
    with pytest.raises(LaconicError, match="until_closed is 1"):
        engine.probe_texts(ids, "w1", 1, until_closed=1)
    with pytest.raises(KeyError, match="no trace 'x'"):
        engine.probe(["x"], "w1", 1)
    silent = HFEngine(family("llama"), None)
    silent.submit(PROMPTS[0], WARM, ids=["a"])
    with pytest.raises(LaconicError, match="no tokenizer"):
        silent.probe(["a"], "w1", 1)
    with pytest.raises(LaconicError, match="no tokenizer"):
        silent.probe_texts(["a"], "w1", 1)
