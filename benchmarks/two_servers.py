"""`laconic solve` over stock vLLM's own servers: one, two, and two of which one is killed in the middle: do all verdicts come?

    .venv-vllm/bin/python benchmarks/two_servers.py --out benchmarks/two-servers

Each way asks the same problems with the same seeds, one after another: a plain vote of n traces each. In the last way the first
server and all its processes are killed (SIGKILL) in the middle of one problem's vote, once it has generated a number of tokens
for it; the problems behind that one are asked with its address still given. Both servers run on this machine and share its
cores, so seconds say nothing of two machines; what counts is that each command ends in a verdict, and whether it is the same.

Results are written after every problem. The servers' own output is beside them.
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
from pathlib import Path
from typing import Any

import httpx

from laconic.assets import reasoner_path
from laconic.environment import script_environment
from laconic.files import write_text
from laconic.problems import generate

START = 300.0  # seconds that a server may take to load
LONGEST = 600.0  # seconds of one vote
SEED = 7
COUNTED = "vllm:generation_tokens_total"


class StockServer:
    """vLLM's own server of the bundled reasoner; laconic is installed beside it and changes nothing that it is not asked to."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.log, self.root = log, f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(reasoner_path())]
        command += ["--served-model-name", "small", "--port", str(port), "--host", "127.0.0.1", "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(64 << 20)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

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

    def generated(self) -> float:
        """Tokens since its start, as it counts them itself."""
        lines = httpx.get(f"{self.root}/metrics", timeout=30).text.splitlines()
        counts = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(COUNTED)]
        if not counts:
            sys.exit(f"error: {self.root}/metrics has no {COUNTED}; this needs vLLM 0.32.0")
        return sum(counts)

    def kill(self) -> None:
        """At once, with all its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def solve(
    urls: list[str], question: str, n: int, tokens: int, victim: StockServer | None = None, after: int = 0
) -> dict[str, Any]:
    """One problem by the command line. victim: is killed when it has generated `after` tokens for it."""
    command = [sys.executable, "-m", "laconic", "solve", question, "--engine", f"openai:{','.join(urls)}"]
    command += ["--model", "small", "--strategy", "self-consistency", "--n", str(n), "--seed", str(SEED)]
    command += ["--max-new-tokens", str(tokens), "--temperature", "1", "--top-p", "0.95", "--json"]
    before = 0.0 if victim is None else victim.generated()
    start, killed = time.perf_counter(), None
    # Files, not pipes: nobody reads while it is watched, and a verdict may be larger than a pipe holds.
    with tempfile.TemporaryFile("w+") as out_file, tempfile.TemporaryFile("w+") as err_file:
        process = subprocess.Popen(command, stdout=out_file, stderr=err_file)
        try:
            while victim is not None and killed is None and process.poll() is None:
                if victim.generated() - before >= after:
                    killed = round(time.perf_counter() - start, 2)
                    victim.kill()
                else:
                    time.sleep(0.02)
            process.wait(LONGEST)
        finally:
            process.kill()
        seconds = round(time.perf_counter() - start, 2)
        out_file.seek(0)
        err_file.seek(0)
        out, err = out_file.read(), err_file.read()
    if victim is not None and killed is None:
        sys.exit(f"error: the vote ended before the server was to be killed; lower --after, which is {after}\n{err}")
    found: dict[str, Any] = {
        "exit_code": process.returncode,
        "seconds": seconds,
        "killed_after_seconds": killed,
    }
    if process.returncode not in (0, 1):  # 1: no trace gave an answer, which is a verdict too
        return {**found, "error": err[-2000:]}
    told = json.loads(out)
    fates = [trace["fate"] for trace in told["traces"]]
    return {
        **found,
        "answer": told["answer"],
        "votes": told["votes"],
        "tokens": told["tokens"]["generated"],
        "fates": {fate: fates.count(fate) for fate in sorted(set(fates))},
        "said": err.strip()[-1000:] if killed is not None else "",
        "texts": [trace["text"] for trace in told["traces"] if trace["fate"] == "finished"],
    }


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each way against the first, over the problems that both have."""
    found = {}
    for name, rows in runs.items():
        pairs = list(zip(runs["one"], rows, strict=False))
        whole = [(a, b) for a, b in pairs if "error" not in a and "error" not in b]
        found[name] = {
            "problems": len(rows),
            "verdicts": sum("error" not in row for row in rows),
            "equal_answers": sum(a["answer"] == b["answer"] for a, b in whole),
            "equal_texts": sum(len(set(a["texts"]) & set(b["texts"])) for a, b in whole),
            "of_texts": sum(len(set(b["texts"])) for _, b in whole),
            "tokens": sum(row.get("tokens", 0) for row in rows),
            "seconds": round(sum(row["seconds"] for row in rows), 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=700)
    parser.add_argument("--after", type=int, default=100, help="tokens of one vote after which its server is killed")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if min(asked.problems, asked.n, asked.tokens, asked.after) < 1:
        parser.error("--problems, --n, --tokens and --after are counts; expected at least 1 of each")
    if importlib.util.find_spec("vllm") is None:
        parser.error("vLLM is not installed here; run this with .venv-vllm/bin/python, which make setup-vllm makes")
    questions = [str(problem.question) for problem in generate(asked.problems, seed=5, level=6)]
    asked.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {"one": [], "two": [], "two, one killed": []}
    middle = len(questions) // 2

    def write() -> None:
        told = {
            **script_environment(__file__),
            "n": asked.n,
            "max_new_tokens": asked.tokens,
            "seed": SEED,
            "killed_at_problem": middle,
            "killed_after_tokens": asked.after,
            "ways": compared(runs),
            "runs": {
                name: [{k: v for k, v in row.items() if k != "texts"} for row in rows] for name, rows in runs.items()
            },
        }
        write_text(asked.out / "results.json", json.dumps(told, indent=1) + "\n")

    servers: list[StockServer] = []
    try:
        servers += [StockServer(asked.out / f"server-{number}.log") for number in range(2)]
        for server in servers:
            server.wait()
        urls = [server.url for server in servers]
        for name, rows in runs.items():
            for place, question in enumerate(questions):
                dies = name == "two, one killed" and place == middle
                given = urls[:1] if name == "one" else urls
                rows.append(
                    solve(
                        given, question, asked.n, asked.tokens, servers[0] if dies else None, asked.after if dies else 0
                    )
                )
                write()
                row = rows[-1]
                print(
                    f"{name}, problem {place}: exit code {row['exit_code']}, {row['seconds']} s, answer {row.get('answer')}"
                )
    finally:
        for server in servers:
            server.kill()
    for name, way in compared(runs).items():
        print(
            f"{name}: {way['verdicts']} verdicts of {way['problems']}, {way['equal_answers']} answers and {way['equal_texts']} "
            f"of {way['of_texts']} finished texts as over one server, {way['tokens']:,} tokens in {way['seconds']} s"
        )
    if any(way["verdicts"] < way["problems"] for way in compared(runs).values()):
        sys.exit(f"error: some votes came to no verdict; {asked.out / 'results.json'} has why")


if __name__ == "__main__":
    main()
