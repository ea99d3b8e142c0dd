"""Traces that end at a task's stop texts, whatever a strategy does with them: few-shot prompts make a model go on to the next
question, and an answer that is read out of that would be another question's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from laconic.engines.base import Chunk, Prompt, Sampling, Trace
from laconic.engines.shared import EngineView, SharedEngine
from laconic.lab.harness.texts import StopWatcher, cut


class EndableTrace:
    """A trace of the engine's as its user sees it: once it has come to a stop text it has ended there."""

    def __init__(self, trace: Trace, until: Sequence[str]) -> None:
        self.trace, self._until = trace, until
        self._watcher: StopWatcher | None = None
        self.ended = False
        self.restart()

    def add(self, text: str) -> bool:
        """More of its text has come. True: it ends with it."""
        if self._watcher is not None and not self.ended:
            self.ended = self._watcher.add(text)
        return self.ended

    def restart(self) -> None:
        """None of its text has come."""
        self._watcher = StopWatcher(self.trace.thinking, self._until) if self._until else None
        self.ended = False

    @property
    def text(self) -> str:
        text = self.trace.text
        return cut(text, self.trace.thinking, self._until) if self.ended else text

    @property
    def state(self) -> str:
        return "finished" if self.ended else self.trace.state

    @property
    def finish_reason(self) -> str | None:
        return "stop" if self.ended else self.trace.finish_reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trace, name)


class EndingView(EngineView):
    """One user's view of a shared engine. until: the stop texts of its traces."""

    def __init__(self, shared: SharedEngine, prompt: Any, until: Sequence[str]) -> None:
        super().__init__(shared, prompt)
        self._until = tuple(until)
        self._seen: dict[str, EndableTrace] = {}

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        names = super().submit(prompt, sampling, n, ids)
        self._seen.update((name, EndableTrace(super(EndingView, self).trace(name), self._until)) for name in names)
        return names

    def stream(self) -> Generator[Chunk | None, None, None]:
        for chunk in super().stream():
            seen = None if chunk is None else self._seen[chunk.trace_id]
            if chunk is None or seen is None:
                yield None
                continue
            if chunk.restarted:
                seen.restart()
            if seen.ended:
                continue  # what was on its way when it ended
            if seen.add(chunk.text):
                self.stop(chunk.trace_id)
                yield replace(chunk, finish_reason="stop")
            else:
                yield chunk

    def trace(self, trace_id: str) -> Any:
        super().trace(trace_id)  # counts what it holds
        return self._seen[trace_id]
