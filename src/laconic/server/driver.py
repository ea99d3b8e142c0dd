"""The one thread that drives the engine: jobs come in by a bounded queue, and every chunk goes to the job whose it is.

Between two chunks it does what others asked for (begin a job, let go of one, read a trace), so nothing of the engine is ever
touched by two threads.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import EngineError, LaconicError
from laconic.server.asks import AskError
from laconic.server.jobs import Job, ModelToServe

State = Literal["loading", "ready", "failed", "draining", "stopped"]
T = TypeVar("T")
IDLE_ENGINES = 4  # under policies that nobody uses now, kept for the next request
CLOCK = 0.25  # seconds between two looks at the time limits
COMMANDS_WITHIN = 0.1  # seconds for which an engine may wait for servers of others, which can be silent for minutes
log = logging.getLogger("laconic.server")


class BusyError(AskError):
    """Too many requests: come again after some seconds."""

    def __init__(self, most: int, seconds: int = 1) -> None:
        super().__init__(
            f"{most} requests are being worked on, the most that this server takes at once; try again in a moment",
            code="rate_limit_exceeded",
            status=429,
        )
        self.seconds = seconds


class NotReadyError(AskError):
    """Nothing can be asked of the server now."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="server_not_ready", status=503)


class EngineDriver:
    """Serves one model. most: jobs at once, those included that wait for room in the engine's batch."""

    def __init__(self, model: ModelToServe, most: int) -> None:
        self.model, self.most = model, most
        self.state: State = "loading"
        self.why = ""
        """Why it failed."""
        self.on_done: Callable[[Job], None] = lambda job: None
        """Called in the engine's thread when a job is over."""
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0  # jobs that were taken and are not over
        self._lock = threading.Lock()
        self._jobs: dict[EngineView, Job] = {}
        self._engines: dict[str, SharedEngine] = {}
        self._looked = 0.0
        self.live_kv_bytes = 0
        """Held by all engines, as of a moment ago."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="laconic-engine", daemon=True)

    # ---- from any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def wait_ready(self, seconds: float | None = None) -> bool:
        """Until the model is loaded or has failed to. False: neither yet."""
        return self._ready.wait(seconds)

    def submit(self, job: Job) -> None:
        """Take a job. Raises BusyError or NotReadyError; what else is wrong with it, its mailbox tells."""
        if self.state == "loading":
            raise NotReadyError("the model is being loaded; try again in a moment")
        if self.state != "ready":
            why = self.why or "it is shutting down"
            raise NotReadyError(f"the server takes no requests: {why}")
        with self._lock:
            if self._count >= self.most:
                raise BusyError(self.most)
            self._count += 1
        self._commands.put(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: its traces stop before the next step, and what it still tells is not kept."""
        job.mailbox.close()
        self._commands.put(lambda: self._drop(job))

    def end_early(self, job: Job, reason: str) -> None:
        """Tell what there is of it, and stop."""
        self._commands.put(lambda: self._end_early(job, reason))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the engine's thread."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        if self.state == "stopped":
            future.set_exception(NotReadyError("the server has stopped"))
        else:
            self._commands.put(run)
        return future

    @property
    def running(self) -> int:
        """Jobs that were taken and are not over."""
        return self._count

    def drain(self) -> None:
        """Take no more jobs; those that run go on."""
        if self.state in ("ready", "loading"):
            self.state = "draining"

    def stop(self, seconds: float = 30.0) -> None:
        """End now, whatever runs."""
        self.state = "draining"
        self._commands.put(self._stop)
        if self._thread.is_alive():
            self._thread.join(seconds)

    # ---- in the engine's thread ------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self.model.open()
            if self.state == "loading":
                self.state = "ready"
        except BaseException as error:
            self.state, self.why = "failed", _sentence(error)
            log.error("the model could not be loaded: %s", self.why)
        self._ready.set()
        while self.state != "stopped":
            self._do_commands()
            if not self._step() and self.state != "stopped":
                try:
                    self._commands.get(timeout=1.0)()
                except queue.Empty:
                    pass
                except Exception:
                    log.exception("a command failed")

    def _do_commands(self) -> None:
        while not self._commands.empty():
            try:
                self._commands.get_nowait()()
            except Exception:
                log.exception("a command failed")

    def _step(self) -> bool:
        """A chunk of each engine that has something to do. False: none has."""
        worked = False
        for shared in list(self._engines.values()):
            if not shared.busy:
                continue
            worked = True
            try:
                views = shared.step()
            except BaseException as error:
                self._give_up(shared, error)
                continue
            for view in views:
                job = self._jobs.get(view)
                if job is not None:
                    self._advance(job)
        now = time.monotonic()
        if now - self._looked > CLOCK:
            self._looked = now
            self.live_kv_bytes = sum(shared.engine.live_kv_bytes for shared in self._engines.values())
            for job in [job for job in self._jobs.values() if now > job.deadline]:
                self._end_early(job, "the time limit of this server was reached")
        return worked

    def _begin(self, job: Job) -> None:
        if job.over:  # its client has gone meanwhile
            self._settle(job)
            return
        try:
            chosen = self.model.choose(job.ask.method)
            job.begin(self.model, chosen, self._shared(chosen.policy))
            if not job.over and job.view is not None:
                self._jobs[job.view] = job
        except BaseException as error:
            self._failed(job, error)
        if job.over:
            self._settle(job)

    def _shared(self, policy: Any) -> SharedEngine:
        spec = "" if self.model.per_request else policy.spec()
        if self.model.per_request:
            self.model.engine(policy)  # refuses one that can't be, before anything is touched
        shared = self._engines.pop(spec, None)
        if shared is None:
            idle = [name for name, each in self._engines.items() if not each.busy]
            for name in idle[: max(0, len(idle) - IDLE_ENGINES + 1)]:
                self._engines.pop(name).close()
            engine = self.model.engine(policy)
            engine.longest_wait = COMMANDS_WITHIN
            shared = SharedEngine(engine)
        self._engines[spec] = shared  # the latest stands last
        return shared

    def _advance(self, job: Job) -> None:
        try:
            job.advance()
        except BaseException as error:
            self._failed(job, error)
        if job.over:
            self._settle(job)

    def _end_early(self, job: Job, reason: str) -> None:
        if job.over:
            return
        try:
            job.end_early(reason)
        except BaseException as error:
            self._failed(job, error)
        if job.over:
            self._settle(job)

    def _failed(self, job: Job, error: BaseException) -> None:
        if not isinstance(error, LaconicError):
            log.exception("request %s failed", job.id, exc_info=error)
        job.fail(error)

    def _drop(self, job: Job) -> None:
        if not job.over:
            job.release()
            self._settle(job)

    def _settle(self, job: Job) -> None:
        """A job is over."""
        if job.settled:
            return
        job.settled = True
        if job.view is not None:
            self._jobs.pop(job.view, None)
        try:
            self.on_done(job)
        except Exception:
            log.exception("what follows a request failed")
        with self._lock:  # last: where no job is left, all are counted
            self._count -= 1

    def _give_up(self, shared: SharedEngine, error: BaseException) -> None:
        """The engine can't go on: its jobs fail. One that has died takes the server with it."""
        log.error("the engine failed: %s", _sentence(error))
        if not isinstance(error, LaconicError):
            log.exception("in a step", exc_info=error)
            error = EngineError(f"the engine failed in a step ({type(error).__name__}: {error})")
        jobs = [job for view, job in self._jobs.items() if view._shared is shared]
        for job in jobs:
            job.fail(error)
            self._settle(job)
        try:
            shared.fail()
        except BaseException as again:
            self.state, self.why = "failed", _sentence(again)
        if isinstance(error, EngineError) and self.model.dead():
            self.state, self.why = "failed", _sentence(error)

    def _stop(self) -> None:
        for job in list(self._jobs.values()):
            job.fail(NotReadyError("the server is shutting down"))
            self._settle(job)
        for shared in self._engines.values():
            shared.close()
        self._engines.clear()
        self.state = "stopped"
        while not self._commands.empty():
            self._commands.get_nowait()()
        self.model.close()


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, LaconicError) else f"{type(error).__name__}: {error}"
