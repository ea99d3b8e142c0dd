"""A server whose engine is another server: what clients ask for arrives there as they said it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.engines.openai.test_upstreams import upstreams

from laconic.cli.common import choose_policy
from laconic.cli.engines import choose_engine
from laconic.cli.served_model import ServingModel
from laconic.server.asks import Method

from .conftest import Running, serving


def before(url: str, name: str) -> ServingModel:
    return ServingModel(choose_engine(f"openai:{url}", None), name, choose_policy("none", True), Method(n=4), 16)


@pytest.fixture(scope="module")
def front(server: Running) -> Iterator[Running]:
    with serving(model=before(server.url + "/v1", "bundled")) as running:
        yield running


def said(server: Running, path: str, given: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(path, {"model": "bundled", "seed": 5, "temperature": 0, "max_tokens": 300, **given})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def words(choice: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The bundled tokenizer's words take their spaces from their neighbours."""
    message = choice["message"]
    return message["content"].split(), (message.get("reasoning_content") or "").split()


def test_conversations_of_several_turns(server: Running, front: Running, questions: list[str]) -> None:
    turns = [
        {"role": "user", "content": questions[0]},
        {"role": "assistant", "content": "\\boxed{ 8 }"},
        {"role": "user", "content": questions[1]},
    ]
    given = {"messages": turns}
    assert words(said(front, "/v1/chat/completions", given)) == words(said(server, "/v1/chat/completions", given))
    other = words(said(front, "/v1/chat/completions", {"messages": turns[2:]}))
    assert other[0]


def test_a_message_is_continued(server: Running, front: Running, questions: list[str]) -> None:
    turns = [{"role": "user", "content": questions[0]}, {"role": "assistant", "content": "<think>draft : "}]
    given = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
    assert words(said(front, "/v1/chat/completions", given)) == words(said(server, "/v1/chat/completions", given))


def test_plain_texts_go_without_a_template(server: Running, front: Running, questions: list[str]) -> None:
    given = {"prompt": f"<|user|> {questions[0]} <|assistant|> <think>"}
    assert said(front, "/v1/completions", given)["text"] == said(server, "/v1/completions", given)["text"]


def test_what_servers_tell_of_tokens_is_told_on() -> None:
    """Counts, log-probabilities and a trace's text, though the tokenizer is theirs."""
    how = {
        "words": ["<think>", "3 and 4", "</think>", "\\boxed{", "7", "}"],
        "ids": True,
        "logprobs": True,
        "usage": {"prompt_tokens": 11, "completion_tokens": 6},
    }
    given = {"model": "bundled", "messages": [{"role": "user", "content": "3 + 4 ?"}], "seed": 1}
    with upstreams(lambda body, number: how) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        plain = front.post("/v1/chat/completions", {**given, "logprobs": True, "top_logprobs": 1}).json()
        assert "error" not in plain
        assert plain["usage"]["prompt_tokens"] == 11
        assert [each["token"] for each in plain["choices"][0]["logprobs"]["content"]] == how["words"]
        vote = front.post("/v1/chat/completions", {**given, "laconic": {"strategy": "self-consistency", "n": 2}}).json()
        assert vote["usage"]["prompt_tokens"] == 11
        assert 0 < vote["usage"]["completion_tokens_details"]["reasoning_tokens"] < vote["usage"]["completion_tokens"]
    silent = {**how, "logprobs": False}
    with upstreams(lambda body, number: silent) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        front.post("/v1/chat/completions", {**given, "laconic": {"strategy": "self-consistency:ties=index", "n": 2}})
        (run,) = front.get("/laconic/runs").json()
        trace = front.get(f"/laconic/runs/{run['id']}/traces/0").json()
        assert trace["parts"] == [["".join(how["words"]), True]]
        assert trace["tokens"] == 6
        assert not trace["known"]


def test_votes_and_template_arguments_arrive() -> None:
    with upstreams(lambda body, number: {"words": ["\\boxed{", "7", "}"]}) as (upstream,):
        with serving(model=before(upstream.url, "m")) as front:
            given = {
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4 ?"}],
                "chat_template_kwargs": {"enable_thinking": False},
                "laconic": {"strategy": "self-consistency", "n": 3},
            }
            told = front.post("/v1/chat/completions", {"model": "bundled", **given}).json()
        assert told["laconic"]["answer"] == "7"
        assert len(upstream.bodies) >= 2  # two of three decide
        for body in upstream.bodies:
            assert body["messages"] == given["messages"]
            assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_prompt_is_counted_by_whichever_choice_was_told_its_length() -> None:
    """Streams that a stop text closes bring no usage."""

    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        usage = {"prompt_tokens": 11, "completion_tokens": 3}
        return {"words": ["a ", "END ", "b "] if number == 1 else ["a ", "b ", "c "], "usage": usage}

    given = {"model": "bundled", "prompt": "x", "n": 2, "seed": 1, "stop": "END"}
    with upstreams(behave) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        told = front.post("/v1/completions", given).json()
    assert sorted(choice["text"] for choice in told["choices"]) == ["a ", "a b c "]
    assert told["usage"]["prompt_tokens"] == 11


def test_no_token_behind_a_stop_is_told() -> None:
    how = {
        "words": ["a", " b", " c", " d", " e"],
        "logprobs": True,
        "usage": {"prompt_tokens": 1, "completion_tokens": 5},
    }
    asked = {"model": "bundled", "prompt": "x", "logprobs": 1, "stop": " c"}
    with upstreams(lambda body, number: how) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        (choice,) = front.post("/v1/completions", asked).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a b", "stop")
    assert choice["logprobs"]["tokens"] == ["a", " b"]
    assert choice["logprobs"]["text_offset"] == [0, 1]


def test_a_silent_server_holds_up_nobody_else() -> None:
    """What others ask for is begun, and who leaves is let go of, though the first one's server says nothing."""
    go = threading.Event()

    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        if body["messages"][-1]["content"] == "slow":
            go.wait(30)
        return {"words": ["\\boxed{", "7", "}"]}

    with upstreams(behave) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        slow = front.post(
            "/laconic/runs", {"problem": "slow", "laconic": {"strategy": "self-consistency", "n": 1}}
        ).json()["id"]
        while not upstream.bodies:
            time.sleep(0.01)
        asked = {"model": "bundled", "messages": [{"role": "user", "content": "fast"}]}
        answer = httpx.post(f"{front.url}/v1/chat/completions", json=asked, timeout=15).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert front.driver.running == 1
        assert httpx.delete(f"{front.url}/laconic/runs/{slow}").is_success
        front.wait_idle(15)
        go.set()


VOTE = {"laconic": {"strategy": "self-consistency:ties=index", "n": 2}}


def fails_once(body: dict[str, Any], number: int) -> dict[str, Any]:
    """A server that breaks off its first text, and continues none."""
    if body["messages"][-1]["role"] == "assistant":
        return {"status": 400, "message": "texts aren't continued"}
    return {"words": ["lost ", "words "], "cut": True} if number == 1 else {"words": ["all ", "of ", "it"]}


def test_a_whole_answer_holds_nothing_of_what_began_anew() -> None:
    asked = {"model": "bundled", "messages": [{"role": "user", "content": "a"}]}
    with upstreams(fails_once) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        told = front.post("/v1/chat/completions", asked).json()
    assert told["choices"][0]["message"]["content"] == "all of it"
    assert told["usage"]["completion_tokens"] == 5  # what was lost was computed, too


def test_a_stream_that_has_told_of_what_began_anew_ends_in_an_error() -> None:
    asked = {"model": "bundled", "messages": [{"role": "user", "content": "a"}], "stream": True}
    with upstreams(fails_once) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        lines = front.post("/v1/chat/completions", asked).text
    assert "lost " in lines
    assert "none goes on with its text" in lines
    assert "all " not in lines
    assert lines.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("there", "here", "laconic"),
    [
        (400, 400, {}),
        (422, 422, VOTE),
        (429, 429, {}),  # after six tries
        (401, 502, VOTE),
        (404, 502, {}),
    ],
)
def test_a_refusal_keeps_its_status(there: int, here: int, laconic: dict[str, Any]) -> None:
    how = {"status": there, "message": "max_tokens is too large", "retry_after": 0}
    asked = {"model": "bundled", "messages": [{"role": "user", "content": "a"}], **laconic}
    with upstreams(lambda body, number: how) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        answer = front.post("/v1/chat/completions", asked)
    assert answer.status_code == here
    assert "max_tokens is too large" in answer.json()["error"]["message"]
    assert (answer.headers.get("retry-after") is not None) == (here == 429)


def test_tokens_are_counted_as_the_server_counts_them() -> None:
    """Pieces came without ids, and a piece may hold several tokens."""
    how = {
        "words": ["<think>", "3 and 4", "</think>", "\\boxed{", "7", "}"],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12},
    }
    asked = {"model": "bundled", "messages": [{"role": "user", "content": "a"}]}
    with upstreams(lambda body, number: how) as (upstream,), serving(model=before(upstream.url, "m")) as front:
        usage = front.post("/v1/chat/completions", asked).json()["usage"]
        assert usage["completion_tokens"] == 12
        assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < 12
        vote = front.post(
            "/v1/chat/completions",
            {**asked, "laconic": {"strategy": "self-consistency:ties=index,early_end=false", "n": 2}},
        )
        assert vote.json()["usage"]["completion_tokens"] == 24
        assert "laconic_generated_tokens_total 36.0" in front.get("/metrics").text
