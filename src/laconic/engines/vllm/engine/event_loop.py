"""An asyncio event loop in a thread of its own, for callers in other threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from laconic.engines.vllm.plugin.interrupts import block_interrupts_for_children

T = TypeVar("T")

_PATIENCE_WITH_TASKS = 1.0  # seconds that the loop's tasks get to end once cancelled


class EventLoopThread:
    """Runs coroutines of vLLM's. Processes that they start don't see Ctrl-C (`interrupts`)."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises, waited for; from another thread."""
        answer: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return answer.result()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the loop's thread, without waiting for it. Does nothing once the loop is closed: the end of the
        program closes it before an engine or a stream is collected."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a coroutine; from the loop's thread."""
        return self._loop.create_task(coroutine)

    def stop(self, patience: float) -> None:
        """Stop the loop and wait for its thread, `patience` seconds at most: it ends when what it does has come to an end."""
        self.call(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)

    def _serve(self) -> None:
        block_interrupts_for_children()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)  # vLLM's own, cancelled by its shutdown or forgotten by it
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=_PATIENCE_WITH_TASKS))
        self._loop.close()
