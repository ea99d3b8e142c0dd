"""What goes from the engine's thread to a reader in an event loop."""

from __future__ import annotations

import asyncio
import threading

from laconic.server.events import ChoiceEnded, Event, Mailbox, ProgressTold, TextTold


def test_what_has_come_is_read_at_once_and_in_order() -> None:
    async def main() -> None:
        box = Mailbox(asyncio.get_running_loop())
        assert await box.read(0.01) == []
        box.put(ProgressTold("a"))
        box.put(ProgressTold("b"), ChoiceEnded(0, "stop"))
        assert await box.read(1) == [ProgressTold("a"), ProgressTold("b"), ChoiceEnded(0, "stop")]
        assert await box.read(0.01) == []

    asyncio.run(main())


def test_nothing_is_lost_between_two_threads() -> None:
    async def main() -> list[Event]:
        box = Mailbox(asyncio.get_running_loop())

        def write() -> None:
            for number in range(2000):
                box.put(TextTold(0, False, str(number)))

        thread = threading.Thread(target=write)
        thread.start()
        found: list[Event] = []
        while len(found) < 2000:
            found += await box.read(5)
        thread.join()
        return found

    assert [event.text for event in asyncio.run(main()) if isinstance(event, TextTold)] == [str(i) for i in range(2000)]


def test_a_closed_mailbox_keeps_nothing() -> None:
    async def main() -> None:
        box = Mailbox(asyncio.get_running_loop())
        box.put(ProgressTold("a"))
        box.close()
        box.put(ProgressTold("b"))
        assert box._events == []

    asyncio.run(main())


def test_a_reader_that_has_gone_is_no_error() -> None:
    async def main() -> Mailbox:
        return Mailbox(asyncio.get_running_loop())

    box = asyncio.run(main())  # its loop is closed
    box.put(ProgressTold("a"))
