"""Many requests on one engine: each answer is that of an engine of its own, in order, and a stop text ends a trace for good."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.prune.scripted import Script, ScriptedEngine

from laconic.assets import reasoner_path
from laconic.cli.common import one_thread
from laconic.compress import RPC
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.errors import EngineError, InputError
from laconic.lab.harness.run import (
    HarnessAnswer,
    HarnessRequest,
    HarnessTotals,
    answer_requests,
    request_seeds,
)
from laconic.lab.harness.texts import answer_text
from laconic.problems import generate
from laconic.prune.strategies.registry import parse

POLICY = RPC(interval=48, ratio=4, window=16)
QUESTIONS = [problem.question for problem in generate(5, seed=1, level=1)]
VOTE = "priced-vote:price=0.012,first=4,parallel=4"


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any]:
    one_thread()
    torch.manual_seed(0)
    return load(reasoner_path())


def make(model: tuple[Any, Any], rows: int = 64) -> HFEngine:
    return HFEngine(model[0], model[1], POLICY, max_batch=rows)


def requests_of(engine: HFEngine, until: tuple[str, ...] = (), tokens: int = 300) -> list[HarnessRequest]:
    prompts = [engine.render(question) for question in QUESTIONS]
    return [
        HarnessRequest(prompt, prompt, Sampling(max_new_tokens=tokens, temperature=1.0, seed=seed), until)
        for prompt, seed in zip(prompts, request_seeds(0, prompts), strict=True)
    ]


@pytest.mark.parametrize("rows", [64, 2])
def test_one_trace_each_is_what_the_engine_generates_by_itself(model: tuple[Any, Any], rows: int) -> None:
    engine = make(model, rows)
    requests = requests_of(engine)
    done: dict[int, HarnessAnswer] = {}
    answers = answer_requests(engine, requests, batch=rows, on_done=done.__setitem__)
    alone = make(model)
    for answer, request in zip(answers, requests, strict=True):
        [[trace]] = alone.generate([request.prompt], request.sampling)
        assert answer.token_ids == tuple(trace.token_ids)
        assert (answer.text, answer.closed) == answer_text(trace.text, trace.thinking, (), "empty")
        assert (answer.traces, answer.generated, answer.judged) == (1, len(trace.token_ids), 0)
        assert answer.mean_kv_tokens == trace.mean_kv_tokens
        assert answer.cut_off == (trace.finish_reason == "length")
    assert [done[place] for place in range(len(requests))] == answers
    assert any("boxed" in answer.text for answer in answers)
    assert list(engine._scheduler.entries) == []


@pytest.mark.parametrize("rows", [64, 3])
def test_a_votes_answer_is_its_winners_text(model: tuple[Any, Any], rows: int) -> None:
    engine = make(model, rows)
    requests = requests_of(engine)
    answers = answer_requests(engine, requests, parse(VOTE, 6), batch=rows)
    for answer, request, question in zip(answers, requests, QUESTIONS, strict=True):
        verdict = parse(VOTE, 6).solve(make(model), question, request.sampling)
        assert verdict.winner is not None
        winner = verdict.traces[verdict.winner]
        assert answer.text == answer_text(winner.text, True, (), "empty")[0]
        assert answer.generated == verdict.tokens.generated
        assert answer.traces == sum(fate.tokens > 0 for fate in verdict.traces)
    assert list(engine._scheduler.entries) == []


def test_stop_texts_end_the_answer_and_not_the_thoughts(model: tuple[Any, Any]) -> None:
    engine = make(model)
    whole = answer_requests(engine, requests_of(engine))
    stopped = answer_requests(engine, requests_of(engine, until=(" }", "=")))
    assert all("=" in answer.thoughts for answer in whole)
    for answer, before in zip(stopped, whole, strict=True):
        assert answer.thoughts == before.thoughts
        assert answer.text == before.text.partition(" }")[0]
        assert not answer.cut_off or before.cut_off
    assert sum(answer.generated for answer in stopped) < sum(answer.generated for answer in whole)


def test_a_limit_within_the_thinking_leaves_an_empty_answer_or_all_of_it(model: tuple[Any, Any]) -> None:
    engine = make(model)
    empty = answer_requests(engine, requests_of(engine, tokens=8))
    whole = answer_requests(engine, requests_of(engine, tokens=8), unclosed="whole")
    assert [(a.text, a.closed, a.cut_off) for a in empty] == [("", False, True)] * len(QUESTIONS)
    assert [a.text for a in whole] == [a.thoughts for a in empty]
    assert all(a.text and not a.closed for a in whole)


# ---- traces that go on to the next question ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rambling(Script):
    """Answers, and then asks and answers another question, as a base model does after few-shot examples."""

    told: str = ""
    other: str = "9"

    def piece(self, at: int) -> str:
        after = [
            "so ",
            f"the answer is {self.told}",
            ".\n",
            "\nQues",
            "tion: what?",
            f" The answer is {self.other}.",
            " x",
        ]
        return after[at] if at < len(after) else " x"


class _Telling(ScriptedEngine):
    """With what a shared engine reads of one, and the texts of chunks."""

    def prepare(self, needs: Any) -> None:
        pass

    def _send(self, row: Any) -> None:
        ids = row.trace.token_ids
        text = self.decode(ids[len(ids) - row.pending :])
        super()._send(row)
        self._outbox[-1] = dataclasses.replace(self._outbox[-1], text=text)

    @property
    def stats(self) -> Any:
        return SimpleNamespace(**vars(super().stats), live_kv_tokens=0, side_tokens=0)


def rambling(votes: str, length: int = 60, batch: int = 4) -> Any:
    return _Telling([_Rambling(length, told=answer) for answer in votes], max_batch=batch)


def ask(until: tuple[str, ...], count: int = 1) -> list[HarnessRequest]:
    return [HarnessRequest(f"q{i}", f"q{i}", Sampling(max_new_tokens=1000), until) for i in range(count)]


@pytest.mark.parametrize("spec", ["self-consistency", "adaptive-consistency", VOTE])
def test_a_vote_reads_no_answer_behind_a_stop_text(spec: str) -> None:
    engine = rambling("44744444")
    [answer] = answer_requests(engine, ask(("\nQuestion:",)), parse(spec, 8), batch=4)
    assert answer.text == "so the answer is 4.\n"
    assert not answer.cut_off
    # Seven tokens a trace at most, of sixty.
    assert answer.generated <= 7 * answer.traces
    [other] = answer_requests(rambling("44744444"), ask(()), parse(spec, 8), batch=4)
    assert "The answer is 9" in other.text


def test_ended_traces_leave_the_batch_to_others() -> None:
    engine = rambling("4", batch=2)
    answers = answer_requests(engine, ask(("\nQuestion:",), count=9), batch=2)
    assert [answer.text for answer in answers] == ["so the answer is 4.\n"] * 9
    assert engine.steps < 9 * 8  # two at a time, of some six tokens each
    assert engine._rows == {}


def test_requests_begin_as_there_is_room() -> None:
    engine = rambling("44444444", length=7, batch=4)
    most = 0
    submit = engine.submit

    def watched(*given: Any) -> Any:
        nonlocal most
        names = submit(*given)
        most = max(most, sum(row.trace.state in ("waiting", "running") for row in engine._rows.values()))
        return names

    engine.submit = watched
    answer_requests(engine, ask((), count=12), parse("self-consistency", 8), batch=4)
    assert most <= 2 * 4 + 8  # two batches wait or run, and then one more vote of eight


# ---- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_request_that_the_engine_refuses_leaves_nothing_behind(model: tuple[Any, Any]) -> None:
    engine = make(model, rows=1)
    requests = requests_of(engine)
    long = HarnessRequest(engine.render(QUESTIONS[0]) * 400, "x", requests[0].sampling)
    with pytest.raises(InputError, match="the model's context is 4096"):
        answer_requests(engine, [*requests[:2], long], batch=1)
    assert list(engine._scheduler.entries) == []


def test_an_engine_that_breaks_is_not_taken_for_an_answer() -> None:
    engine = rambling("4")
    engine.fail_at, engine.error = 3, EngineError("the engine has died")
    done: list[int] = []
    with pytest.raises(EngineError, match="has died"):
        answer_requests(engine, ask(()), on_done=lambda place, answer: done.append(place))
    assert done == []


def test_a_trace_without_probabilities_is_no_answer(model: tuple[Any, Any]) -> None:
    engine = make(model)
    requests = requests_of(engine)[:1]
    broken, tokenizer = load(reasoner_path())
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(EngineError, match="gave no probabilities"):
        answer_requests(HFEngine(broken, tokenizer, POLICY), requests)


def test_no_requests_are_no_answers() -> None:
    assert answer_requests(rambling("4"), []) == []


# ---- seeds and totals -------------------------------------------------------------------------------------------------


def test_a_seed_depends_on_what_is_asked_and_how_often_not_on_its_place() -> None:
    prompts = ["a", "b", "a", "c", "a"]
    seeds = dict(zip([("a", 0), ("b", 0), ("a", 1), ("c", 0), ("a", 2)], request_seeds(5, prompts), strict=True))
    assert len(set(seeds.values())) == 5
    order = list(range(5))
    random.Random(1).shuffle(order)
    again = request_seeds(5, [prompts[i] for i in order])
    assert sorted(again) == sorted(seeds.values())
    assert request_seeds(5, ["c"]) == [seeds["c", 0]]
    assert request_seeds(6, ["c"]) != [seeds["c", 0]]
    assert all(0 <= seed < 1 << 31 for seed in seeds.values())


def test_totals_add_up_and_are_told() -> None:
    totals = HarnessTotals()
    totals.add(HarnessAnswer("4", "", True, False, (1,) * 100, 1, 100, 0, 50.0))
    totals.add(HarnessAnswer("", "x", False, True, (1,) * 300, 8, 2000, 70, 20.0))
    assert totals.to_json() == {
        "requests": 2,
        "traces": 9,
        "generated": 2100,
        "judged": 70,
        "unclosed": 1,
        "cut_off": 1,
        "mean_kv_tokens": round((100 * 50.0 + 2000 * 20.0) / 2100, 1),
    }
    assert totals.sentence() == (
        "2 answers of 9 traces, 2,100 tokens and 70 of the judge; 1 ran into the limit of tokens; in 1 the thinking never "
        "ended: a larger max_gen_toks may let it"
    )
