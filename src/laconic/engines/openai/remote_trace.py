"""A trace as OpenAIEngine's loop sees it, its request, and numbers for pieces of text that come without ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laconic.engines.openai.protocol import RemotePrompt
from laconic.engines.scheduler import ScheduledTrace
from laconic.errors import InputError


class RemoteText:
    """A trace's text, told by the server."""

    def __init__(self) -> None:
        self.text = ""
        self.next = ""

    def add(self, token: int) -> str:
        more, self.next = self.next, ""
        self.text += more
        return more

    def whole(self, token_ids: Sequence[int]) -> str:
        return self.text

    def finish(self, token_ids: Sequence[int]) -> str:
        return ""


@dataclass(slots=True, eq=False, kw_only=True)
class RemoteTrace(ScheduledTrace):
    """A trace in OpenAIEngine."""

    prompt: RemotePrompt
    request: int = 0
    """The number of its present request; 0: it has none."""
    known: bool = True
    """Whether all its tokens' ids are the server's own."""
    prompt_length: int = 0
    """Tokens of its prompt, as the server counts them; 0: it hasn't told."""
    generated: int = 0
    """Tokens of it that servers computed, those before it began anew included: as they count them by each request's end."""


@dataclass(slots=True)
class LiveRequest:
    """A request that runs."""

    entry: RemoteTrace
    task: Any = None
    """What ends it when it is cancelled."""
    tries: int = 0
    counted: int = 0
    """Tokens that came by this request."""


class PieceIds:
    """Ids of tokens of which only texts are known: the server's own where it has told one, else numbers of the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        """By number."""
        self._numbers: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._texts: dict[int, str] = {}  # of ids that were told

    def number(self, text: str) -> int:
        """The number of a piece, by its text."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def note(self, text: str, token: int) -> None:
        """The server has told the id of a token of that text."""
        self._told[text] = token
        self._texts[token] = text

    def alternative(self, text: str) -> int:
        """The id of a token that was not drawn: the server's where it has told one of that text, else below 0."""
        return self._told.get(text, -1 - self.number(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens by what was told of them. Raises InputError for ids of the server's of which it was not."""
        return "".join(self._text(token) for token in token_ids)

    def _text(self, token: int) -> str:
        found = self._texts.get(token)
        if found is not None:
            return found
        number = token if token >= 0 else -1 - token
        if number >= len(self.texts):
            raise InputError("the openai engine has no tokenizer: read traces by their texts")
        return self.texts[number]
