"""`laconic serve` as a command: what it refuses before it loads anything, and how it begins and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from laconic.cli.serve import bind, choose_key, model_name
from laconic.errors import InputError

Invoke = Callable[..., Any]


def test_keys_come_from_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LACONIC_API_KEY", raising=False)
    assert choose_key(None, None, "127.0.0.1", False) is None
    assert choose_key("k", None, "0.0.0.0", False) == "k"
    assert choose_key(None, None, "0.0.0.0", True) is None
    file = tmp_path / "key"
    file.write_text("from-file\nmore\n")
    file.chmod(0o600)
    assert choose_key(None, file, "::", False) == "from-file"
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    choose_key(None, file, "::", False)
    assert "others on this machine can read" in capsys.readouterr().err
    monkeypatch.setenv("LACONIC_API_KEY", "from-environment")
    assert choose_key(None, None, "0.0.0.0", False) == "from-environment"
    assert choose_key(None, file, "0.0.0.0", False) == "from-file"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LACONIC_API_KEY", raising=False)
    with pytest.raises(InputError, match=r"can be reached by others.*--insecure"):
        choose_key(None, None, host, False)


@pytest.mark.parametrize("key", ["", "a b", "schlüssel"])
def test_keys_that_no_header_carries(key: str) -> None:
    with pytest.raises(InputError, match="the API key is empty, or has characters"):
        choose_key(key, None, "127.0.0.1", False)


def test_addresses_that_cannot_be_listened_at() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            bind("127.0.0.1", port)
    with pytest.raises(InputError, match="is no address of this machine"):
        bind("203.0.113.7", 0)
    with pytest.raises(InputError, match="is no address"):
        bind("no such host.invalid", 0)


def test_a_model_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "Qwen3-8B").mkdir()
    assert model_name(str(tmp_path / "Qwen3-8B")) == "Qwen3-8B"
    assert model_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--strategy", "guess"], "strategy 'guess' is unknown"),
        (["--strategy", "priced-vote:price=0"], "price is 0"),
        (["--judge", "jaccard"], "give --strategy as well"),
        (["--strategy", "priced-vote", "--judge", "jaccard"], "asks no judge"),
        (["--policy", "zip"], "'zip' is unknown"),
        (["--engine", "tpu:x"], "engine 'tpu' is unknown"),
        (["--host", "0.0.0.0"], "there is no key"),
        (["--port", "70000"], "expected 0 to 65535"),
        (["--batch", "0"], "--batch is 0"),
        (["--max-requests", "0"], "--max-requests is 0"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--api-key", "a", "--api-key-file", "b"], "both give a key"),
        (["--api-key-file", "nowhere"], "No such file"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    invoke: Invoke, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LACONIC_API_KEY", raising=False)
    result = invoke("serve", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_key_file_that_is_no_text_is_one_sentence(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    result = invoke("serve", "--api-key-file", str(tmp_path / "key"))
    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.stderr
    assert "Traceback" not in result.stderr


class Process:
    """`laconic serve` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "laconic", "serve", "--port", str(self.port), *arguments]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    def wait_ready(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                if httpx.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("it was not ready in time")

    def end(self) -> tuple[int, str]:
        told = self.process.communicate(timeout=60)[1]
        return self.process.returncode, told


@pytest.fixture
def question() -> str:
    from laconic.problems import generate

    return str(generate(1, level=8)[0].question)


def test_it_serves_finishes_what_runs_and_ends(question: str) -> None:
    served = Process()
    try:
        served.wait_ready()
        body = {"messages": [{"role": "user", "content": question}], "stream": True, "n": 4, "seed": 1}
        with httpx.stream("POST", served.url + "/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        code, told = served.end()
        assert code == 0, told
        assert f"bundled is served at http://localhost:{served.port}/v1" in told
        assert "finishing 1 requests" in told
        assert "Traceback" not in told
        assert question not in told
    finally:
        served.process.kill()


def test_a_second_signal_ends_it_at_once(question: str) -> None:
    served = Process("--batch", "1")
    try:
        served.wait_ready()
        body = {"messages": [{"role": "user", "content": question}], "stream": True, "n": 64}
        with httpx.stream("POST", served.url + "/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()  # one that is let go of closes the connection
            next(lines)
            served.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert served.process.poll() is None
            start = time.monotonic()
            served.process.send_signal(signal.SIGINT)
            code, told = served.end()
        assert code == 1
        assert "finishing 1 requests" in told
        assert time.monotonic() - start < 10
        assert "Traceback" not in told
    finally:
        served.process.kill()


def test_a_port_in_use_and_a_model_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "laconic", "serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2
    assert "is in use; choose another with --port" in done.stderr
    missing = Process("--model", str(tmp_path / "nothing"))
    code, told = missing.end()
    assert code == 2
    assert "nothing" in told
    assert "Traceback" not in told
