"""A running vLLM that other threads can talk to: its AsyncLLM on an event loop in a thread of its own.

It knows requests and tokens, nothing of traces. vLLM computes only while somebody reads, and at most `ahead` tokens a request
before the reader: it is paused otherwise, with every request kept, so that nothing is computed for traces that are about to be
stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import math
import multiprocessing
import queue
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from laconic import checks
from laconic.engines.vllm.engine import quiet
from laconic.engines.vllm.plugin.interrupts import block_interrupts_for_children
from laconic.errors import InputError, LaconicError

MISSING = (
    "vLLM is not installed: install vllm 0.32.0 beside laconic (docs/vllm.md tells how, with a GPU and without), or use the hf "
    "engine"
)
AHEAD = 16
_PATIENCE = 0.5  # seconds between two looks at whether vLLM still lives
_PATIENCE_AT_START = 60.0  # seconds that a start which is broken off gets to end; importing vLLM alone takes some
_LAST = 1.0  # seconds that the loop's tasks get to end once cancelled
_GRACE = 2.0  # seconds that vLLM's processes get to end by themselves; the CPU worker uses none of them


@dataclass(frozen=True, slots=True)
class Request:
    """tokens: what is sent, prompt and tokens generated before. stop_ids: tokens that end it. extra_args: vLLM's field."""

    id: str
    tokens: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int]
    logprobs: int
    extra_args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What a step brought one request. logprobs: mean log-probability of the likeliest candidates, a token each, if asked for.

    cached: of the tokens sent, those whose KV vLLM already had. ended: why it has ended, in vLLM's word; None: it goes on.
    """

    id: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int
    ended: str | None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step of vLLM brought. preempted: requests whose cache was given up for others. seconds: it took."""

    outputs: tuple[RequestOutput, ...]
    preempted: int
    seconds: float


def check_installed() -> None:
    """InputError where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(MISSING)


class VLLMClient:
    """Starts vLLM; raises InputError with vLLM's own reason where it can't.

    arguments: vLLM's AsyncEngineArgs. ahead: see the module. log: where vLLM's own output goes; None: nowhere.
    """

    def __init__(self, arguments: dict[str, Any], ahead: int = AHEAD, log: Path | None = None) -> None:
        check_installed()
        self.ahead = checks.whole("ahead", ahead, 1, meaning="tokens")
        self._log: Any = tempfile.TemporaryFile() if log is None else open(log, "w+b")  # noqa: SIM115 - until close()
        self._inbox: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self._collectors: dict[str, tuple[Any, int]] = {}
        self._unread = 0
        self._reading = self._paused = self._dead = self._closed = False
        self._switching: asyncio.Task[None] | None = None
        self._last = time.perf_counter()
        self._names = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="laconic-vllm", daemon=True)
        others = multiprocessing.active_children()
        try:
            with quiet.environment(bool(arguments.get("enforce_eager"))), quiet.output_into(self._log):
                self._thread.start()  # in here, so that what Python starts for its processes writes to the log too
                try:
                    self.llm: Any = self._ask(self._start(arguments))
                except Exception:  # vLLM has given up, and ended what it had begun
                    raise
                except BaseException:
                    self._break_off(others)
                    raise
        except BaseException as error:
            quiet.hush()
            why = "" if isinstance(error, LaconicError) else quiet.reason(error, self._log)
            self._end()
            if not why or not isinstance(error, Exception):
                raise
            raise InputError(f"vLLM can't run {arguments['model']}: {why}") from None

    @property
    def config(self) -> Any:
        """vLLM's configuration, as it stands after the start."""
        return self.llm.vllm_config

    def unique_prefix(self) -> str:
        """A name that no request's id begins with."""
        return f"laconic-{next(self._names)}"

    def add_requests(self, requests: Sequence[Request]) -> None:
        """Hand requests over, in order. Raises InputError if vLLM refuses one; then none is taken."""
        try:
            self._ask(self._add(requests))
        except LaconicError:
            raise
        except Exception as error:
            self.abort(request.id for request in requests)
            raise InputError(f"vLLM refused a request: {quiet.reason(error, self._log)}") from None

    def abort(self, ids: Iterable[str]) -> None:
        """End requests; their blocks are free at the next step. What they still had to say is not received any more."""
        self._ask(self._abort(list(ids)))

    def abort_soon(self, ids: Iterable[str]) -> None:
        """`abort`, but without waiting for it: from wherever an engine happens to be collected."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda names: self._loop.create_task(self._abort(names)), list(ids))

    def set_reading(self, reading: bool) -> None:
        """Whether somebody reads from now on."""
        self._reading = reading
        with contextlib.suppress(RuntimeError):  # closed meanwhile: the end of the program closes it before a stream
            self._loop.call_soon_threadsafe(self._steer)

    def next_step(self) -> StepOutput:
        """The next step, waited for. Raises InputError if vLLM has died."""
        while True:
            try:
                step = self._inbox.get(timeout=_PATIENCE)
            except queue.Empty:
                if self.llm.errored:
                    raise InputError(f"vLLM has died: {self.last_error()}; start the engine again") from None
                continue
            self._loop.call_soon_threadsafe(self._took, len(step.outputs))
            return step

    def last_error(self) -> str:
        """The latest error that vLLM has logged."""
        return quiet.last_error(self._log) or "it gave no reason"

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End vLLM and its processes. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(Exception):
            if self.llm.output_handler is not None:  # it would take the end of the processes for a failure
                self._loop.call_soon_threadsafe(self.llm.output_handler.cancel)
            self.llm.shutdown(timeout=_GRACE)
        self._end()

    # ---- inside the loop's thread -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        block_interrupts_for_children()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)  # vLLM's own, cancelled by its shutdown or forgotten by it
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=_LAST))
        self._loop.close()

    async def _start(self, arguments: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from laconic.engines.vllm.engine.logits_processors import PROCESSORS

        config = AsyncEngineArgs(**arguments).create_engine_config()
        if self._closed:
            raise InputError("vLLM's start was broken off")
        config.model_config.logits_processors = [PROCESSORS[config.use_v2_model_runner]]
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[self._listener()], disable_log_stats=True)
        await llm.pause_generation(mode="keep", clear_cache=False)
        self._paused = True
        quiet.hush()
        return llm

    def _listener(self) -> Any:
        """A factory of vLLM's statistics loggers, which are called once a step, when its outputs are there to be collected."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        step_over = self._step_over

        class Listener(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
                if scheduler_stats is not None:
                    step_over(0 if iteration_stats is None else iteration_stats.num_preempted_reqs)

            def log_engine_initialized(self) -> None:
                pass

        return Listener

    async def _add(self, requests: Sequence[Request]) -> None:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        for request in requests:
            params = SamplingParams(
                temperature=0.0,
                max_tokens=request.max_tokens,
                stop_token_ids=sorted(request.stop_ids),
                ignore_eos=True,  # all end tokens are among the stop tokens
                logprobs=request.logprobs or None,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
                extra_args=request.extra_args or None,
            )
            prompt = tokens_input(list(request.tokens))
            self._collectors[request.id] = await self.llm.add_request(request.id, prompt, params), request.logprobs

    async def _abort(self, ids: list[str]) -> None:
        for name in ids:
            self._collectors.pop(name, None)
        await self.llm.abort(ids)

    def _step_over(self, preempted: int) -> None:
        now = time.perf_counter()
        outputs = []
        for name, (collector, candidates) in list(self._collectors.items()):
            try:
                out = collector.get_nowait()
            except Exception:  # vLLM's death comes this way; `next_step` tells of it
                del self._collectors[name]
                continue
            if out is None:
                continue
            (one,) = out.outputs
            cached = out.num_cached_tokens or 0
            means = tuple(_mean(entries, candidates) for entries in one.logprobs or ())
            outputs.append(RequestOutput(name, tuple(one.token_ids), means, cached, one.finish_reason))
            if out.finished:
                del self._collectors[name]
        self._unread += len(outputs)
        self._inbox.put(StepOutput(tuple(outputs), preempted, now - self._last))
        self._last = now
        self._steer()

    def _took(self, outputs: int) -> None:
        self._unread -= outputs
        self._steer()

    def _to_pause(self) -> bool:
        # Once paused, it goes on when the reader has caught up: switching takes milliseconds.
        most = 0 if self._paused else self.ahead * max(1, len(self._collectors))
        return not self._reading or self._unread > most

    def _steer(self) -> None:
        if self._switching is None and self._to_pause() != self._paused and not self._dead:
            self._switching = self._loop.create_task(self._switch())

    async def _switch(self) -> None:
        try:
            while (pause := self._to_pause()) != self._paused:
                if pause:
                    await self.llm.pause_generation(mode="keep", clear_cache=False)
                else:
                    await self.llm.resume_generation()
                    self._last = time.perf_counter()
                self._paused = pause
        except Exception:  # vLLM has died, of which `next_step` tells
            self._dead = True
        finally:
            self._switching = None

    # ---- from outside -----------------------------------------------------------------------------------------------

    def _ask(self, coroutine: Any) -> Any:
        if self._closed:
            coroutine.close()
            raise InputError("this engine is closed: make a new one")
        answer: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return answer.result()

    def _break_off(self, others: Sequence[BaseProcess]) -> None:
        """End a start: an interrupted one goes on in its thread until its processes are gone, and would print what it sees."""
        self._closed = True
        until = time.monotonic() + _PATIENCE_AT_START
        while self._thread.is_alive() and time.monotonic() < until:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()
            self._halt(0.2)

    def _end(self) -> None:
        self._halt(_LAST + 4)
        self._log.close()

    def _halt(self, patience: float) -> None:
        """Stop the loop; its thread ends when what it does has come to an end."""
        self._closed = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)


def _mean(entries: Mapping[int, Any], candidates: int) -> float:
    """Mean log-probability of the likeliest candidates; the token that was drawn comes besides, where it isn't one of them.
    Banned tokens (-inf) are no candidates."""
    likeliest = sorted((entry.logprob for entry in entries.values()), reverse=True)[:candidates]
    left = [logprob for logprob in likeliest if logprob != -math.inf]
    return float(sum(left) / max(len(left), 1))
