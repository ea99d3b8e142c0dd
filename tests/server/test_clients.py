"""Clients of others, each as its users call it: litellm where it is installed, and curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from .conftest import Running


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


# ---- litellm ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it looks prices up otherwise
    return pytest.importorskip("litellm")


def asking(server: Running, question: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "openai/bundled",
        "api_base": server.url + "/v1",
        "api_key": "none",
        "messages": messages(question),
        "seed": 3,
        **more,
    }


def test_litellm_whole_and_streamed(litellm: Any, server: Running, questions: list[str]) -> None:
    whole = litellm.completion(**asking(server, questions[0]))
    message = whole.choices[0].message
    assert "boxed" in message.content
    assert message.reasoning_content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    said = thought = ""
    for chunk in litellm.completion(**asking(server, questions[0], stream=True)):
        if chunk.choices:
            said += chunk.choices[0].delta.content or ""
            thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert (said, thought) == (message.content, message.reasoning_content)
    server.wait_idle()


def test_litellm_votes_and_errors(litellm: Any, server: Running, questions: list[str]) -> None:
    asked = asking(server, questions[0], model="openai/bundled:self-consistency-4")
    assert "boxed" in litellm.completion(**asked).choices[0].message.content
    with pytest.raises(litellm.BadRequestError, match="whole number"):
        litellm.completion(**asking(server, questions[0], max_tokens=-3))
    with pytest.raises(litellm.NotFoundError, match="isn't served"):
        litellm.completion(**asking(server, questions[0], model="openai/other"))
    server.wait_idle()


# ---- curl --------------------------------------------------------------------------------------------------------------


def curl(*arguments: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_whole_and_streamed(server: Running, questions: list[str]) -> None:
    given = {"model": "bundled", "messages": messages(questions[0]), "seed": 3}
    where = [f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    whole = json.loads(curl(*where, "-d", json.dumps(given)))
    lines = curl("-N", *where, "-d", json.dumps({**given, "stream": True})).split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    said = ""
    for event in events[:-1]:
        for choice in json.loads(event)["choices"]:
            said += choice["delta"].get("content") or ""
    assert said == whole["choices"][0]["message"]["content"]


def test_curl_is_told_what_is_wrong(server: Running) -> None:
    told = json.loads(curl(f"{server.url}/v1/chat/completions", "-d", "{"))  # as a form
    assert "expected application/json" in told["error"]["message"]
    told = json.loads(curl(f"{server.url}/v1/nothing"))
    assert "isn't served here" in told["error"]["message"]
    assert json.loads(curl(f"{server.url}/health"))["status"] == "ok"
