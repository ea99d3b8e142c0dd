"""What HTTP costs: the same traces from the engine in this process and from a server of it, in turns.

    python benchmarks/serve_speed.py --out benchmarks/serve-speed

Each round decodes as many traces as there are clients, once by `HFEngine.generate` and once by as many clients that stream them
from `laconic serve`, another first each time. Server and clients share this machine, as the engine alone does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from laconic.environment import script_environment
from laconic.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()

    from laconic.assets import reasoner_path
    from laconic.engines.base import Sampling
    from laconic.engines.hf import HFEngine, load
    from laconic.problems import generate

    small = asked.model == "bundled"
    if small:
        import torch

        torch.set_num_threads(1)  # as the server does for it
    questions = [problem.question for problem in generate(asked.clients, seed=5, level=8)]
    model, tokenizer = load(str(reasoner_path()) if small else asked.model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "laconic", "serve", "--port", str(port), "--model", asked.model]
    command += ["--batch", str(asked.clients)]
    served = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def engine(seed: int) -> tuple[int, float]:
        made = HFEngine(model, tokenizer, max_batch=asked.clients)
        sampling = Sampling(max_new_tokens=asked.tokens, temperature=1.0, top_p=0.95, seed=seed)
        start = time.perf_counter()
        ids = [made.submit(made.render(question), sampling)[0] for question in questions]
        for _ in made.stream():
            pass
        return sum(len(made.trace(name).token_ids) for name in ids), time.perf_counter() - start

    async def client(http: httpx.AsyncClient, question: str, seed: int) -> int:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": asked.tokens,
            "seed": seed,
        }
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        tokens = 0
        async with http.stream("POST", url + "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if '"completion_tokens"' in line:
                    tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        return tokens

    def server(seed: int) -> tuple[int, float]:
        async def all_of_them() -> int:
            limits = httpx.Limits(max_connections=asked.clients)
            async with httpx.AsyncClient(timeout=600, limits=limits) as http:
                return sum(await asyncio.gather(*(client(http, question, seed) for question in questions)))

        start = time.perf_counter()
        return asyncio.run(all_of_them()), time.perf_counter() - start

    samples: list[dict[str, float]] = []
    try:
        while True:
            try:
                if httpx.get(url + "/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        engine(0)  # what is made once
        server(0)
        for number in range(asked.rounds):
            found: dict[str, float] = {}
            for name, run in (("engine", engine), ("server", server))[:: 1 if number % 2 else -1]:
                tokens, seconds = run(number)
                found[name], found[f"{name}_tokens"] = round(tokens / seconds, 1), tokens
            found["ratio"] = round(found["server"] / found["engine"], 3)
            samples.append(found)
            print(json.dumps(found), flush=True)
    finally:
        served.terminate()
        served.wait(60)
    told = {
        **script_environment(__file__),
        "clients": asked.clients,
        "tokens": asked.tokens,
        "rounds": samples,
        "ratio": statistics.median(each["ratio"] for each in samples),
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "results.json", json.dumps(told, indent=1) + "\n")
    print(f"server to engine: {told['ratio']:.3f}")


if __name__ == "__main__":
    main()
