"""What goes into a chat template beside the question: rendered as the template says, refused where it changes nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from laconic.compress import FullKV
from laconic.engines.chat import Chat, thinking_argument
from laconic.engines.hf import HFEngine
from laconic.engines.text import render
from laconic.engines.vllm.engine.engine import VLLMEngine
from laconic.errors import LaconicError
from tests.engines.hf.families import family

# The shapes of published templates, cut to what matters here.
QWEN3 = (
    "{% if messages[0].role == 'system' %}[sys]{{ messages[0].content }}{% endif %}[user]{{ messages[-1].content }}[bot]"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
)
GRANITE = "[user]{{ messages[-1].content }}[bot]{% if thinking %}<think>{% endif %}"
GPT_OSS = "effort {{ reasoning_effort | default('medium') }} [user]{{ messages[-1].content }}"
GEMMA2 = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[user]{{ messages[-1].content }}[bot]"
)
BUDGET = "{% if budget is defined and budget > 100 %}long {% endif %}[user]{{ messages[-1].content }}"


def tokenizer(template: str | None) -> Any:
    backend = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "a": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", chat_template=template)


@pytest.mark.parametrize(
    ("template", "chat", "text"),
    [
        (QWEN3, Chat(), "[user]why?[bot]"),
        (QWEN3, Chat("Be brief."), "[sys]Be brief.[user]why?[bot]"),
        (QWEN3, Chat(""), "[sys][user]why?[bot]"),
        (QWEN3, Chat(arguments={"enable_thinking": False}), "[user]why?[bot]<think></think>"),
        (QWEN3, Chat(arguments={"enable_thinking": True}), "[user]why?[bot]"),  # what the template does by itself
        (QWEN3, Chat("S", {"enable_thinking": False}), "[sys]S[user]why?[bot]<think></think>"),
        (GPT_OSS, Chat(arguments={"reasoning_effort": "high"}), "effort high [user]why?"),
        (GPT_OSS, Chat(arguments={"reasoning_effort": "medium"}), "effort medium [user]why?"),
        (BUDGET, Chat(arguments={"budget": 5}), "[user]why?"),  # a text as the other value makes this template fail
    ],
)
def test_what_a_template_takes_is_taken(template: str, chat: Chat, text: str) -> None:
    chat.check(tokenizer(template))
    assert render(tokenizer(template), "why?", chat) == text


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        (GRANITE, Chat("Be brief."), "takes no system message: the prompt is the same without it"),
        (GEMMA2, Chat("Be brief."), "does not take a system message: System role not supported"),
        (QWEN3, Chat(arguments={"enable_thinkng": False}), "takes no argument enable_thinkng: the prompt is the same"),
        (GRANITE, Chat(arguments={"enable_thinking": True}), "takes no argument enable_thinking"),
        (GPT_OSS, Chat(arguments={"effort": "high"}), "takes no argument effort"),
        (BUDGET, Chat(arguments={"budget": "many"}), "does not take budget: "),
        (None, Chat("Be brief."), "no chat template that could take a system message"),
        (
            None,
            Chat(arguments={"enable_thinking": False}),
            "no chat template that could take an argument enable_thinking",
        ),
    ],
)
def test_what_it_does_not_take_is_refused(template: str | None, chat: Chat, said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        chat.check(tokenizer(template))


def test_nothing_is_always_taken() -> None:
    for template in (QWEN3, None):
        Chat().check(tokenizer(template))
    assert render(tokenizer(None), "why?", Chat()) == "why?"


@pytest.mark.parametrize(("template", "name"), [(QWEN3, "enable_thinking"), (GRANITE, "thinking")])
def test_the_switch_for_thinking_is_found(template: str, name: str) -> None:
    assert thinking_argument(tokenizer(template)) == name


@pytest.mark.parametrize("template", [GPT_OSS, GEMMA2, None])
def test_no_switch_for_thinking(template: str | None) -> None:
    with pytest.raises(LaconicError, match="can't switch thinking on or off"):
        thinking_argument(tokenizer(template))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"system": 5}, "system is 5; expected a text"),
        ({"arguments": ["enable_thinking"]}, "expected a mapping"),
        ({"arguments": {1: True}}, "expected a mapping"),
        ({"arguments": {"tokenize": True}}, "'tokenize' is no argument of a chat template's own"),
        ({"arguments": {"two words": True}}, "'two words' is no argument"),
    ],
)
def test_a_chat_checks_itself(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        Chat(**arguments)


def test_as_json_only_what_was_given() -> None:
    assert Chat().to_json() == {}
    assert not Chat()
    assert Chat("").to_json() == {"system": ""}
    assert Chat(""), "an empty system message is one"
    chat = Chat("S", {"enable_thinking": False})
    assert json.loads(json.dumps(chat.to_json())) == {"system": "S", "arguments": {"enable_thinking": False}}


def test_an_engine_renders_with_it_and_refuses_early() -> None:
    model = family("llama")
    assert HFEngine(model, tokenizer(QWEN3), chat=Chat("S")).render("why?") == "[sys]S[user]why?[bot]"
    assert HFEngine(model, tokenizer(QWEN3)).render("why?") == "[user]why?[bot]"
    with pytest.raises(LaconicError, match="takes no system message"):
        HFEngine(model, tokenizer(GRANITE), chat=Chat("S"))
    with pytest.raises(LaconicError, match="no chat template"):
        HFEngine(model, None, chat=Chat("S"))


def test_the_vllm_engine_renders_with_it_too() -> None:
    facts = SimpleNamespace(bytes_per_token=1, reserved_bytes=0, context=9, vocabulary=9)
    client = SimpleNamespace(unique_prefix=lambda: "fake", closed=True, users=set())
    started: Any = SimpleNamespace(
        policy=FullKV(), client=client, tokenizer=tokenizer(QWEN3), generation_config=None, facts=facts, end_ids=()
    )
    assert VLLMEngine.over(started, chat=Chat("S")).render("why?") == "[sys]S[user]why?[bot]"
    assert VLLMEngine.over(started).render("why?") == "[user]why?[bot]"
    with pytest.raises(LaconicError, match="takes no argument thinking"):
        VLLMEngine.over(started, chat=Chat(arguments={"thinking": True}))
