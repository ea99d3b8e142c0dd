"""What a job tells the request that waits for it: events, and the mailbox that carries them from the engine's thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from laconic.errors import LaconicError


@dataclass(frozen=True, slots=True)
class TokenTold:
    """A token with its log-probability, as clients see it."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has taken the request: from here on the status is 200."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextTold:
    """More of a choice's text. thinking: of its reasoning, else of its answer."""

    choice: int
    thinking: bool
    text: str
    logprobs: tuple[TokenTold, ...] = ()
    token_ids: tuple[int, ...] = ()
    """Where they were asked for."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was told of a choice is no part of it."""

    choice: int


@dataclass(frozen=True, slots=True)
class ProgressTold:
    """Where a vote stands, in a line."""

    text: str


@dataclass(frozen=True, slots=True)
class ChoiceEnded:
    """reason: "stop" or "length"."""

    choice: int
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """In tokens. generated: by all traces; reasoning: those of them that aren't of an answer."""

    prompt: int
    generated: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class Done:
    """All is told. report: the `laconic` object of the response."""

    usage: Usage
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more comes."""

    error: LaconicError


Event = Started | TextTold | Restarted | ProgressTold | ChoiceEnded | Done | Failed


class Mailbox:
    """From the engine's thread to one reader in an event loop; what has come since the last look is read at once.

    loop: the reader's; None where nobody waits (events are kept all the same).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._come = asyncio.Event()
        self._closed = False

    def put(self, *events: Event) -> None:
        """From any thread."""
        with self._lock:
            if self._closed:
                return
            first = not self._events
            self._events.extend(events)
        if first and events and self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop has just ended, and nobody reads
                self._loop.call_soon_threadsafe(self._come.set)

    def close(self) -> None:
        """Nobody reads any more: what comes is not kept."""
        with self._lock:
            self._closed = True
            self._events.clear()

    async def read(self, timeout: float | None = None) -> list[Event]:
        """What has come, at least one event; none after `timeout` seconds."""
        if not self._come.is_set():
            # Not asyncio.wait_for: it makes a task each time, which costs as much as all the rest of a write.
            alarm = None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._come.set)
            try:
                await self._come.wait()
            finally:
                if alarm is not None:
                    alarm.cancel()
        with self._lock:
            events, self._events = self._events, []
            self._come.clear()
        return events
