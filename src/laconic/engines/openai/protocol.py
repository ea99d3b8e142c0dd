"""What is sent to a server and what it sends back: bodies of requests, and the pieces of a streamed trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laconic.engines.base import Sampling, TokenLogprobs
from laconic.errors import InputError

OPEN, CLOSE = "<think>", "</think>\n\n"
MOST_LOGPROBS = 20  # OpenAI's limit
DISPENSABLE = ("return_token_ids", "add_generation_prompt")
"""Fields that some servers know, and without which others can be asked too."""
DROPPED = ("abort", "aborted", "error")
"""finish_reason of a request that a server gave up: no end of the trace."""
SEED_STEP = 1_000_003  # between the seeds of two traces of a prompt
MOST_SEED = 1 << 53


@dataclass(frozen=True, slots=True)
class Told:
    """A token as a server tells it. id: None where it doesn't say."""

    text: str
    id: int | None = None
    logprob: float | None = None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RemotePiece:
    """A part of a trace. tokens: those that it is made of; text: what they add to the trace's text."""

    text: str = ""
    tokens: tuple[Told, ...] = ()
    finish: str | None = None
    """"stop" or "length", of the last piece, which comes when the stream is over."""
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt of several messages. messages: each with role and content; one of the assistant at the end is continued.
    arguments: of the server's chat template, for this prompt."""

    messages: tuple[Mapping[str, str], ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlainText:
    """A prompt that the model goes on from as it is, without a chat template."""

    text: str


RemotePrompt = str | Conversation | PlainText | tuple[int, ...]
"""What can be asked for; a text is a user's message."""


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What goes on with a trace. path: behind the address; body: without the model's name."""

    path: str
    body: Mapping[str, Any]

    @property
    def continues(self) -> bool:
        """Whether it goes on with a message."""
        return bool(self.body.get("continue_final_message"))


def plan(
    prompt: RemotePrompt,
    text: str,
    tokens: Sequence[int] | None,
    sampling: Sampling,
    index: int,
    limit: int,
    chat: Mapping[str, Any],
    system: str | None,
) -> RequestPlan:
    """The request that goes on from `text` (its tokens, where a prompt of token ids has known ones).

    A text prompt is a user's message; token ids go to /v1/completions. chat: arguments of the server's chat template. system:
    comes first where a conversation has no system message of its own.
    """
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": limit,
        "seed": (sampling.seed + index * SEED_STEP) % MOST_SEED,
        "return_token_ids": True,  # vLLM's and laconic's; others leave it alone, or refuse it (`refused_field`)
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop_token_ids:
        body["stop_token_ids"] = list(sampling.stop_token_ids)
    asked = max(sampling.confidence_top_k, sampling.logprobs or 0)
    wanted = sampling.confidence_top_k > 0 or sampling.logprobs is not None
    if isinstance(prompt, str):
        prompt = Conversation(({"role": "user", "content": prompt},))
    if isinstance(prompt, Conversation):
        messages = [dict(message) for message in prompt.messages]
        if system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        if messages[-1]["role"] == "assistant":
            text = messages.pop()["content"] + text
        if text:
            messages.append({"role": "assistant", "content": text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body["messages"] = messages
        if chat or prompt.arguments:
            body["chat_template_kwargs"] = {**chat, **prompt.arguments}
        if wanted:
            body |= {"logprobs": True, "top_logprobs": min(asked, MOST_LOGPROBS)}
        return RequestPlan("/chat/completions", body)
    body["prompt"] = prompt.text + text if isinstance(prompt, PlainText) else [*prompt, *(tokens or ())]
    if wanted:
        body["logprobs"] = min(asked, MOST_LOGPROBS)
    return RequestPlan("/completions", body)


class FilteredError(ValueError):
    """The server's content filter ended a text: no other try would help."""


class Reader:
    """Turns a stream's objects into pieces. A chat's reasoning, sent apart, is put back between marks of thinking."""

    def __init__(self, resumed: bool = False) -> None:
        self._thinking = False
        self._said = resumed
        self.begun = False
        """Whether tokens have come."""
        self.finish: str | None = None
        """"stop" or "length", once it has been told."""
        self.usage: Mapping[str, Any] | None = None

    def read(self, record: Mapping[str, Any]) -> RemotePiece | None:
        """A piece; None: nothing in it. Raises ValueError for what is no chunk."""
        try:
            return self._read(record)
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"a chunk that isn't as OpenAI's API has it ({type(error).__name__}: {error})") from None

    def _read(self, record: Mapping[str, Any]) -> RemotePiece | None:
        usage = record.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = record.get("choices")
        if not isinstance(choices, list):
            raise ValueError("a chunk without choices")
        if not choices:
            return None
        choice = choices[0]
        if not isinstance(choice, dict):
            raise ValueError("a choice that is no object")
        delta = choice.get("delta")
        text = self._text(delta) if isinstance(delta, dict) else str(choice.get("text") or "")
        finish = choice.get("finish_reason")
        tokens = _tokens(choice, text)
        self.begun = self.begun or bool(tokens)
        if finish == "content_filter":
            raise FilteredError("ended it by its content filter")
        if finish in DROPPED:
            raise ValueError(f"the server dropped the request (finish_reason {finish})")
        if finish is not None:
            self.finish = "length" if finish == "length" else "stop"
        return RemotePiece(text, tokens) if text or tokens else None

    def _text(self, delta: Mapping[str, Any]) -> str:
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        said = delta.get("content") or ""
        text = ""
        if thought:
            text += ("" if self._thinking or self._said else OPEN) + str(thought)
            self._thinking = True
        if said:
            text += (CLOSE if self._thinking else "") + str(said)
            self._thinking, self._said = False, True
        return text


def _tokens(choice: Mapping[str, Any], text: str) -> tuple[Told, ...]:
    """Those of a chunk: by their ids, else by their log-probabilities, else the whole piece is taken for one."""
    ids = choice.get("token_ids")
    told = _logprobs(choice.get("logprobs"))
    if isinstance(ids, list) and ids:
        if len(told) == len(ids):
            return tuple(Told(one.text, int(i), one.logprob, one.top) for one, i in zip(told, ids, strict=True))
        return tuple(Told("", int(i)) for i in ids)
    if told:
        return told
    return (Told(text),) if text else ()


def _logprobs(given: Any) -> tuple[Told, ...]:
    if not isinstance(given, dict):
        return ()
    content = given.get("content")
    if isinstance(content, list):
        return tuple(
            Told(
                str(one.get("token", "")),
                None,
                float(one["logprob"]),
                tuple(
                    (str(other.get("token", "")), float(other["logprob"])) for other in one.get("top_logprobs") or ()
                ),
            )
            for one in content
        )
    tokens, values = given.get("tokens"), given.get("token_logprobs")
    if isinstance(tokens, list) and isinstance(values, list):
        tops = given.get("top_logprobs") or [{}] * len(tokens)
        return tuple(
            Told(str(token), None, float(value or 0.0), tuple((str(k), float(v)) for k, v in (top or {}).items()))
            for token, value, top in zip(tokens, values, tops, strict=False)
        )
    return ()


def first_logprobs(answer: Mapping[str, Any], most: int) -> list[tuple[tuple[str, float], ...]]:
    """The candidates, likeliest first, of an answer's first tokens, at most so many tokens; empty: it tells none."""
    try:
        told = _logprobs(answer["choices"][0]["logprobs"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return []
    return [tuple(_ranked(one.top or ((one.text, one.logprob or 0.0),))) for one in told[:most]]


def logprobs_of(token: Told, ids: Any, most: int) -> TokenLogprobs | None:
    """ids: from a token's text to an id. None where the server told none."""
    if token.logprob is None:
        return None
    return TokenLogprobs(token.logprob, tuple((ids(text), value) for text, value in _ranked(token.top)[:most]))


def confidence_of(token: Told, top_k: int) -> float | None:
    """Minus the mean log-probability of the likeliest tokens (`Sampling.confidence_top_k`); None where none was told."""
    values = [value for _, value in _ranked(token.top)[:top_k]]
    return -sum(values) / len(values) if values else None


def _ranked(top: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(top, key=lambda each: -each[1])


@dataclass(slots=True)
class Events:
    """Lines of a stream of server-sent events, however they are cut."""

    _rest: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, text: str) -> list[str]:
        """The data of the events that are whole now."""
        found = []
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        for line in lines:
            line = line.rstrip("\r")
            if not line:
                if self._data:
                    found.append("\n".join(self._data))
                    self._data = []
            elif line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
        return found


def error_of(status: int, text: str) -> str:
    """What a server says of an error, in a line."""
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    except ValueError:
        message = text
    said = " ".join(str(message or "").split())[:300]
    return f"{status}: {said}" if said else str(status)


def refused_field(status: int, text: str, body: Mapping[str, Any]) -> str | None:
    """The field that an answer says is unknown, where one can do without it."""
    if status not in (400, 422):
        return None
    return next((name for name in DISPENSABLE if name in body and name in text), None)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server's list says of the model that is wanted. name: None: it can't be used, for the reason in `problem`."""

    name: str | None
    context: int | None = None
    """Tokens, where it tells."""
    problem: str = ""


def find_served(url: str, status: int, text: str, asked: str | None) -> Served:
    """The model to ask for, from the answer to GET /models. asked: None: the first that is served.

    Raises InputError for a key that is refused, or a model that isn't served.
    """
    if status in (401, 403):
        raise InputError(f"{url} refuses the key ({error_of(status, text)}); give its own")
    if status == 404 and asked is not None:  # it has no list
        return Served(asked)
    try:
        served = [each for each in json.loads(text)["data"] if isinstance(each.get("id"), str)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Served(None, problem=f"{url} doesn't answer as OpenAI's API does ({status})")
    names = [each["id"] for each in served]
    if asked is None and not names:
        return Served(None, problem=f"{url} serves no model")
    name = names[0] if asked is None else asked
    if name not in names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(f"{url} doesn't serve {name!r}; expected one of {shown}")
    context = next(each for each in served if each["id"] == name).get("max_model_len")
    return Served(name, context if isinstance(context, int) and context > 0 else None)
