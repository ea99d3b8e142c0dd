"""When vLLM is paused and when it goes on. Needs no vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from laconic.engines.vllm.engine.read_ahead import ReadAhead


class LLM:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failure: Exception | None = None

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        assert (mode, clear_cache) == ("keep", False)
        await self._tell("pause")

    async def resume_generation(self) -> None:
        await self._tell("resume")

    async def _tell(self, what: str) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.told.append(what)


def run(play: Callable[[LLM, ReadAhead, list[Exception]], Coroutine[Any, Any, None]], requests: int = 2) -> LLM:
    async def main() -> LLM:
        llm, errors = LLM(), list[Exception]()
        ahead = ReadAhead(
            llm, 3, lambda: requests, on_resume=lambda: llm.told.append("(goes on)"), on_error=errors.append
        )
        await ahead.pause()
        await play(llm, ahead, errors)
        return llm

    return asyncio.run(main())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_it_goes_on_while_somebody_reads_and_keeps_up() -> None:
    async def play(llm: LLM, ahead: ReadAhead, errors: list[Exception]) -> None:
        await settle()
        assert ahead.paused
        ahead.set_reading(True)
        await settle()
        assert not ahead.paused
        ahead.add(6)  # three outputs of each of two requests
        await settle()
        assert not ahead.paused
        ahead.add(1)
        await settle()
        assert ahead.paused
        ahead.take(6)  # not all of them
        await settle()
        assert ahead.paused
        ahead.take(1)
        await settle()
        assert not ahead.paused
        ahead.set_reading(False)
        await settle()
        assert ahead.paused
        assert errors == []

    assert run(play).told == ["pause", "resume", "(goes on)", "pause", "resume", "(goes on)", "pause"]


def test_a_change_of_mind_on_the_way_counts() -> None:
    async def play(llm: LLM, ahead: ReadAhead, errors: list[Exception]) -> None:
        ahead.set_reading(True)
        await asyncio.sleep(0)  # vLLM is being told to go on
        ahead.set_reading(False)
        await settle()
        assert ahead.paused

    assert run(play).told == ["pause", "resume", "(goes on)", "pause"]


def test_an_error_is_told_once_and_nothing_is_tried_again() -> None:
    async def play(llm: LLM, ahead: ReadAhead, errors: list[Exception]) -> None:
        llm.failure = RuntimeError("dead")
        ahead.set_reading(True)
        await settle()
        ahead.set_reading(False)
        ahead.set_reading(True)
        await settle()
        assert [str(error) for error in errors] == ["dead"]

    assert run(play).told == ["pause"]
