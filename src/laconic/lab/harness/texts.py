"""What of a trace's text a harness scores: the answer after the thinking, up to the first of the task's stop texts in it."""

from __future__ import annotations

from collections.abc import Sequence

from laconic.answers.thinking import split_off_thinking
from laconic.server.splitting import StopTexts, ThinkingSplitter


def answer_start(text: str, thinking: bool) -> int | None:
    """Where in a text the answer begins; None: it ends within thinking. thinking: whether the text begins within it.

    White space after the thinking belongs to neither; of a text without thinking all is the answer.
    """
    last = split_off_thinking(text, thinking)
    if last.thinking:
        return None
    return len(text) - len(last.said.lstrip()) if last.after else 0


def cut(text: str, thinking: bool, until: Sequence[str]) -> str:
    """A text up to the first stop text in its answer. Thoughts are never cut."""
    start = answer_start(text, thinking)
    if start is None:
        return text
    places = [place for place in (text.find(stop, start) for stop in until if stop) if place >= 0]
    return text[: min(places)] if places else text


def answer_text(text: str, thinking: bool, until: Sequence[str], unclosed: str) -> tuple[str, bool]:
    """(what is scored, whether the thinking had ended). unclosed: of thinking that hasn't, `empty` or `whole`."""
    start = answer_start(text, thinking)
    if start is None:
        return (text if unclosed == "whole" else ""), False
    return cut(text, thinking, until)[start:], True


class StopWatcher:
    """Tells of a text that grows whether its answer has come to a stop text."""

    def __init__(self, thinking: bool, until: Sequence[str]) -> None:
        self._splitter = ThinkingSplitter(thinking)
        self._stops = StopTexts(until)

    def add(self, text: str) -> bool:
        """Whether it has, with these characters."""
        for piece in self._splitter.add(text):
            if not piece.thinking:
                self._stops.add(piece.text)
        return self._stops.stopped
