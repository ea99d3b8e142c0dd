"""A trace's text as its tokens come, cut into what it thinks and what it answers, and ended at stop texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import regex

from laconic.answers import ThinkingMarker, known_markers
from laconic.answers.thinking import split_off_thinking

START = 60  # characters of a text within which a mark of ordinary words may begin it
LONG = 4096  # told characters that are dropped at once


class Piece(NamedTuple):
    """A part of a text. thinking: whether it is thought, or else said."""

    thinking: bool
    text: str


class ThinkingSplitter:
    """Tells a text's thoughts from its answer while it grows; marks belong to neither. What may become a mark is held back.

    thinking: whether the text begins within thinking (`ends_in_thinking` of its prompt). Marks are read as
    `answers.thinking.split_off_thinking` reads them, but for one: what came before an end without a beginning has been told as
    said by then. White space at the beginning of either kind is left out. continued: the text goes on with one that has begun,
    so that nothing is left out at its beginning.
    """

    def __init__(self, thinking: bool = False, continued: bool = False) -> None:
        self.thinking = thinking
        self._continued = continued
        self._text = ""  # but for what was told long ago
        self._at = 0  # told up to here
        self._dropped = 0  # characters
        self._opener: ThinkingMarker | None = None
        self._told = {thinking: continued, not thinking: False}

    def add(self, text: str) -> list[Piece]:
        """What can be told now that these characters have come."""
        if not self._text and not self._continued:
            text = text.lstrip()
        if self._at > LONG:  # one character before tells that the text doesn't begin here
            self._dropped += self._at - 1
            self._text, self._at = self._text[self._at - 1 :], 1
        self._text += text
        return self._cut(False)

    def finish(self) -> list[Piece]:
        """The text has ended: what was held back."""
        return self._cut(True)

    def _cut(self, ended: bool) -> list[Piece]:
        found: list[Piece] = []
        while True:
            mark = self._next_mark()
            if mark is None:
                break
            start, end, begins, marker = mark
            if not ended and _may_grow(marker.begin if begins else marker.end, self._text[start:]):
                self._tell(found, start)
                return found
            self._tell(found, start)
            self._at = end
            self.thinking, self._opener = begins, marker if begins else None
        self._tell(found, len(self._text) if ended else self._safe())
        return found

    def _tell(self, found: list[Piece], end: int) -> None:
        piece, self._at = self._text[self._at : end], max(self._at, end)
        if not self._told[self.thinking]:
            piece = piece.lstrip()
        if piece:
            self._told[self.thinking] = True
            if found and found[-1].thinking == self.thinking:
                piece = found.pop().text + piece
            found.append(Piece(self.thinking, piece))

    def _next_mark(self) -> tuple[int, int, bool, ThinkingMarker] | None:
        """The first that counts, of those that are whole."""
        if not self._may_hold_marks():
            return None
        first: tuple[int, int, bool, ThinkingMarker] | None = None
        for begins, marker, pattern in self._awaited():
            match = pattern.search(self._text, self._at)
            if match is not None and (first is None or match.span() < first[:2]):
                first = (*match.span(), begins, marker)
        return first

    def _safe(self) -> int:
        """Up to where no mark can still begin."""
        end = len(self._text)
        if not self._may_hold_marks():
            return end
        for _, _, pattern in self._awaited():
            match = pattern.search(self._text, self._at, partial=True)
            if match is not None and match.partial:
                end = min(end, match.start())
        return end

    def _awaited(self) -> list[tuple[bool, ThinkingMarker, Any]]:
        if self.thinking and self._opener is not None:
            return [(False, self._opener, _compiled(self._opener.end))]
        if self.thinking:
            return [(False, marker, _compiled(marker.end)) for marker in known_markers() if not marker.paired]
        begins = [(True, marker, _compiled(marker.begin)) for marker in known_markers()]
        return begins + [(False, marker, _compiled(marker.end)) for marker in known_markers() if not marker.paired]

    def _may_hold_marks(self) -> bool:
        """Whether it is worth looking: nearly all marks begin with a character that hardly occurs elsewhere."""
        if self._dropped + self._at < START or (self._opener is not None and self._opener.sign[0].isalpha()):
            return True
        return _RARE.search(self._text, self._at) is not None


def _may_grow(pattern: str, rest: str) -> bool:
    """Whether a mark that `rest` begins with may be a longer one when more has come (harmony's have optional ends)."""
    whole = _compiled(pattern).fullmatch(rest, partial=True)
    if whole is None or whole.partial:
        return whole is not None
    longer = _compiled(pattern).fullmatch(rest + "<", partial=True)
    return longer is not None and bool(longer.partial)


_RARE = re.compile(r"[<\[◁]")
_patterns: dict[str, Any] = {}


def _compiled(pattern: str) -> Any:
    found = _patterns.get(pattern)
    if found is None:
        found = _patterns[pattern] = regex.compile(pattern)
    return found


class StopTexts:
    """Ends a text before the first of some texts that occurs in it, whatever pieces it comes in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Whether one has occurred: nothing more is told."""

    def add(self, text: str) -> str:
        """What can be told now."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        held = self._held + text
        places = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.stopped, self._held = True, ""
            return held[: min(places)]
        keep = max(
            (n for stop in self._stops for n in range(min(len(stop) - 1, len(held)), 0, -1) if held.endswith(stop[:n])),
            default=0,
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """The text has ended: what was held back."""
        held, self._held = self._held, ""
        return held


def ends_within(last: Mapping[str, str], opened: bool) -> bool:
    """Whether a message that is gone on with ends within its thinking. opened: the template opens it.

    Of thoughts and an answer it is the answer that goes on, and an answer without a mark of thinking is none.
    """
    content = last["content"]
    if "reasoning_content" in last:
        return not content
    if not content.strip():
        return opened
    return (
        any(marker.sign.replace("/", "") in content for marker in known_markers())
        and split_off_thinking(content, thinking=opened).thinking
    )
