"""The LLM judge behind servers: against the same model in this process, and what servers may answer."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from laconic.cli import build
from laconic.cli.common import choose_policy
from laconic.cli.engines import choose_engine
from laconic.cli.served_model import ServingModel
from laconic.errors import EngineError, InputError
from laconic.judges.llm import LLMJudge
from laconic.judges.prompts import LLMJudgeSettings
from laconic.judges.registry import open_judge, place_of
from laconic.judges.remote import RemoteLLMJudge, agreement
from laconic.problems import generate
from laconic.prune.judge import judge_pairs
from laconic.server.asks import Method
from tests.engines.openai.test_upstreams import Upstream, upstreams
from tests.judges.models import MARKS, TEMPLATE, excerpt, llama, random_excerpts, word_tokenizer
from tests.server.conftest import Running, serving

SETTINGS = LLMJudgeSettings(template=TEMPLATE)


def says(*top: tuple[str, float], **more: Any) -> dict[str, Any]:
    """A server's whole answer, whose first token has these probabilities."""
    told = [{"token": token, "logprob": math.log(p)} for token, p in top]
    first = {**told[0], "top_logprobs": told}
    choice = {"index": 0, "message": {"role": "assistant", "content": top[0][0]}, "logprobs": {"content": [first]}}
    return {"kind": "application/json", "whole": {"choices": [choice], "usage": {"prompt_tokens": 7}, **more}}


def asked_of(upstream: Upstream, **settings: Any) -> RemoteLLMJudge:
    return RemoteLLMJudge(upstream.url, settings=LLMJudgeSettings(template=TEMPLATE, **settings))


PAIR = [(excerpt("a", "b c"), excerpt("d", "e f"))]


# ---- the same model here and there -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("judge")
    tokenizer = word_tokenizer([*MARKS, "Yes", "No", "A:", "B:", "?", "q0", *"abcdefgh"])  # a server tells 20 tokens
    llama(len(tokenizer)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def judge_server(judge_model: Path) -> Iterator[Running]:
    served = ServingModel(
        choose_engine("hf", str(judge_model)), "judge", choose_policy("none", True), Method(), 16, device="cpu"
    )
    with serving(model=served) as running:
        yield running


@pytest.mark.parametrize("both_orders", [False, True])
def test_it_says_what_the_model_says_here(judge_model: Path, judge_server: Running, both_orders: bool) -> None:
    settings = LLMJudgeSettings(template=TEMPLATE, both_orders=both_orders)
    here = LLMJudge.from_pretrained(judge_model, settings, dtype="float32")
    there = RemoteLLMJudge(judge_server.url, settings=settings)
    pairs = list(itertools.combinations(random_excerpts(6), 2))
    own = judge_pairs(here, pairs)
    assert judge_pairs(there, pairs) == pytest.approx(own, abs=1e-4)
    assert max(own) - min(own) > 0.01
    assert there.cost.pairs == here.cost.pairs
    assert there.cost.tokens >= here.cost.tokens > 0  # a shared prefix is counted for each prompt


# ---- what a server answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ([("Yes", 0.6), ("No", 0.2), ("x", 0.1)], 0.75),
        ([(" Yes", 0.3), ("Yes", 0.3), ("No", 0.2)], 0.75),
        ([("No", 0.8), ("x", 0.1)], 0.1 / 0.9),
        ([("Yes", 0.8), ("x", 0.2)], 0.8),
    ],
)
def test_agreement(top: list[tuple[str, float]], expected: float) -> None:
    assert agreement([(token, math.log(p)) for token, p in top], "Yes", "No") == pytest.approx(expected)


def test_what_is_sent() -> None:
    with upstreams(lambda body, number: says(("Yes", 0.9), ("No", 0.1))) as (server,):
        judge = asked_of(server)
        assert judge.compare(PAIR) == [pytest.approx(0.9)]
        (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": SETTINGS.message("q0", "b c", "e f")}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 1)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert judge.cost.tokens == 7
    assert judge.compare([]) == []


def test_a_server_that_knows_no_template_arguments_is_asked_without() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        if "chat_template_kwargs" in body:
            return {"status": 400, "message": "Unrecognized request argument supplied: chat_template_kwargs"}
        return says(("Yes", 0.9), ("No", 0.1))

    with upstreams(behave) as (server,):
        judge = asked_of(server)
        assert judge.compare(PAIR) == judge.compare(PAIR) == [pytest.approx(0.9)]
        assert ["chat_template_kwargs" in body for body in server.bodies] == [True, False, False]


def test_busy_and_failing_servers_are_asked_again_and_others_instead() -> None:
    def busy(body: dict[str, Any], number: int) -> dict[str, Any]:
        return {"status": 429 if number == 1 else 500} if number < 3 else says(("Yes", 0.9), ("No", 0.1))

    with upstreams(busy, lambda body, number: {"status": 503}) as (one, other):
        judge = RemoteLLMJudge([one.url, other.url], settings=SETTINGS)
        assert judge.compare(PAIR) == [pytest.approx(0.9)]
        assert len(one.bodies) == 3
        assert other.bodies


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"status": 400, "message": "too long"}, "can't be asked: .* 400: too long"),
        ({"kind": "application/json", "whole": {"choices": [{"logprobs": None}]}}, "tells no log-probabilities"),
        ({"kind": "application/json", "whole": {"choices": []}}, "tells no log-probabilities"),
        (says(("Maybe", 0.5), ("x", 0.1)), "neither 'Yes' nor 'No': its likeliest first token is 'Maybe'"),
    ],
)
def test_answers_that_are_of_no_use(how: dict[str, Any], message: str) -> None:
    with upstreams(lambda body, number: how) as (server,), pytest.raises(EngineError, match=message):
        asked_of(server).compare(PAIR)


def test_excerpts_that_it_cannot_read() -> None:
    with upstreams(lambda body, number: {}) as (server,):
        judge = RemoteLLMJudge(server.url, settings=SETTINGS, excerpt="words:25")
        with pytest.raises(InputError, match="trained for excerpts words:25, not tokens:4"):
            judge.read([excerpt("a", "b")])
        with pytest.raises(InputError, match="has no text"):
            RemoteLLMJudge(server.url).read([excerpt("a", "")])
        with pytest.raises(InputError, match="different problems"):
            asked_of(server).compare([(excerpt("a", "b", "q0"), excerpt("c", "d", "q1"))])


# ---- by name ------------------------------------------------------------------------------------------------------------


def test_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_JUDGE_API_KEY", "secret")
    with upstreams(lambda body, number: {}) as (server,):
        judge = open_judge(f"llm:openai:{server.url}#m")
        assert isinstance(judge, RemoteLLMJudge)
        assert (judge.name, judge.model) == ("llm", "m")
        assert place_of(f"llm:openai:{server.url}#m") is None
        assert server.keys == ["Bearer secret"]
        told = tmp_path / "mine.json"
        told.write_text(
            json.dumps({"base": f"openai:{server.url}", "settings": {"same": "Aye"}, "excerpt": "words:25"})
        )
        judge = open_judge(f"llm:{told}")
        assert isinstance(judge, RemoteLLMJudge)
        assert (judge.settings.same, judge.excerpt) == ("Aye", "words:25")
        with pytest.raises(InputError, match="doesn't serve 'other'; expected one of m"):
            open_judge(f"llm:openai:{server.url}#other")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("llm:openai:nothing", "'nothing' is no address of a server"),
        ("llm:openai:", "there is no address"),
        ("llm:openai:http://127.0.0.1:9/v1", "no server can be used: .*can't be reached"),
    ],
)
def test_specs_that_cannot_be_used(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_judge(spec)


def test_a_vote_over_servers_alone(judge_server: Running) -> None:
    """The reasoner behind one server and its judge behind another, from the command line."""
    with serving() as reasoner:
        asked = ["solve", generate(1, seed=3, level=4)[0].question, "--strategy", "deepprune", "--n", "4", "--json"]
        asked += ["--engine", f"openai:{reasoner.url}/v1", "--judge", f"llm:openai:{judge_server.url}/v1"]
        done = CliRunner().invoke(build(), asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["answer"] is not None
    assert told["judge"] == f"llm:openai:{judge_server.url}/v1"
    assert told["tokens"]["judged"] > 0
