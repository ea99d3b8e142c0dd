"""A vLLM engine in another process: started, asked, stopped. What goes wrong there becomes one sentence here, and a fault of
laconic's a traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from laconic.engines.vllm.engine.start_environment import ENVIRONMENT
from laconic.errors import EngineError, InputError
from laconic.lab.vllm.load import RequestLoad

COMMAND = (sys.executable, "-m", "laconic.lab.vllm.worker")
PATIENCE = 20.0
"""Seconds that a process gets to end by itself."""


class WorkerFailed(EngineError):
    """An engine that didn't start, failed at a run or died; the message is the reason. refused: it said that it can't do it."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Worker:
    """A context manager: the process ends with it.

    options: of `vllm.LLM`. compresses: whether they ask for laconic. threads: of OpenMP. Starting
    takes 10 to 30 s, in which vLLM measures free memory: start one at a time. `about` is what the engine says of itself.

    Raises WorkerFailed with vLLM's own reason.
    """

    def __init__(self, options: dict[str, Any], load: RequestLoad, compresses: bool, threads: int = 1) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        # A group of its own, so that an interruption reaches only the process that decides what to do about it.
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(threads),
            start_new_session=True,
            text=True,
        )
        try:
            order = {"options": options, "compresses": compresses, "load": dataclasses.asdict(load)}
            self.about = self._ask(order, "ready")
        except BaseException:
            self.close()
            raise

    def run(self, load: RequestLoad, repeat: int) -> dict[str, Any]:
        """One timed run. Raises WorkerFailed."""
        return self._ask({"load": dataclasses.asdict(load), "repeat": repeat}, "done")

    def close(self) -> None:
        """End the process: asked first, made to after `PATIENCE` seconds."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, order: dict[str, Any], word: str) -> dict[str, Any]:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line.endswith("\n"):
            raise WorkerFailed(self._died())
        said: dict[str, Any] = json.loads(line)
        if word not in said:
            kind, reason = next(iter(said.items()))
            if kind == "fault":
                raise RuntimeError(f"in the engine's process:\n{reason}")
            raise WorkerFailed(reason, kind == "refused")
        return dict(said[word])

    def _died(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        code = self._process.returncode
        if code is not None and code < 0:
            how = f"the engine's process was ended by {signal.Signals(-code).name}"
            return how + (
                ", which is how the system ends one that takes too much memory" if code == -signal.SIGKILL else ""
            )
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"the engine's process ended (exit code {code}){': ' + lines[-1] if lines else ''}"


def environment(threads: int) -> dict[str, str]:
    """The process's variables: one engine a process, as many OpenMP threads as said, none of them tied to a core.

    vLLM would tie the threads of all engines to the same cores, and the engines of a cell wait side by side.
    """
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        **ENVIRONMENT,
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def check_installed() -> None:
    """Raises InputError where vLLM isn't in this environment; doesn't load it."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "vLLM is not installed beside laconic; install laconic-llm[vllm] (docs/vllm.md says how, also without a GPU)"
        )
