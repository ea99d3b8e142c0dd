"""A stream ends with its reader, whatever it is at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from laconic.server.streaming import EventStream


@pytest.mark.parametrize("blocks_at", ["http.response.start", "http.response.body", None])
def test_a_reader_that_has_gone_ends_it_at_once(blocks_at: str | None) -> None:
    """Also where nothing can be written any more, or the stream has not begun."""
    told: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            await asyncio.sleep(60)
            yield b"never"
        finally:
            told.append("closed")

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == blocks_at:
            await asyncio.sleep(60)

    async def main() -> None:
        stream = EventStream(events(), on_end=lambda: told.append("ended"))
        await asyncio.wait_for(stream({"type": "http"}, receive, send), 5)
        # not left to the collector
        assert told == (["ended"] if blocks_at == "http.response.start" else told)
        assert "ended" in told
        assert ("closed" in told) == (blocks_at != "http.response.start")  # what never began has nothing to close

    asyncio.run(main())


def test_a_stream_that_ends_by_itself_is_told_once() -> None:
    told: list[str] = []
    sent: list[bytes] = []

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def main() -> None:
        await EventStream(events(), on_end=lambda: told.append("ended"))({"type": "http"}, receive, send)

    asyncio.run(main())
    assert told == ["ended"]
    assert b"".join(sent) == b"data: 1\n\n"
