"""How far vLLM may compute ahead of whoever reads its outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class ReadAhead:
    """Pauses vLLM, every request kept, while nobody reads and while the reader is far behind, so that nothing is computed for
    traces that are about to be stopped. All methods are for the event loop's thread.

    ahead: outputs of a request that may wait unread. requests: how many requests there are now. on_resume: called when vLLM
    goes on after a pause. on_error: called with what pausing or resuming raised; nothing is paused or resumed afterwards.
    """

    def __init__(
        self,
        llm: Any,
        ahead: int,
        requests: Callable[[], int],
        on_resume: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._llm, self._ahead, self._requests = llm, ahead, requests
        self._on_resume, self._on_error = on_resume, on_error
        self.paused = False
        """Whether vLLM is paused."""
        self._reading = False
        self._unread = 0
        self._failed = False
        self._switching: asyncio.Task[None] | None = None  # the one task that pauses and resumes

    async def pause(self) -> None:
        """Pause now, and wait for it."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        self.paused = True

    def set_reading(self, reading: bool) -> None:
        """Whether somebody reads from now on."""
        self._reading = reading
        self._update()

    def add(self, outputs: int) -> None:
        """So many outputs have come for the reader."""
        self._unread += outputs
        self._update()

    def take(self, outputs: int) -> None:
        """The reader has taken so many."""
        self._unread -= outputs
        self._update()

    def _should_pause(self) -> bool:
        # Once paused, it goes on when the reader has caught up wholly: pausing and resuming take milliseconds.
        most = 0 if self.paused else self._ahead * max(1, self._requests())
        return not self._reading or self._unread > most

    def _update(self) -> None:
        if self._switching is None and self._should_pause() != self.paused and not self._failed:
            self._switching = asyncio.get_running_loop().create_task(self._switch())

    async def _switch(self) -> None:
        try:
            # What is wanted may change while vLLM is being told.
            while (pause := self._should_pause()) != self.paused:
                if pause:
                    await self.pause()
                else:
                    await self._llm.resume_generation()
                    self._on_resume()
                    self.paused = False
        except Exception as error:
            self._failed = True
            self._on_error(error)
        finally:
            self._switching = None
