"""A server of the bundled model under clients that come, go and misbehave: does anything leak, stall, or answer wrongly?

    python benchmarks/serve_soak.py --seconds 600 --clients 64 --out benchmarks/serve-soak
    .venv-vllm/bin/python benchmarks/serve_soak.py --engine vllm --seconds 300 --clients 64 --out benchmarks/serve-soak-vllm

Clients stream, some of them leave in the middle, some send what is no request. Every text that comes to its end is compared
with what the engine says alone: the HF engine in this process; with vLLM, the server itself, asked for one text at a time
before the clients come. Memory, threads and open files of the server and of the processes that it has started are read at
rest, after the first minute, after each further one and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from laconic.environment import script_environment
from laconic.files import write_text

MINUTE = 60.0
TOKENS = 100
QUESTIONS, SEEDS = 8, 8
START = 600.0  # seconds that a server may take to load
BAD: tuple[Any, ...] = ({}, [], {"messages": 5}, {"messages": [], "n": -1}, {"prompt": "a", "temperature": "hot"})


def expected(questions: list[str]) -> dict[tuple[int, int], str]:
    """What the engine says alone."""
    from laconic.assets import reasoner_path
    from laconic.engines.base import Sampling
    from laconic.engines.hf import HFEngine, load

    engine = HFEngine(*load(reasoner_path()), max_batch=64, chunk_tokens=16)
    found = {}
    for seed in range(SEEDS):
        sampling = Sampling(max_new_tokens=TOKENS, temperature=1.0, top_p=0.95, seed=seed)
        for place, traces in enumerate(engine.generate([engine.render(q) for q in questions], sampling)):
            found[place, seed] = traces[0].text
    return found


def expected_of(url: str, questions: list[str]) -> dict[tuple[int, int], str]:
    """What the server says when it is asked for one text at a time."""
    found = {}
    with httpx.Client(timeout=300) as http:
        for place, question in enumerate(questions):
            for seed in range(SEEDS):
                given = {"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "seed": seed}
                answer = http.post(url + "/v1/chat/completions", json=given)
                answer.raise_for_status()
                message = answer.json()["choices"][0]["message"]
                found[place, seed] = (message.get("reasoning_content") or "") + (message["content"] or "")
    return found


class Soak:
    def __init__(self, url: str, questions: list[str], texts: dict[tuple[int, int], str]) -> None:
        self.url, self.questions, self.texts = url, questions, texts
        self.counts: dict[str, int] = dict.fromkeys(("whole", "left", "bad", "votes", "wrong", "busy", "failed"), 0)
        self.first: list[float] = []
        self.wrong: list[str] = []

    async def client(self, number: int, end: float) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(timeout=600) as http:
            while time.monotonic() < end:
                kind = draw.random()
                try:
                    if kind < 0.1:
                        await self.bad(http, draw)
                    elif kind < 0.15:
                        await self.vote(http, draw)
                    else:
                        await self.stream(http, draw, leaves=kind < 0.4)
                except httpx.HTTPError as error:
                    self.counts["failed"] += 1
                    self.wrong.append(f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(draw.random() * 0.05)

    async def bad(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        found = await http.post(self.url + "/v1/chat/completions", json=draw.choice(BAD))
        self.counts["bad"] += 1
        if not 400 <= found.status_code < 500:
            self.note(f"a bad request got {found.status_code}")

    async def vote(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        given = self.body(draw.randrange(QUESTIONS), 1) | {"laconic": {"strategy": "priced-vote", "n": 6}}
        found = await http.post(self.url + "/v1/chat/completions", json=given)
        if found.status_code == 429:
            self.counts["busy"] += 1
            return
        self.counts["votes"] += 1
        if found.status_code != 200 or "laconic" not in found.json():
            self.note(f"a vote got {found.status_code}: {found.text[:100]}")

    def body(self, place: int, seed: int) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": self.questions[place]}], "max_tokens": TOKENS, "seed": seed}

    async def stream(self, http: httpx.AsyncClient, draw: random.Random, leaves: bool) -> None:
        place, seed = draw.randrange(QUESTIONS), draw.randrange(SEEDS)
        after = draw.randrange(1, 60) if leaves else None
        start, text, chunks = time.monotonic(), "", 0
        async with http.stream(
            "POST", self.url + "/v1/chat/completions", json=self.body(place, seed) | {"stream": True}
        ) as r:
            if r.status_code == 429:
                self.counts["busy"] += 1
                return
            async for line in r.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                record = json.loads(line[6:])
                if "error" in record:
                    self.note(f"a stream broke off: {record['error']}"[:200])
                    return
                for choice in record["choices"]:
                    delta = choice["delta"]
                    more = delta.get("reasoning_content") or delta.get("content") or ""
                    if more and not text:
                        self.first.append(time.monotonic() - start)
                    text += more
                chunks += 1
                if after is not None and chunks >= after:
                    self.counts["left"] += 1
                    return
        self.counts["whole"] += 1
        if text.strip() != self.texts[place, seed].replace("</think>", "").strip() and not same(
            text, self.texts[place, seed]
        ):
            self.note(f"question {place}, seed {seed}: {text[:80]!r}")

    def note(self, what: str) -> None:
        self.counts["wrong"] += 1
        self.wrong.append(what)


def same(told: str, text: str) -> bool:
    """But for the mark of thinking and white space around it."""
    return "".join(told.split()) == "".join(text.replace("</think>", "").split())


def at_rest(process: psutil.Process, url: str) -> dict[str, float]:
    """When nothing runs."""
    for _ in range(3000):
        told = httpx.get(url + "/metrics", timeout=60).text
        values = {line.split()[0]: float(line.split()[1]) for line in told.splitlines() if line and line[0] != "#"}
        if values["laconic_requests_running"] == 0 and values["laconic_kv_bytes"] == 0:
            break
        time.sleep(0.1)
    else:
        sys.exit("error: the server did not come to rest in five minutes")
    time.sleep(1.5)
    all_of_it = [process, *process.children(recursive=True)]
    return {
        "processes": len(all_of_it),
        "rss_mib": round(sum(each.memory_info().rss for each in all_of_it) / (1 << 20), 1),
        "threads": sum(each.num_threads() for each in all_of_it),
        "files": sum(each.num_fds() for each in all_of_it),
        "running": values["laconic_requests_running"],
        "kv_bytes": values["laconic_kv_bytes"],
        "generated_tokens": values["laconic_generated_tokens_total"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", default="hf", choices=("hf", "vllm"))
    asked = parser.parse_args()
    if asked.seconds <= 0 or asked.clients < 1:
        parser.error("--seconds and --clients are to be above 0")
    if asked.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        parser.error("vLLM is not installed here; run this with .venv-vllm/bin/python, which make setup-vllm makes")
    from laconic.problems import generate

    questions = [problem.question for problem in generate(QUESTIONS, seed=5)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "laconic",
        "serve",
        "--port",
        str(port),
        "--engine",
        asked.engine,
        "--model",
        "bundled",
    ]
    asked.out.mkdir(parents=True, exist_ok=True)
    with (asked.out / "server.log").open("w") as log:
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        served = subprocess.Popen(command, stderr=log, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    code: int | None = None
    try:
        end = time.monotonic() + START
        while True:
            if time.monotonic() > end:
                sys.exit(f"error: the server is not ready after {START:g} s; {asked.out / 'server.log'} may have why")
            if served.poll() is not None:
                sys.exit(f"error: the server ended with {served.returncode}; {asked.out / 'server.log'} has why")
            try:
                if httpx.get(url + "/health", timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        process = psutil.Process(served.pid)
        texts = expected(questions) if asked.engine == "hf" else expected_of(url, questions)
        soak = Soak(url, questions, texts)

        async def rounds(seconds: float) -> None:
            end = time.monotonic() + seconds
            await asyncio.gather(*(soak.client(number, end) for number in range(asked.clients)))

        asyncio.run(rounds(min(MINUTE, asked.seconds / 4)))
        first = last = at_rest(process, url)
        soak.first.clear()
        left, minutes = asked.seconds - min(MINUTE, asked.seconds / 4), [first["rss_mib"]]
        while left > 0:
            asyncio.run(rounds(min(MINUTE, left)))
            last = at_rest(process, url)
            left -= MINUTE
            minutes.append(last["rss_mib"])
        served.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # then there is no exit code to tell
            code = served.wait(120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # with what it has started
            os.killpg(served.pid, signal.SIGKILL)
    log_lines = (asked.out / "server.log").read_text().splitlines()
    ranked = sorted(soak.first)
    if not ranked:
        sys.exit(
            f"error: no stream told a token in {asked.seconds:g} s: {soak.counts}, {soak.wrong[:3]}; give it more seconds"
        )
    found = {
        **script_environment(__file__),
        "seconds": asked.seconds,
        "clients": asked.clients,
        "engine": asked.engine,
        "requests": soak.counts,
        "first_token_seconds": {
            name: round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3)
            for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
        },
        "after_warm_up": first,
        "at_the_end": last,
        "memory_growth": round(last["rss_mib"] / first["rss_mib"] - 1, 4),
        "rss_mib_by_minute": minutes,
        "exit_code": code,
        "log_lines": len(log_lines),
        "tracebacks": sum("Traceback" in line for line in log_lines),
        "wrong": soak.wrong[:20],
    }
    write_text(asked.out / "results.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key not in ("machine", "versions")}, indent=1))


if __name__ == "__main__":
    main()
