"""The process that asks math-verify: started when first needed, kept, killed when a pair takes too long.

sympy can compute for hours, in C code that no exception gets into, and math-verify's own time limit works in a main
thread only. So a process: plain pipes and JSON lines, rather than multiprocessing, whose children import the caller's
main module (and with it, often, torch), and which needs a guard there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading

from laconic.errors import InputError

CPU_SECONDS = 3.0  # for one pair. Computing time, so that a busy machine doesn't change what is equivalent to what
_PATIENCE = 20  # times the limit by the clock, for a process that waits instead of computing
_START_SECONDS = 120.0
_MODULE = "laconic.answers.verifier"


class MathVerifyProcess:
    """One process of `laconic.answers.verifier`. Threads take turns; after a fork the child starts its own."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        if not cpu_seconds > 0:
            raise InputError(f"cpu_seconds is {cpu_seconds}; expected a number above 0")
        self.cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return self._process.pid if self._process else None

    def ask(self, a: str, b: str) -> bool | None:
        """Whether math-verify finds a and b the same, asked both ways; None: out of time, or the process died of it.

        Raises InputError if the process can't be started.
        """
        request = json.dumps([self.cpu_seconds, a, b]).encode() + b"\n"
        with self._lock:
            try:
                reply = self._exchange(request, self.cpu_seconds * _PATIENCE)
            except BaseException:
                # Interrupted in between: a late reply would be taken for the next pair's.
                self._drop()
                raise
            if reply not in (b"1\n", b"0\n"):
                if not reply.endswith(b"\n"):
                    self._drop()
                return None
            return reply == b"1\n"

    def close(self) -> None:
        """End the process, if there is one. The next `ask` starts another."""
        with self._lock:
            self._drop()

    def forget(self) -> None:
        """In a forked child: leave the process to the parent, and start our own when needed."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process:
            _close_pipes(process)
            process.returncode = 0  # it is not this process's child: neither wait for it nor warn that it runs

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            _write(self._process, request)
        except BrokenPipeError:  # it died since, of something else than this pair
            self._start()
            _write(self._process, request)
        return _read(self._process, seconds)

    def _start(self) -> None:
        self._drop()
        # Our search path, since it may have been changed; a fixed hash seed, since sympy's results can depend on an order.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        try:
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                # Ctrl-C in a terminal goes to the whole group, and the verdict so far still needs its votes counted.
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"the process that compares answers can't start ({error}); is {sys.executable!r} Python?"
            ) from error
        atexit.unregister(self.close)
        atexit.register(self.close)
        greeting = _read(self._process, _START_SECONDS)
        if greeting != b"ready\n":
            self._drop()
            said = greeting.decode(errors="replace").strip() or "it ended without a word"
            raise InputError(
                f"the process that compares answers can't start ({said}); reinstall laconic with its dependencies"
            )

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            _close_pipes(process)


def _write(process: subprocess.Popen[bytes] | None, line: bytes) -> None:
    assert process is not None
    assert process.stdin is not None
    view = memoryview(line)
    while view:
        view = view[process.stdin.write(view) :]


def _read(process: subprocess.Popen[bytes] | None, seconds: float) -> bytes:
    """One line; without its end if the process ended, or was killed for taking longer than ``seconds``."""
    assert process is not None
    assert process.stdout is not None
    overdue = threading.Timer(seconds, process.kill)
    overdue.daemon = True
    overdue.start()
    try:
        return process.stdout.readline()
    finally:
        overdue.cancel()
        overdue.join()  # so that it can't fire into the next pair


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
