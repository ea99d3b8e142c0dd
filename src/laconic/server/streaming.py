"""Responses that are streams of events, and how it is noticed that their readers have gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """Server-sent events that end as soon as their reader has gone. events: ended with it, whatever it is at.

    on_end: called once, when the stream is over, also when it never began.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str] | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._events, self._on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        watching = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                sending.cancel()
            await asyncio.wait({sending})
            if (
                not sending.cancelled()
                and (error := sending.exception()) is not None
                and not isinstance(error, OSError)
            ):
                raise error
        finally:
            watching.cancel()
            sending.cancel()
            self._on_end()  # first: what follows may be broken off
            if sending.done():
                await self._events.aclose()


async def gone(receive: Receive) -> None:
    """Until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
