"""Streamed requests in an event loop of a thread of its own; what they bring goes through one queue to whoever reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import random
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import httpx

from laconic.engines.openai.asking import said
from laconic.engines.openai.endpoints import Endpoint, Endpoints
from laconic.engines.openai.protocol import Events, FilteredError, Reader, RemotePiece, error_of, refused_field
from laconic.engines.openai.statuses import BUSY, ELSEWHERE

SILENCE = 600.0  # seconds without a word after which a server counts as gone


@dataclass(slots=True)
class Failure:
    """Why a request has ended without an end. final: no other try would help."""

    message: str
    final: bool
    anew: bool = False
    """The server doesn't continue texts."""
    status: int = 0
    """HTTP's, where the server refused; 0: it isn't that."""


@dataclass(slots=True)
class Message:
    """What a request brought, by its number."""

    request: int
    what: RemotePiece | Failure


class Sender:
    """Sends requests and reads their streams. headers: what goes with each; at_once: how many; retries: of one request.

    Each request ends with one last message: a piece with a finish, or a Failure.
    """

    def __init__(self, endpoints: Endpoints, headers: Mapping[str, str], at_once: int, retries: int) -> None:
        self.endpoints, self.retries = endpoints, retries
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="laconic-openai", daemon=True)
        self._thread.start()
        limits = httpx.Limits(max_connections=at_once + 8, max_keepalive_connections=at_once + 8)
        timeout = httpx.Timeout(SILENCE, connect=15.0, pool=None)
        self._http = httpx.AsyncClient(headers=dict(headers), limits=limits, timeout=timeout, http2=False)
        self._close = weakref.finalize(self, _close, self._loop, self._thread, self._http)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return not self._close.alive

    def close(self) -> None:
        """End all requests. Closing twice is fine."""
        self._close()

    def begin(self, number: int, path: str, body: Mapping[str, Any], resumed: bool) -> Future[None]:
        """Send a request; cancel what is returned to close its stream. resumed: it goes on with a text."""
        return asyncio.run_coroutine_threadsafe(self._request(number, path, body, resumed), self._loop)

    async def _request(self, number: int, path: str, body: Mapping[str, Any], resumed: bool) -> None:
        try:
            await self._try(number, path, body, resumed)
        except Exception as error:  # whoever reads waits for a last message, whatever happened
            self._put(
                number, Failure(f"the request failed inside laconic ({type(error).__name__}: {said(error)})", True)
            )
            raise

    async def _try(self, number: int, path: str, body: Mapping[str, Any], resumed: bool) -> None:
        """One request from beginning to end, tried at other servers and later as long as nothing has come of it."""
        endpoint: Endpoint | None = None
        failure = Failure("", False)
        refusing: set[Endpoint] = set()
        for attempt in range(self.retries + 1):
            endpoint = self.endpoints.take(endpoint)
            wait = min(0.25 * 2**attempt, 8.0) * (0.5 + random.random() / 2)
            reader = Reader(resumed)
            try:
                url, own = endpoint.url + path, endpoint.understood(body)
                async with self._http.stream("POST", url, json=own) as response:
                    if response.status_code != 200:
                        text = (await response.aread()).decode("utf-8", "replace")
                        unknown = refused_field(response.status_code, text, own)
                        if unknown is not None:  # it is asked once more, without that
                            endpoint.unknown.add(unknown)
                            failure, wait = Failure(f"{endpoint.shown} refuses {unknown}", False), 0.0
                        else:
                            failure, wait = _refused(endpoint, response, text, resumed, wait)
                            if response.status_code in ELSEWHERE:
                                refusing.add(endpoint)
                                endpoint.failed()
                                failure = replace(failure, final=len(refusing) == len(self.endpoints.all), anew=False)
                    else:
                        await self._read(number, response, reader)
                        if reader.finish is not None:
                            endpoint.worked()
                            self._put(number, RemotePiece(finish=reader.finish, usage=reader.usage))
                            return
                        failure = Failure(f"{endpoint.shown} ended the stream before the trace's end", False)
                        endpoint.failed()
            except FilteredError as error:
                failure = Failure(f"{endpoint.shown} {error}", True, status=400)
            except (httpx.HTTPError, ValueError) as error:
                failure = Failure(f"{endpoint.shown}: {said(error)}", False)
                endpoint.failed()
            finally:
                self.endpoints.give_back(endpoint)
            if failure.final or failure.anew or reader.begun:  # whoever reads goes on from what there is, or ends it
                self._put(number, failure)
                return
            if attempt >= len(self.endpoints.all) - 1:  # all have been asked
                await asyncio.sleep(wait)
        self._put(number, replace(failure, final=True))

    async def _read(self, number: int, response: httpx.Response, reader: Reader) -> None:
        """Pieces as they come. Raises ValueError for what is no stream of chunks."""
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise ValueError(f"it answers with {kind or 'no type'} instead of a stream")
        events = Events()
        async for text in response.aiter_text():
            for data in events.feed(text):
                if data.strip() == "[DONE]":
                    return
                record = json.loads(data)
                if not isinstance(record, dict):
                    raise ValueError("a chunk that is no object")
                if "error" in record and "choices" not in record:
                    raise ValueError(error_of(500, data))
                piece = reader.read(record)
                if piece is not None:
                    self._put(number, piece)

    def _put(self, number: int, what: RemotePiece | Failure) -> None:
        self.inbox.put(Message(number, what))


def _refused(
    endpoint: Endpoint, response: httpx.Response, text: str, resumed: bool, wait: float
) -> tuple[Failure, float]:
    told = f"{endpoint.shown} answers {error_of(response.status_code, text)}"
    if response.status_code in BUSY or response.status_code >= 500:
        if response.status_code >= 500:
            endpoint.failed()
        with contextlib.suppress(ValueError):  # a date
            wait = max(wait, min(60.0, float(response.headers.get("retry-after", "0"))))
        return Failure(told, False, status=response.status_code), wait
    return Failure(told, not resumed, resumed, response.status_code), wait


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, http: httpx.AsyncClient) -> None:
    async def end() -> None:
        tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await http.aclose()
        await loop.shutdown_asyncgens()

    if thread.is_alive():
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        if threading.current_thread() is not thread:
            thread.join(5)
            if not thread.is_alive():
                loop.close()
