"""Votes over stock vLLM's own servers: one, two, and two of which one is killed in the middle. Does every verdict come?

    .venv-vllm/bin/python benchmarks/two_servers.py --out benchmarks/two-servers

Each way asks the same problems with the same seeds, all at once: a vote of n traces each. Both servers run on this machine and
share its cores, so tokens/s say nothing of two machines; what counts is that the verdicts are the same and that none is lost.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from laconic.answers.extraction import answer_of
from laconic.assets import reasoner_path
from laconic.engines.base import Sampling
from laconic.engines.openai import OpenAIEngine
from laconic.environment import machine, versions
from laconic.files import write_text
from laconic.problems import generate

START = 300.0  # seconds that a server may take to load


class StockServer:
    """vLLM's own server of the bundled reasoner; laconic is installed beside it and changes nothing that it is not asked to."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.log, self.url = log, f"http://127.0.0.1:{port}/v1"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(reasoner_path())]
        command += ["--served-model-name", "small", "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(64 << 20)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)

    def wait(self) -> None:
        """Until it answers. Ends this program with its log where it doesn't."""
        end = time.monotonic() + START
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/models", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        sys.exit(f"error: vLLM's server did not start:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """At once, with all its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def votes(
    urls: list[str], questions: list[str], n: int, tokens: int, victim: StockServer | None = None
) -> dict[str, Any]:
    """All problems at once over these servers, each a plain vote of n traces. victim: is killed after a third of the tokens."""
    sampling = Sampling(max_new_tokens=tokens, temperature=1.0, top_p=0.95, seed=7)
    with OpenAIEngine(urls, max_batch=n * len(questions)) as engine:
        start = time.perf_counter()
        ids = [engine.submit(engine.render(question), sampling, n) for question in questions]
        came, killed = 0, None
        for chunk in engine.stream():
            came += len(chunk.token_ids)
            if victim is not None and killed is None and came >= tokens * n * len(questions) // 6:
                killed = round(time.perf_counter() - start, 2)
                victim.kill()
        seconds = time.perf_counter() - start
        traces = [[engine.trace(name) for name in names] for names in ids]
        computed = engine.stats.generated_tokens
    counts = [Counter(answer_of(trace) for trace in row) for row in traces]
    return {
        "servers": len(urls),
        "killed_after_seconds": killed,
        "seconds": round(seconds, 2),
        "tokens": computed,
        "tokens_per_second": round(computed / seconds, 1),
        "unfinished": sum(trace.finish_reason not in ("stop", "length") for row in traces for trace in row),
        "verdicts": [max(count, key=lambda answer: (count[answer], str(answer))) for count in counts],
        "texts": [[trace.text for trace in row] for row in traces],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if min(asked.problems, asked.n, asked.tokens) < 1:
        parser.error("--problems, --n and --tokens are counts; expected at least 1 of each")
    if importlib.util.find_spec("vllm") is None:
        parser.error("vLLM is not installed here; run this with .venv-vllm/bin/python, which make setup-vllm makes")
    questions = [problem.question for problem in generate(asked.problems, seed=5, level=6)]
    with tempfile.TemporaryDirectory() as logs:
        servers = [StockServer(Path(logs) / f"{number}.log") for number in range(2)]
        try:
            for server in servers:
                server.wait()
            urls = [server.url for server in servers]
            votes(urls, questions[:1], 2, 20)  # what is made once
            runs = {
                "one": votes(urls[:1], questions, asked.n, asked.tokens),
                "two": votes(urls, questions, asked.n, asked.tokens),
                "two, one killed": votes(urls, questions, asked.n, asked.tokens, victim=servers[0]),
            }
        finally:
            for server in servers:
                server.kill()
    alone = runs["one"]
    for name, run in runs.items():
        pairs = [
            (a, b)
            for one, other in zip(alone["texts"], run["texts"], strict=True)
            for a, b in zip(one, other, strict=True)
        ]
        run["equal_texts"] = sum(a == b for a, b in pairs)
        run["of_texts"] = len(pairs)
        run["equal_verdicts"] = sum(a == b for a, b in zip(alone["verdicts"], run["verdicts"], strict=True))
        print(
            f"{name}: {run['tokens']:,} tokens in {run['seconds']} s, {run['equal_verdicts']} of {len(questions)} verdicts and "
            f"{run['equal_texts']} of {len(pairs)} texts as over one server, {run['unfinished']} unfinished"
        )
    for run in runs.values():
        del run["texts"]
    told = {
        "machine": machine(),
        "versions": versions(),
        "command": "python benchmarks/two_servers.py " + " ".join(sys.argv[1:]),
        "problems": asked.problems,
        "n": asked.n,
        "max_new_tokens": asked.tokens,
        "runs": runs,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "results.json", json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
