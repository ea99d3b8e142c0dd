"""What nobody sends by accident: the server answers with a 4xx or closes the socket, and goes on."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from laconic.server import guard

from .conftest import Running
from .test_server import body

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/laconic/runs")
JSON = {"content-type": "application/json"}


def raw(server: Running, data: bytes, seconds: float = 5) -> bytes:
    """What comes back for bytes as they stand, until the socket is closed or nothing comes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        found = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                found += part
                if b"\r\n\r\n" in found and b"content-length" not in found.lower():
                    break
                head, _, rest = found.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                if len(rest) >= length:
                    break
        except (TimeoutError, ConnectionError):
            pass
        return found


BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"prompt": ' + b"9" * 100_000 + b"}",
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": 1e999}',
    b'{"prompt": "a", "n": 99999999999999999999999}',
    b'{"prompt": {"a": 1}}',
    b'{"prompt": [[[[]]]]}',
    b'{"prompt": "a", "stop": [{}]}',
    b'{"prompt": "\\u0000", "max_tokens": -1}',
    b'{"input": {"a": 1}}',
    b'{"messages": {"role": "user"}}',
    b'{"messages": [[]], "stream": 1}',
    b'{"problem": ["a"]}',
]


@pytest.mark.parametrize("path", PATHS)
def test_bodies_of_every_kind(server: Running, path: str) -> None:
    for content in BODIES:
        found = httpx.post(server.url + path, content=content, headers=JSON, timeout=30)
        assert 400 <= found.status_code < 500, content[:60]
        assert found.json()["error"]["message"]
    server.wait_idle()


def test_two_hundred_random_requests(server: Running, questions: list[str]) -> None:
    """Fields of any type with any value: a 4xx that is OpenAI's, or an answer."""
    draw = random.Random(5)
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        1,
        2.5,
        10**30,
        "",
        "x",
        "bundled",
        [],
        [1],
        ["a"],
        {},
        {"type": "x"},
        {"n": 0},
    ]
    names = ["model", "messages", "prompt", "n", "seed", "temperature", "top_p", "max_tokens", "stop", "stream", "user"]
    names += [
        "logprobs",
        "top_logprobs",
        "laconic",
        "stream_options",
        "tools",
        "response_format",
        "chat_template_kwargs",
    ]
    for number in range(200):
        given = body(questions[0], max_tokens=2) if number % 2 else {"prompt": "a", "max_tokens": 2}
        for name in draw.sample(names, draw.randint(1, 4)):
            given[name] = draw.choice(values)
        path = PATHS[0] if number % 2 else PATHS[1]
        if given.get("max_tokens") in (None, 10**30):
            given["max_tokens"] = 2
        found = httpx.post(server.url + path, json=given, timeout=60)
        assert found.status_code in (200, 400, 404), (given, found.text)
        if found.status_code != 200:
            assert set(found.json()["error"]) == {"message", "type", "param", "code"}
    server.wait_idle()


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 200_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /laconic/runs/..%2f..%2fetc HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /page.js/../../app.py HTTP/1.1\r\nHost: x\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /laconic/runs/x/events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request(server: Running, data: bytes) -> None:
    found = raw(server, data)
    status = found.split(b" ", 2)[1:2]
    assert not found or status[0][:1] == b"4" or (status[0] == b"200" and b"Upgrade" in data)
    assert b"root:" not in found
    assert server.get("/health").status_code == 200


def test_a_body_that_is_too_large(server: Running) -> None:
    found = httpx.post(server.url + PATHS[1], content=b"x" * 300_000, headers=JSON)
    assert found.status_code == 413

    def parts() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    try:
        found = httpx.post(server.url + PATHS[1], content=parts(), headers=JSON, timeout=10)
        assert found.status_code == 413
    except httpx.TransportError:
        pass  # closed while it was sent


def test_senders_without_patience_for(
    serve_with: Callable[..., AbstractContextManager[Running]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers that never end and bodies that never come hold no socket for long."""
    monkeypatch.setattr(guard, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.4)
    with serve_with() as server:
        start = time.monotonic()
        assert raw(server, b"GET / HTTP/1.1\r\nHost: x\r\n") == b""
        assert raw(server, b"") == b""
        assert time.monotonic() - start < 4
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"
        )
        assert raw(server, head).split(b" ", 2)[1] == b"408"
        assert server.get("/health").status_code == 200


def test_half_a_connection_and_pipelined_requests(server: Running) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(one * 3)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    assert found.count(b"HTTP/1.1 200") >= 1
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
    assert server.get("/health").status_code == 200


def test_nothing_of_it_is_left(server: Running) -> None:
    server.wait_idle()
    assert json.loads(server.get("/health").text)["status"] == "ok"
