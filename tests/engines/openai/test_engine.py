"""OpenAIEngine: the conformance tests over laconic's own server, and strategies over it as over the engine itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from laconic.assets import reasoner_path
from laconic.engines.base import Engine, Sampling
from laconic.engines.hf import HFEngine, load
from laconic.engines.openai import OpenAIEngine
from laconic.errors import EngineError, InputError
from laconic.judges.registry import open_judge
from laconic.problems import generate
from laconic.prune import DeepPrune, Needs
from laconic.prune.strategies.registry import parse
from tests.engines.conformance import GREEDY, WARM, Conformance
from tests.server.conftest import Running, serving


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving(most=64, batch=64) as running:
        yield running


@cache
def loaded() -> tuple[Any, Any]:
    return load(reasoner_path())


def prompt_ids(question: str) -> list[int]:
    model, tokenizer = loaded()
    engine = HFEngine(model, tokenizer)
    return [int(i) for i in tokenizer(engine.render(question), add_special_tokens=False)["input_ids"]]


def begun(question: str) -> list[int]:
    """A prompt whose draft is written already: what follows is told in other words each time."""
    prompt = prompt_ids(question)
    return prompt + greedy(tuple(prompt), 70)


@cache
def greedy(prompt: tuple[int, ...], steps: int) -> list[int]:
    model, _ = loaded()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False)
    return [int(token) for token in out[0, len(prompt) :]]


PROMPTS = [begun(problem.question) for problem in generate(4, seed=5)]


class TestConformance(Conformance):
    """Of prompts of token ids, which go to /v1/completions."""

    prompts = PROMPTS

    @pytest.fixture(autouse=True)
    def _url(self, upstream: Running) -> Iterator[None]:
        self.url = upstream.url
        self.made: list[OpenAIEngine] = []
        yield
        for engine in self.made:
            engine.close()
        upstream.wait_idle()

    def make(self, **settings: Any) -> Engine:
        self.made.append(OpenAIEngine(self.url, **settings))
        return self.made[-1]

    def plain(self, prompt: list[int], steps: int) -> list[int]:
        return greedy(tuple(prompt), steps)

    def test_stopped_traces_leave_and_the_others_do_not_notice(self) -> None:
        """Traces come as the server sends them, not step by step: only the one that was looked at is stopped at a length."""
        want = self.texts(self.make(), WARM, n=4)[0]
        engine = self.make()
        ids = engine.submit(self.prompts[0], WARM, n=4)
        reasons, live = {}, []
        for chunk in engine.stream():
            live.append(engine.stats.live_kv_tokens)
            if chunk.trace_id == ids[1] and len(engine.trace(ids[1]).token_ids) == 20:
                engine.stop(ids[1])
                engine.stop(ids[3])
            if chunk.finish_reason:
                reasons[chunk.trace_id] = chunk.finish_reason
        assert reasons == {ids[0]: "length", ids[1]: "stopped", ids[2]: "length", ids[3]: "stopped"}
        got = [engine.trace(i).token_ids for i in ids]
        assert (got[0], got[2]) == (want[0], want[2])
        for place in (1, 3):
            assert got[place] == want[place][: len(got[place])]
        assert len(got[1]) == 20
        assert max(live) > 0
        assert engine.stats.live_kv_tokens == 0

    def test_a_resumed_trace_goes_on_as_if_it_had_not_been_stopped(self) -> None:
        """Greedily; a server draws the rest of a sampled trace from the beginning of the seed's stream."""
        engine = self.make()
        ids = engine.submit(self.prompts[0], GREEDY, n=2)
        for _ in engine.stream():
            if len(engine.trace(ids[0]).token_ids) == 31:
                engine.stop(ids[0])
                engine.stop(ids[1])
        assert engine.trace(ids[0]).state == "stopped"
        engine.resume(ids[0])
        engine.resume(ids[1])
        for _ in engine.stream():
            pass
        assert [engine.trace(i).token_ids for i in ids] == [self.plain(self.prompts[0], 60)] * 2
        text = HFEngine(*loaded()).decode(engine.trace(ids[0]).token_ids)
        assert engine.trace(ids[0]).text.replace(" ", "") == text.replace(" ", "")

    def test_token_ids_out_of_the_vocabulary_are_refused(self) -> None:
        """By the server, when it is asked; the others come to their ends."""
        engine = self.make()
        good = engine.submit(self.prompts[0], GREEDY)[0]
        bad = engine.submit([1, 10**7], GREEDY)[0]
        with pytest.raises(EngineError, match="outside the model's vocabulary"):
            list(engine.stream())
        assert engine.trace(good).token_ids == self.plain(self.prompts[0], 60)
        assert engine.trace(bad).state == "stopped"
        with pytest.raises(ValueError, match="token id"):
            engine.submit([1, -1], GREEDY)


# ---- chats -----------------------------------------------------------------------------------------------------------

SAMPLING = Sampling(max_new_tokens=400, temperature=1.0, top_p=0.95, seed=3)
QUESTION = generate(1, seed=5, level=3)[0].question


def test_a_chats_thinking_is_put_back_between_its_marks(upstream: Running) -> None:
    with OpenAIEngine(upstream.url) as engine:
        assert engine.render(QUESTION) == QUESTION
        (trace,) = engine.generate([QUESTION], SAMPLING)[0]
    own = HFEngine(*loaded())
    (want,) = own.generate([own.render(QUESTION)], SAMPLING)[0]
    assert trace.token_ids == want.token_ids
    assert trace.text.replace("<think>", "").split() == want.text.split()
    assert trace.text.startswith("<think>")
    assert trace.finish_reason == want.finish_reason == "stop"


@pytest.mark.parametrize("at", [40, 90])
def test_a_chat_goes_on_from_its_text(upstream: Running, at: int) -> None:
    cold = Sampling(max_new_tokens=300, temperature=0)
    with OpenAIEngine(upstream.url) as engine:
        name = engine.submit(engine.render(QUESTION), cold)[0]
        for _ in engine.stream():
            if len(engine.trace(name).token_ids) == at:
                engine.stop(name)
        assert engine.trace(name).state == "stopped"
        engine.resume(name)
        for _ in engine.stream():
            pass
        trace = engine.trace(name)
    own = HFEngine(*loaded())
    (want,) = own.generate([own.render(QUESTION)], cold)[0]
    assert trace.token_ids == want.token_ids
    # This tokenizer's words have their spaces from their neighbours, and the server writes the rest without what came before.
    assert "".join(trace.text.replace("<think>", "").split()) == "".join(want.text.split())


def test_a_probe_is_the_engines_own(upstream: Running) -> None:
    """As far as a server tells: of the likeliest tokens; what it leaves out is nobody's."""
    suffix, steps, cut = " </think> \\boxed{", 2, replace(SAMPLING, max_new_tokens=60)
    own = HFEngine(*loaded())
    with OpenAIEngine(upstream.url) as engine:
        ids = engine.submit(engine.render(QUESTION), cut, 3)
        list(engine.stream())
        before = [engine.trace(name).text for name in ids]
        found = engine.probe(ids, suffix, steps)
        assert engine.stats.side_tokens > 0
        assert [engine.trace(name).text for name in ids] == before
        columns = engine._pieces.texts
        tokens = [engine.trace(name).token_ids for name in ids]
    prompt = own.submit(own.render(QUESTION), cut)[0]
    want = own.probe_of(own.trace(prompt).prompt_ids, tokens, suffix, steps)
    assert found.shape[:2] == (3, steps)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, steps))
    for row, whole in zip(found.flatten(0, 1), want.flatten(0, 1), strict=True):
        token = int(whole.argmax())
        column = int(row.argmax())
        assert columns[column].strip() == own.decode([token]).strip()
        # Texts are read anew by the server, whose words here take their spaces from their neighbours: near, not equal.
        assert float(row[column]) == pytest.approx(float(whole[token]), abs=0.02)
        assert int((row > 0).sum()) <= 21


def test_a_probes_texts_are_the_engines_own(upstream: Running) -> None:
    suffix, cut = " </think> \\boxed{", replace(SAMPLING, max_new_tokens=60)
    own = HFEngine(*loaded())
    with OpenAIEngine(upstream.url) as engine:
        ids = engine.submit(engine.render(QUESTION), cut, 3)
        list(engine.stream())
        before = [engine.trace(name).text for name in ids]
        found = engine.probe_texts(ids, suffix, 6)
        short = engine.probe_texts(ids, suffix, 6, until_closed=True)
        assert engine.stats.side_tokens > 0
        assert [engine.trace(name).text for name in ids] == before
        tokens = [engine.trace(name).token_ids for name in ids]
        with pytest.raises(InputError, match="max_tokens is 0"):
            engine.probe_texts(ids, suffix, 0)
    prompt = own.trace(own.submit(own.render(QUESTION), cut)[0]).prompt_ids
    greedy = own.probe_of(prompt, tokens, suffix, 6).argmax(-1).tolist()
    for text, row, box in zip(found, greedy, short, strict=True):
        # Without blanks: words here have theirs from their neighbours. The engine's own go on after the end token.
        assert own.decode(row).replace(" ", "").startswith(text.replace(" ", ""))
        assert text.startswith(box)
        assert "}" not in box[:-1]


@pytest.mark.parametrize("spec", ["dynasor:m=1,k=32", "parallel-probe:short"])
def test_strategies_that_probe_run_over_a_server(upstream: Running, spec: str) -> None:
    with OpenAIEngine(upstream.url, max_batch=6) as engine:
        verdict = parse(spec, 4, suffix="</think> \\boxed{").solve(engine, QUESTION, SAMPLING)
    assert verdict.complete
    assert verdict.answer is not None
    assert verdict.tokens.judged > 0
    upstream.wait_idle()


def test_a_vote_by_probes_over_a_server(upstream: Running) -> None:
    judge = open_judge("probe:suffix=</think> \\boxed{")
    with OpenAIEngine(upstream.url, max_batch=6) as engine:
        verdict = DeepPrune(6, judge).solve(engine, QUESTION, SAMPLING)
    assert verdict.answer is not None
    assert verdict.tokens.judged > 0


@pytest.mark.parametrize("spec", ["priced-vote:price=0.012,first=4,parallel=4", "self-consistency", "deepconf:low"])
def test_strategies_run_over_it(upstream: Running, spec: str) -> None:
    warmup: dict[str, Any] = {"warmup": 3, "window": 32} if spec.startswith("deepconf") else {}
    strategy = parse(spec, 6, **warmup)
    with OpenAIEngine(upstream.url, max_batch=6) as engine:
        verdict = strategy.solve(engine, QUESTION, SAMPLING)
        again = strategy.solve(engine, QUESTION, SAMPLING)
    assert verdict.answer is not None
    assert verdict.tokens.generated > 100
    assert verdict.votes == again.votes or spec.startswith("deepconf")
    upstream.wait_idle()


def test_what_it_cannot_do(upstream: Running) -> None:
    with OpenAIEngine(upstream.url) as engine:
        name = engine.submit([5, 6], Sampling(max_new_tokens=2, temperature=0))[0]
        list(engine.stream())
        for call in (lambda: engine.states([name], 2), lambda: engine.kept(name)):
            with pytest.raises(InputError, match="the openai engine"):
                call()
        with pytest.raises(InputError, match="can't probe traces of prompts of token ids"):
            engine.probe([name], "x", 1)
        with pytest.raises(InputError, match="has no tokenizer"):
            engine.decode([10**6])
        with pytest.raises(
            InputError, match="neither the model's own token ids nor the prompt's: use a judge that reads text"
        ):
            engine.prepare(Needs(token_ids=True))  # an encoder would read a numbering of ours as its vocabulary
        engine.prepare(Needs())
        with pytest.raises(InputError, match="at most 20"):
            engine.submit("a", Sampling(confidence_top_k=21))
        with pytest.raises(InputError, match="is empty"):
            engine.submit("  ", SAMPLING)
        with pytest.raises(InputError, match="is empty"):
            engine.render(" ")
