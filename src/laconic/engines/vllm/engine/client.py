"""A running vLLM that other threads can talk to: its AsyncLLM on an event loop in a thread of its own.

It knows requests and tokens, nothing of traces. vLLM computes only while somebody reads, and at most `ahead` tokens a request
before the reader: it is paused otherwise, with every request kept, so that nothing is computed for traces that are about to be
stopped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import multiprocessing
import queue
import tempfile
import time
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from laconic import checks
from laconic.engines.vllm.engine.event_loop import EventLoopThread
from laconic.engines.vllm.engine.failures import failure_reason, is_fault, last_logged_error, start_error
from laconic.engines.vllm.engine.messages import Request, RequestOutput, StepOutput
from laconic.engines.vllm.engine.read_ahead import ReadAhead
from laconic.engines.vllm.engine.start_environment import redirect_output, silence_logger, vllm_environment
from laconic.errors import EngineError, InputError, LaconicError

T = TypeVar("T")

MISSING = (
    "vLLM is not installed: install vllm 0.32.0 beside laconic (docs/vllm.md tells how, with a GPU and without), or use the hf "
    "engine"
)
AHEAD = 16
"""Tokens of a request that vLLM may be ahead of the reader, where nothing is said."""
_PATIENCE = 0.5  # seconds between two looks at whether vLLM still lives
_PATIENCE_AT_START = 60.0  # seconds that a start which is broken off gets to end; importing vLLM alone takes some
_PATIENCE_AT_END = 5.0  # seconds that the loop's thread gets to end
_GRACE = 2.0  # seconds that vLLM's processes get to end by themselves; the CPU worker uses none of them


def check_installed() -> None:
    """InputError where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(MISSING)


class VLLMClient:
    """Starts vLLM, and hands it requests.

    Raises InputError with vLLM's own reason where it refuses the model, an argument or the memory, and EngineError where it
    dies while it starts.

    arguments: vLLM's AsyncEngineArgs. ahead: see the module. log: where vLLM's own output goes; None: nowhere.
    """

    def __init__(self, arguments: dict[str, Any], ahead: int = AHEAD, log: Path | None = None) -> None:
        check_installed()
        self.ahead = checks.whole("ahead", ahead, 1, meaning="tokens")
        self._log: Any = tempfile.TemporaryFile() if log is None else open(log, "w+b")  # noqa: SIM115 - until close()
        # What has come for the reader: steps, or what went wrong in the loop's thread, to be raised in the reader's.
        self._inbox: queue.SimpleQueue[StepOutput | Exception] = queue.SimpleQueue()
        # By request id: where vLLM collects the request's outputs, and how many candidates' log-probabilities are asked for.
        self._collectors: dict[str, tuple[Any, Request]] = {}
        self._closed = False
        self._step_began = time.perf_counter()
        self._prefixes = itertools.count()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        """The engines over this vLLM."""
        self._thread = EventLoopThread("laconic-vllm")
        others = multiprocessing.active_children()
        try:
            with vllm_environment(bool(arguments.get("enforce_eager"))), redirect_output(self._log):
                self._thread.start()  # in here, so that what Python starts for its processes writes to the log too
                try:
                    self.llm: Any = self._run(self._start(arguments))
                except Exception:  # vLLM has given up, and ended what it had begun
                    raise
                except BaseException:
                    self._break_off(others)
                    raise
        except BaseException as error:
            silence_logger()
            said = start_error(error, self._log, arguments["model"]) if isinstance(error, Exception) else None
            self._end()
            if said is None:
                raise
            raise said from None

    @property
    def config(self) -> Any:
        """vLLM's configuration, as it stands after the start."""
        return self.llm.vllm_config

    @property
    def dead(self) -> bool:
        """Whether vLLM has ended by itself, as the next call of it will tell."""
        return not self._closed and bool(self.llm.errored)

    def unique_prefix(self) -> str:
        """A name that no request's id begins with."""
        return f"laconic-{next(self._prefixes)}"

    def add_requests(self, requests: Sequence[Request]) -> None:
        """Hand requests over, in order. Raises InputError if vLLM refuses one, and EngineError if it has died; then none is
        taken."""
        try:
            self._run(self._add(requests))
        except BaseException:
            if not self._closed:
                self.abort(request.id for request in requests)
            raise

    def abort(self, ids: Iterable[str]) -> None:
        """End requests; their blocks are free at the next step. What they still had to say is not received any more."""
        self._run(self._abort(list(ids)))

    def abort_soon(self, ids: Iterable[str]) -> None:
        """`abort`, but without waiting for it: from wherever an engine happens to be collected."""
        self._thread.call(lambda names: self._thread.create_task(self._abort(names)), list(ids))

    def set_reading(self, reading: bool) -> None:
        """Whether somebody reads from now on."""
        self._thread.call(self._read_ahead.set_reading, reading)

    def next_step(self) -> StepOutput:
        """The next step, waited for. Raises EngineError if vLLM has died."""
        while True:
            try:
                step = self._inbox.get(timeout=_PATIENCE)
            except queue.Empty:
                if self.llm.errored:
                    raise self._death() from None
                continue
            if isinstance(step, Exception):
                raise step
            self._thread.call(self._read_ahead.take, len(step.outputs))
            return step

    def last_error(self) -> str:
        """The latest error that vLLM has logged."""
        logged = last_logged_error(self._log)
        return "it gave no reason" if logged is None else logged.reason

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End vLLM and its processes. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        # Anything may come from a vLLM that has died, and it is ended all the same.
        with contextlib.suppress(Exception):
            if self.llm.output_handler is not None:  # it would take the end of the processes for a failure
                self._thread.call(self.llm.output_handler.cancel)
            self.llm.shutdown(timeout=_GRACE)
        self._end()

    # ---- inside the loop's thread -----------------------------------------------------------------------------------

    async def _start(self, arguments: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from laconic.engines.vllm.engine.logits_processors import PROCESSORS

        try:
            engine_args = AsyncEngineArgs(**arguments)
        except TypeError as error:  # an argument that vLLM doesn't have
            raise InputError(f"vLLM can't run {arguments['model']}: {failure_reason(error, self._log)}") from None
        config = engine_args.create_engine_config()
        if self._closed:
            raise EngineError("vLLM's start was broken off")
        config.model_config.logits_processors = [PROCESSORS[config.use_v2_model_runner]]
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[self._listener()], disable_log_stats=True)
        self._read_ahead = ReadAhead(
            llm,
            self.ahead,
            lambda: len(self._collectors),
            on_resume=self._begin_step,
            on_error=self._report_unless_dead,
        )
        await self._read_ahead.pause()
        silence_logger()
        return llm

    def _listener(self) -> Any:
        """A factory of vLLM's statistics loggers, which are called once a step, when its outputs are there to be collected."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        collect = self._collect_step

        class Listener(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
                if scheduler_stats is not None:
                    collect(0 if iteration_stats is None else iteration_stats.num_preempted_reqs)

            def log_engine_initialized(self) -> None:
                pass

        return Listener

    async def _add(self, requests: Sequence[Request]) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        for request in requests:
            prompt = tokens_input(list(request.tokens))
            try:
                collector = await self.llm.add_request(request.id, prompt, request.sampling_params())
            except EngineDeadError:
                raise self._death() from None
            except (ValueError, VLLMClientError) as error:  # how vLLM refuses a request
                # Our own hooks run in there: their sentences stay as they are, and so does a fault of theirs.
                if isinstance(error, LaconicError) or is_fault(error):
                    raise
                raise InputError(f"vLLM refused a request: {failure_reason(error, self._log)}") from None
            self._collectors[request.id] = collector, request

    async def _abort(self, ids: list[str]) -> None:
        for name in ids:
            self._collectors.pop(name, None)
        await self.llm.abort(ids)

    def _begin_step(self) -> None:
        self._step_began = time.perf_counter()

    def _collect_step(self, preempted: int) -> None:
        """Put what a step brought into the inbox."""
        try:
            step = self._step_output(preempted)
        except Exception as error:  # a fault of ours: vLLM would log it and stop, and it would pass for vLLM's death
            self._inbox.put(error)
            raise
        self._inbox.put(step)
        self._begin_step()
        self._read_ahead.add(len(step.outputs))

    def _step_output(self, preempted: int) -> StepOutput:
        seconds = time.perf_counter() - self._step_began
        outputs = []
        for name, (collector, request) in list(self._collectors.items()):
            try:
                out = collector.get_nowait()
            except Exception:  # what vLLM died of, kept by each of its collectors; `next_step` tells of it
                del self._collectors[name]
                continue
            if out is None:
                continue
            outputs.append(RequestOutput.of(request, out))
            if out.finished:
                del self._collectors[name]
        return StepOutput(tuple(outputs), preempted, seconds)

    def _report_unless_dead(self, error: Exception) -> None:
        if not self.llm.errored:  # else `next_step` tells of vLLM's death, whatever it looked like here
            self._inbox.put(error)

    # ---- from outside -----------------------------------------------------------------------------------------------

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            coroutine.close()
            raise InputError("this engine is closed: make a new one")
        return self._thread.run(coroutine)

    def _death(self) -> EngineError:
        return EngineError(f"vLLM has died: {self.last_error()}; start the engine again")

    def _break_off(self, others: Sequence[BaseProcess]) -> None:
        """End a start: an interrupted one goes on in its thread until its processes are gone, and would print what it sees.

        others: processes that ran before.
        """
        self._closed = True
        until = time.monotonic() + _PATIENCE_AT_START
        while self._thread.is_alive() and time.monotonic() < until:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()
            self._thread.stop(0.2)

    def _end(self) -> None:
        self._closed = True
        self._thread.stop(_PATIENCE_AT_END)
        self._log.close()
