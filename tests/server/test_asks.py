"""What clients may send, and the sentence where they may not."""

from __future__ import annotations

from typing import Any

import pytest

from laconic.server.asks import Ask, AskError, Endpoint, Method, read_ask, resolve_model
from laconic.server.replies import REPLIES

USER = [{"role": "user", "content": "2 + 2?"}]
CHAT: dict[str, Any] = {"model": "m", "messages": USER}


def chat(**more: Any) -> Ask:
    return read_ask("chat", {**CHAT, **more})


def test_a_chat_with_everything() -> None:
    ask = chat(
        n=3,
        seed=5,
        temperature=0.7,
        top_p=0.9,
        top_k=-1,
        max_tokens=10,
        max_completion_tokens=20,
        stop=["a", "", "b"],
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=2,
        chat_template_kwargs={"enable_thinking": False},
        response_format={"type": "text"},
        tools=[],
        frequency_penalty=0,
        user="someone",
        metadata={"a": 1},
        laconic={
            "strategy": "deepprune:K2=4",
            "n": 16,
            "compress": "rpc:interval=512",
            "budget": 5000,
            "progress": False,
        },
    )
    assert ask.sampling == {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 20}
    assert (ask.n, ask.seed, ask.stops, ask.logprobs) == (3, 5, ("a", "b"), 2)
    assert ask.stream
    assert ask.include_usage
    assert ask.method == Method("deepprune:K2=4", 16, "rpc:interval=512", None, "5000", False)
    assert ask.question == "2 + 2?"


def test_contents_in_parts_roles_and_reasoning_of_the_history() -> None:
    ask = chat(
        messages=[
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "4", "reasoning": "because"},
            {"role": "user", "content": "again"},
        ]
    )
    assert ask.messages == (
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "4", "reasoning_content": "because"},
        {"role": "user", "content": "again"},
    )


def test_completions_take_texts_and_tokens() -> None:
    assert read_ask("completions", {"prompt": "a"}).prompts == ("a",)
    assert read_ask("completions", {"prompt": [1, 2]}).prompts == ((1, 2),)
    assert read_ask("completions", {"prompt": ["a", [1, 2]], "best_of": 1, "echo": False}).prompts == ("a", (1, 2))


def test_responses_take_a_text_or_items() -> None:
    ask = read_ask("responses", {"input": "2 + 2?", "instructions": "be short", "max_output_tokens": 5})
    assert ask.messages == ({"role": "system", "content": "be short"}, {"role": "user", "content": "2 + 2?"})
    assert ask.sampling == {"max_new_tokens": 5}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "user", "content": "c"},
    ]
    assert [m["content"] for m in read_ask("responses", {"input": items}).messages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("endpoint", "body", "param", "says"),
    [
        ("chat", [], None, "expected a JSON object"),
        ("chat", {}, "messages", "messages is missing"),
        ("chat", {"messages": []}, "messages", "is empty"),
        ("chat", {"messages": "hello"}, "messages", "expected a list"),
        ("chat", {"messages": ["hello"]}, "messages[0]", "expected an object"),
        ("chat", {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "expected one of system"),
        ("chat", {"messages": [{"role": [], "content": "x"}]}, "messages[0].role", "expected one of system"),
        ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "expected a list"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "tools aren't supported"),
        ("chat", {"messages": [*USER, {"role": "assistant", "content": "x"}]}, "messages", "end with a user's, or set"),
        ("chat", {"messages": [{"role": "system", "content": "x"}]}, "messages", "no message of a user"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "only text is supported",
        ),
        (
            "chat",
            {**CHAT, "messages": [{"role": "user", "content": "\ud800"}]},
            "messages[0].content",
            "half a character",
        ),
        ("chat", {**CHAT, "n": 0}, "n", "whole number"),
        ("chat", {**CHAT, "n": "2"}, "n", "whole number"),
        ("chat", {**CHAT, "n": 1e9}, "n", "whole number"),
        ("chat", {**CHAT, "seed": 2**70}, "seed", "64 bits"),
        ("chat", {**CHAT, "temperature": -1}, "temperature", "number from 0 to 100"),
        ("chat", {**CHAT, "temperature": float("nan")}, "temperature", "number from 0 to 100"),
        ("chat", {**CHAT, "top_p": 0}, "top_p", "above 0"),
        ("chat", {**CHAT, "max_tokens": 0}, "max_tokens", "at least 1"),
        ("chat", {**CHAT, "stream": "yes"}, "stream", "true or false"),
        ("chat", {**CHAT, "stream_options": 5}, "stream_options", "an object"),
        ("chat", {**CHAT, "stop": 5}, "stop", "expected a list"),
        ("chat", {**CHAT, "stop": ["x"] * 17}, "stop", "at most 16"),
        ("chat", {**CHAT, "tools": [{}]}, "tools", "isn't supported"),
        ("chat", {**CHAT, "logit_bias": {"5": 1}}, "logit_bias", "isn't supported"),
        ("chat", {**CHAT, "frequency_penalty": 0.5}, "frequency_penalty", "only 0 is supported"),
        ("chat", {**CHAT, "response_format": {"type": "json_object"}}, "response_format", "is supported"),
        ("chat", {**CHAT, "top_logprobs": 3}, "top_logprobs", "without logprobs"),
        ("chat", {**CHAT, "model": 5}, "model", "expected a text"),
        ("chat", {**CHAT, "laconic": {"strateggy": "x"}}, "laconic.strateggy", "expected one of strategy"),
        ("chat", {**CHAT, "laconic": {"n": -1}}, "laconic.n", "whole number"),
        ("chat", {**CHAT, "laconic": {"strategy": 5}}, "laconic.strategy", "expected a text"),
        ("chat", {**CHAT, "laconic": {"progress": 5}}, "laconic.progress", "true or false"),
        ("chat", {**CHAT, "laconic": []}, "laconic", "an object"),
        ("completions", {}, "prompt", "prompt is missing"),
        ("completions", {"prompt": []}, "prompt", "is empty"),
        ("completions", {"prompt": [-1]}, "prompt", "token ids"),
        ("completions", {"prompt": [["a"]]}, "prompt[0]", "token ids"),
        ("completions", {"prompt": "a", "echo": True}, "echo", "isn't supported"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix", "isn't supported"),
        ("responses", {}, "input", "input is missing"),
        ("responses", {"input": "a", "previous_response_id": "x"}, "previous_response_id", "keeps no conversations"),
        ("responses", {"input": "a", "text": {"format": {"type": "json_schema"}}}, "text", "only text is supported"),
    ],
)
def test_what_is_refused_names_its_field(endpoint: Endpoint, body: Any, param: str | None, says: str) -> None:
    with pytest.raises(AskError) as caught:
        read_ask(endpoint, body)
    assert says in str(caught.value)
    assert caught.value.param == param
    assert caught.value.status == 400


STRATEGIES, POLICIES = ("priced-vote", "deepconf:low", "deepprune"), ("rpc", "learned")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("m", Method()),
        ("", Method()),
        ("m:deepprune-16", Method(strategy="deepprune", n=16)),
        ("m:rpc", Method(compress="rpc")),
        ("m:priced-vote-4+learned", Method(strategy="priced-vote", n=4, compress="learned")),
        ("m:deepconf:low-8", Method(strategy="deepconf:low", n=8)),
        ("m:priced-vote", Method(strategy="priced-vote")),
    ],
)
def test_a_models_name_sets_what_it_says(name: str, method: Method) -> None:
    assert resolve_model(name, "m", Method(), STRATEGIES, POLICIES) == method


@pytest.mark.parametrize(
    ("name", "given", "status", "says"),
    [
        ("other", Method(), 404, "isn't served"),
        ("mm", Method(), 404, "isn't served"),
        ("m:nothing", Method(), 404, "is unknown"),
        ("m:", Method(), 404, "is unknown"),
        ("m:rpc", Method(compress="h2o"), 400, "different things"),
        ("m:deepprune-16", Method(n=8), 400, "different things"),
    ],
)
def test_what_a_models_name_cannot_say(name: str, given: Method, status: int, says: str) -> None:
    with pytest.raises(AskError, match=says) as caught:
        resolve_model(name, "m", given, STRATEGIES, POLICIES)
    assert caught.value.status == status


def test_a_server_without_policies_still_says_what_a_name_may_be() -> None:
    with pytest.raises(
        AskError, match=r"'rpc' in the model's name 'm:rpc' is unknown; expected a strategy and a number"
    ):
        resolve_model("m:rpc", "m", Method(), ["priced-vote"], [])


def test_what_a_response_cannot_have() -> None:
    with pytest.raises(AskError, match="top_logprobs isn't supported at /v1/responses"):
        read_ask("responses", {"input": "a", "top_logprobs": 3})
    ask = read_ask("responses", {"input": "a", "instructions": "Be brief.", "top_logprobs": 0})
    assert ask.instructions == "Be brief."
    assert ask.messages[0] == {"role": "system", "content": "Be brief."}
    reply = REPLIES["responses"](ask, "m", 1)
    (created, _) = reply.opening()
    assert created["response"]["instructions"] == "Be brief."
