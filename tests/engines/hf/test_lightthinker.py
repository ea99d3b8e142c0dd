"""The policy `lightthinker` on transformers: the engine's own steps against one masked pass, and against rows of their own."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from typing import Any

import pytest
import torch

from laconic.compress import FullKV, LightThinker, ThoughtTokens
from laconic.compress.thoughts import FILE
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, compress
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.thought_tokens import read_thought_tokens
from laconic.errors import LaconicError
from tests.engines.conformance import WARM, Conformance
from tests.engines.hf.families import VOCAB, family, prompts
from tests.engines.hf.tokens import tokenizer
from tests.reference.lightthinker import blocks, masked_logprobs, may_see, reference_greedy

TOKENS = ThoughtTokens(5, (90, 91, 92), 93)
SAMPLING = Sampling(max_new_tokens=110, temperature=1.0, top_p=1.0, seed=2, logprobs=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuned")
    (place / FILE).write_text(json.dumps(TOKENS.to_json()))
    return place


@pytest.fixture(scope="module")
def model(folder):
    """A random model that often ends its thoughts, and knows where its tokens are written down."""
    made = copy.deepcopy(family("llama"))
    with torch.no_grad():
        made.get_output_embeddings().weight[TOKENS.splitter] *= 1.6
    made.config._name_or_path = str(folder)
    return made


@pytest.fixture(scope="class")
def as_attribute(request, model):
    request.cls.model = model


@pytest.mark.usefixtures("as_attribute")
class TestLightThinker(Conformance):
    model: Any
    prompts = prompts([12, 3, 9, 17])

    def make(self, **settings):
        return HFEngine(self.model, tokenizer(), LightThinker(), **settings)

    def plain(self, prompt, steps):
        return plain(self.model, tuple(prompt))[:steps]


@cache
def plain(model, prompt):
    return reference_greedy(model, list(prompt), TOKENS, 60)


def run(model, rows, sampling=SAMPLING, n=1, **settings):
    engine = HFEngine(model, tokenizer(), LightThinker(), **settings)
    return engine, [trace for row in engine.generate(rows, sampling, n) for trace in row]


def test_each_step_has_the_probabilities_of_one_masked_pass(model):
    engine, traces = run(model, prompts([12, 3, 17]), n=3)
    thoughts = 0
    for trace in traces:
        ids, prompt = [*trace.prompt_ids, *trace.token_ids], len(trace.prompt_ids)
        scores = masked_logprobs(model, ids, prompt, TOKENS)
        want = [scores[place - 1, ids[place]].item() for place in range(prompt, len(ids))]
        assert [one.logprob for one in trace.logprobs] == pytest.approx(want, abs=2e-4)
        thoughts += len(blocks(ids, prompt, TOKENS))
    assert thoughts > 9
    assert engine.stats.evicted > 0


def test_what_is_held_at_every_step_is_what_the_mask_lets_be_seen(model):
    engine = HFEngine(model, None, LightThinker())
    ids = [engine.submit(row, SAMPLING)[0] for row in prompts([12, 3, 9])]
    smaller = 0
    for chunk in engine.stream():
        trace = engine.trace(chunk.trace_id)
        if trace.state != "running" or len(trace.token_ids) < 2:
            continue
        whole, prompt = [*trace.prompt_ids, *trace.token_ids], len(trace.prompt_ids)
        seen = may_see(whole, prompt, TOKENS)[-1]
        assert engine.held(trace.id).tolist() == [[seen[prompt:]]] * 2
        assert trace.kv_tokens == sum(seen[:-1])  # the newest is yet to be computed
        smaller += sum(seen) < len(whole)
    assert smaller > 30
    assert {engine.trace(i).state for i in ids} == {"finished"}


def test_what_is_counted_of_a_trace_is_what_it_attended_to(model):
    engine, traces = run(model, prompts([12, 3, 9]), n=2)
    stats = engine.stats
    attended = most = rounds = 0
    for trace in traces:
        ids, prompt = [*trace.prompt_ids, *trace.token_ids], len(trace.prompt_ids)
        seen = [sum(row) for row in may_see(ids, prompt, TOKENS)][prompt:-1]  # the last token is never fed
        assert trace.mean_kv_tokens == pytest.approx(sum(seen) / len(seen))
        assert trace.peak_kv_tokens == max(seen)
        attended, most = attended + sum(seen), max(most, *seen)
        points = [last + 1 - prompt for _, _, last in blocks(ids, prompt, TOKENS)]
        points = [point for point in points if point < len(trace.token_ids)]
        assert engine.compression_points(trace.id) == points
        rounds += len(points)
        fed = sum(token in TOKENS.fed for token in trace.token_ids)
        assert trace.fed_tokens == fed > 0
    assert (stats.kv_token_steps, stats.compressions) == (attended, rounds)


def test_only_the_policy_puts_cache_and_continue_tokens_in(model):
    eager = copy.deepcopy(model)
    eager.config._name_or_path = model.config.name_or_path
    with torch.no_grad():  # a model that would draw nothing else
        eager.get_output_embeddings().weight[list(TOKENS.fed)] *= 30
    _, traces = run(eager, prompts([12, 3]), n=2)
    for trace in traces:
        waiting: list[int] = []
        for token in trace.token_ids:
            if waiting:
                assert token == waiting.pop(0)
            else:
                assert token not in TOKENS.fed
            if token == TOKENS.splitter:
                waiting = list(TOKENS.fed)


def test_two_splitters_in_a_row_are_a_thought_without_tokens(model):
    hasty = copy.deepcopy(model)
    hasty.config._name_or_path = model.config.name_or_path
    head = torch.nn.Linear(hasty.config.hidden_size, VOCAB)
    with torch.no_grad():
        head.weight.copy_(0.2 * hasty.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[TOKENS.splitter] = 4.0
    hasty.set_output_embeddings(head)
    sampling = Sampling(max_new_tokens=60, temperature=1.0, seed=1, logprobs=0)
    engine, traces = run(hasty, prompts([9, 4]), sampling, n=3)
    found = 0
    for trace in traces:
        ids, prompt = [*trace.prompt_ids, *trace.token_ids], len(trace.prompt_ids)
        found += sum(first == splitter for first, splitter, _ in blocks(ids, prompt, TOKENS))
        scores = masked_logprobs(hasty, ids, prompt, TOKENS)
        want = [scores[place - 1, ids[place]].item() for place in range(prompt, len(ids))]
        assert [one.logprob for one in trace.logprobs] == pytest.approx(want, abs=2e-4)
    assert found
    assert engine.stats.evicted


@pytest.mark.parametrize("seed", range(3))
def test_stopping_and_resuming_at_random_changes_nothing(model, seed):
    rows, sampling = (
        prompts([12, 3, 17], seed=seed),
        Sampling(max_new_tokens=100, temperature=1.0, top_p=1.0, seed=seed),
    )
    alone = [run(model, [row], sampling)[1][0].token_ids for row in rows]
    engine = HFEngine(model, tokenizer(), LightThinker(), max_batch=4)
    ids = [engine.submit(row, sampling)[0] for row in rows]
    rng, stopped = random.Random(seed), set()
    while any(engine.trace(i).state != "finished" for i in ids):
        for i in ids:
            if engine.trace(i).state == "stopped":
                engine.resume(i)
        for _ in engine.stream():
            if rng.random() < 0.25:
                name = rng.choice(ids)
                engine.stop(name)
                tail = engine.trace(name).token_ids[-4:]
                stopped.add(TOKENS.next_fed(tail) is not None)
    assert stopped == {False, True}, "some stops come in the middle of what is fed"
    assert [engine.trace(i).token_ids for i in ids] == alone


def test_rows_that_join_and_leave_at_other_counts_change_nothing(model):
    rows, lengths = prompts([12, 3, 9, 17, 30], seed=5), [70, 41, 90, 25, 66]
    samplings = [Sampling(max_new_tokens=n, temperature=1.0, seed=4) for n in lengths]
    engine = HFEngine(model, tokenizer(), LightThinker(), max_batch=3)
    ids = [engine.submit(row, sampling)[0] for row, sampling in zip(rows, samplings, strict=True)]
    for _ in engine.stream():
        pass
    for i, row, sampling in zip(ids, rows, samplings, strict=True):
        assert engine.trace(i).token_ids == run(model, [row], sampling)[1][0].token_ids


def test_a_probe_disturbs_nothing_and_stands_on_what_is_held(model):
    want = [trace.token_ids for trace in run(model, prompts([12, 3]), WARM)[1]]
    engine = HFEngine(model, tokenizer(), LightThinker())
    ids = [engine.submit(row, WARM)[0] for row in prompts([12, 3])]
    for _ in engine.stream():
        trace = engine.trace(ids[0])
        if trace.state == "running" and len(trace.token_ids) in (20, 45):
            found = engine.probe(ids, "w7", 1)
            for i, row in zip(ids, found, strict=True):
                trace = engine.trace(i)
                whole = [*trace.prompt_ids, *trace.token_ids, 7]
                scores = masked_logprobs(model, whole, len(trace.prompt_ids), TOKENS)[-1]
                torch.testing.assert_close(row[0], scores.exp(), atol=2e-4, rtol=0)
    assert [engine.trace(i).token_ids for i in ids] == want


def test_kept_goes_by_the_thoughts_of_the_trace(model):
    engine, traces = run(model, prompts([12]), n=2, record_held=True)
    for trace in traces:
        points, kept = engine.compression_points(trace.id), engine.kept(trace.id)
        assert points
        assert kept[-1] < points[-1]
        ids, prompt = [*trace.prompt_ids, *trace.token_ids[: points[-1]]], len(trace.prompt_ids)
        seen = may_see([*ids, trace.token_ids[points[-1]]], prompt, TOKENS)[-1][prompt:-1]
        assert kept == [i for i, there in enumerate(seen) if there]


def test_states_of_recorded_traces_of_different_thoughts(model):
    """Rows of one pass whose compressions come at different counts."""
    engine, traces = run(model, prompts([12]), n=4)
    got = engine.states_of(traces[0].prompt_ids, [trace.token_ids for trace in traces], 80)
    for trace, states in zip(traces, got, strict=True):
        ids, prompt = [*trace.prompt_ids, *trace.token_ids[:80]], len(trace.prompt_ids)
        mask = torch.tensor(may_see(ids, prompt, TOKENS))[None, None]
        with torch.no_grad():
            out = model(torch.tensor([ids]), attention_mask=mask, use_cache=False, output_hidden_states=True)
        torch.testing.assert_close(states, out.hidden_states[-1][0, prompt:], atol=2e-3, rtol=1e-3)


def test_a_model_that_was_not_fine_tuned_is_refused(tmp_path):
    plain_model = copy.deepcopy(family("llama"))
    with pytest.raises(
        LaconicError, match=r"loaded from nowhere, has no lightthinker.json: policy lightthinker runs on a"
    ):
        HFEngine(plain_model, None, LightThinker())
    plain_model.config._name_or_path = str(tmp_path)
    with pytest.raises(
        LaconicError, match=r"has no lightthinker.json: policy lightthinker runs on a model that was fine-tun"
    ):
        HFEngine(plain_model, None, LightThinker())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[1]", "expected splitter, cache and continue"),
        ('{"splitter": 1, "cache": [2, 2], "continue": 3}', "expected different ids"),
        ('{"splitter": 1, "cache": [], "continue": 3}', "one cache token at least"),
        ('{"splitter": 1, "cache": [2.5], "continue": 3}', "cache"),
        ('{"splitter": 1, "cache": [2], "continue": 96}', "names tokens up to 96, the model has 96"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text, says, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(LaconicError, match=says):
        read_thought_tokens(str(tmp_path), VOCAB)


def test_what_goes_by_counts_refuses_it(model):
    with pytest.raises(LaconicError, match=r"which model.generate can't: use the hf engine"):
        compress(model, LightThinker())
    with AttentionBinding(model):
        forced = ForcedTraces(model, prompts([5]), prompts([9]))
    with pytest.raises(LaconicError, match=r"which a recorded trace that is fed as it stands can't"):
        forced.under(LightThinker())
    assert forced.under(FullKV()).fed == 0
