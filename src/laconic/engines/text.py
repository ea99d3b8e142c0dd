"""Between text and tokens, for every engine that has a tokenizer: prompts in, a trace's text out as its tokens come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers.decoders import DecodeStream

from laconic import checks
from laconic.answers import ends_in_thinking
from laconic.engines.base import Prompt
from laconic.engines.chat import Chat
from laconic.engines.requests import check_ids
from laconic.errors import InputError

PLAIN = Chat()


def render(tokenizer: Any, question: str, chat: Chat = PLAIN) -> str:
    """The prompt text for a user's question: through the chat template where there is one. Raises InputError for none.

    chat: what goes with the question; checked by whoever made it (`Chat.check`).
    """
    if not checks.text("question", question).strip():
        raise InputError("the problem is empty: give a question")
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return question
    return chat.render(tokenizer, question)


def tokenize(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt; text gets no special tokens where the tokenizer has a chat template, which writes them itself."""
    if not isinstance(prompt, str):
        return check_ids(prompt)
    if tokenizer is None:
        raise InputError("this engine has no tokenizer: give prompts as token ids")
    special = not getattr(tokenizer, "chat_template", None)
    return tuple(tokenizer(checks.text("prompt", prompt), add_special_tokens=special)["input_ids"])


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of tokens, special tokens left in. Raises InputError for ids that the tokenizer doesn't take."""
    ids = check_ids(token_ids, "token_ids")
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))
    except (OverflowError, IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"the token id {max(ids)} has no text: the tokenizer has the ids 0 to {len(tokenizer) - 1}; give the one that the "
            "tokens were made with"
        ) from error


def begins_thinking(tokenizer: Any, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends in thinking that it has opened; False without a tokenizer."""
    return tokenizer is not None and ends_in_thinking(decode(tokenizer, prompt_ids[-_TAIL:]))


_TAIL = 40  # tokens of a prompt in which its last mark stands


def end_ids(*sources: Any) -> frozenset[int]:
    """The end-of-sequence tokens that configurations and tokenizers name. Raises InputError for what is no token id."""
    found: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        ids = [] if value is None else list(value) if isinstance(value, (list, tuple, set)) else [value]
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int):
                raise InputError(
                    f"eos_token_id of the model's {type(source).__name__} is {value!r}; expected a token id, or a list of them"
                )
            found.add(token)
    return frozenset(found)


class TextStream(Protocol):
    """The text of one trace, as its tokens come."""

    text: str
    """What has been told so far."""

    def add(self, token: int) -> str:
        """The text that the next token adds; empty while a character is incomplete."""

    def whole(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, all there are, of a trace that may go on."""

    def finish(self, token_ids: Sequence[int]) -> str:
        """The trace has ended with these tokens: `text` becomes theirs. Returns what was held back (half a character, say)."""


class Detokenizer:
    """A TextStream that a tokenizer tells. Without one there is no text."""

    __slots__ = ("_stream", "_tokenizer", "text")

    def __init__(self, tokenizer: Any) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._stream: Any = None

    def add(self, token: int) -> str:
        """See TextStream.add."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return ""  # no tokenizer, or a slow one, whose text comes whole at the end
        if self._stream is None:
            self._stream = DecodeStream(skip_special_tokens=False)
        more = self._stream.step(backend, token) or ""
        self.text += more
        return more

    def whole(self, token_ids: Sequence[int]) -> str:
        """See TextStream.whole."""
        slow = self._tokenizer is not None and getattr(self._tokenizer, "backend_tokenizer", None) is None
        return decode(self._tokenizer, token_ids) if slow and token_ids else self.text

    def finish(self, token_ids: Sequence[int]) -> str:
        """See TextStream.finish."""
        if self._tokenizer is None:
            return ""
        told, self.text = self.text, decode(self._tokenizer, token_ids)
        return self.text[len(told) :] if self.text.startswith(told) else ""
