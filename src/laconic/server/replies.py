"""What clients get: OpenAI's objects for the three endpoints, whole or as a stream, made of a job's events.

Written for strict clients: a role comes once a choice, choices begin in the order of their index, no delta holds a number, the
last chunk before [DONE] has the usage and no choices where that was asked for, and every finish_reason is one of OpenAI's.
"""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laconic.engines.openai.statuses import passed_on
from laconic.errors import EngineError, LaconicError
from laconic.server.asks import Ask, AskError
from laconic.server.events import ChoiceEnded, Done, Event, ProgressTold, Restarted, TextTold, TokenTold, Usage


def error_body(error: LaconicError) -> tuple[int, dict[str, Any]]:
    """The status and the body that tell of an error."""
    status, param, code = 400, None, None
    if isinstance(error, AskError):
        status, param, code = error.status, error.param, error.code
    elif isinstance(error, EngineError):
        status = passed_on(error.status)
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return status, {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def usage_object(usage: Usage, responses: bool = False) -> dict[str, Any]:
    given, made = ("input_tokens", "output_tokens") if responses else ("prompt_tokens", "completion_tokens")
    return {
        given: usage.prompt,
        made: usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        f"{made}_details": {"reasoning_tokens": usage.reasoning},
        f"{given}_details": {"cached_tokens": 0},
    }


def chat_logprobs(told: Sequence[TokenTold]) -> list[dict[str, Any]]:
    return [
        {**_token(each.text, each.logprob), "top_logprobs": [_token(text, value) for text, value in each.top]}
        for each in told
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    whole = "\ufffd" not in text  # else a part of a character, whose bytes the text doesn't tell
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace")) if whole else None}


class Reply(ABC):
    """One response as it grows. `whole` is the object of a finished one; `chunks` turns events into a stream's objects."""

    object = ""
    prefix = ""

    def __init__(self, ask: Ask, model: str, choices: int) -> None:
        self.ask, self.model = ask, model
        self.id = f"{self.prefix}{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.texts = [["", ""] for _ in range(choices)]  # said, thought
        self.told: list[list[TokenTold]] = [[] for _ in range(choices)]
        self.token_ids: list[list[int]] = [[] for _ in range(choices)]
        self.reasons: list[str | None] = [None] * choices
        self.done: Done | None = None

    def take(self, event: Event) -> None:
        """Note an event. Progress is no part of a whole reply."""
        if isinstance(event, TextTold):
            self.texts[event.choice][event.thinking] += event.text
            self.told[event.choice] += event.logprobs
            self.token_ids[event.choice] += event.token_ids
        elif isinstance(event, Restarted):
            self.texts[event.choice], self.told[event.choice], self.token_ids[event.choice] = ["", ""], [], []
        elif isinstance(event, ChoiceEnded):
            self.reasons[event.choice] = event.reason
        elif isinstance(event, Done):
            self.done = event

    @abstractmethod
    def whole(self) -> dict[str, Any]: ...

    @abstractmethod
    def opening(self) -> list[Mapping[str, Any]]:
        """What a stream begins with."""

    @abstractmethod
    def chunks(self, events: Iterable[Event]) -> list[Mapping[str, Any]]:
        """What a stream tells of events, which are noted too."""

    def sse(self, chunks: Iterable[Mapping[str, Any]]) -> bytes:
        """Chunks as server-sent events."""
        return b"".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode() for chunk in chunks)

    def ending(self) -> bytes:
        """What a stream ends with."""
        return b"data: [DONE]\n\n"

    def broken(self, error: LaconicError) -> bytes:
        """What a stream tells of an error that comes too late for a status."""
        return self.sse([error_body(error)[1]])

    def _object(self, kind: str = "") -> dict[str, Any]:
        return {"id": self.id, "object": kind or self.object, "created": self.created, "model": self.model}


class _ChoicesReply(Reply):
    """Of chat and completions, whose streams only differ in what a choice holds."""

    chunk_object = ""

    def __init__(self, ask: Ask, model: str, choices: int) -> None:
        super().__init__(ask, model, choices)
        self._last: list[ChoiceEnded] = []  # held back: statistics go with the last

    @abstractmethod
    def _text(self, event: TextTold) -> dict[str, Any]: ...

    @abstractmethod
    def _end(self, event: ChoiceEnded) -> dict[str, Any]: ...

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> Mapping[str, Any]:
        usage: dict[str, Any] = {"usage": None} if self.ask.include_usage else {}
        return {**self._object(self.chunk_object), "choices": choices, **usage, **more}

    def chunks(self, events: Iterable[Event]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        # Whoever asks for ids wants to know which token brought which text.
        for event in events if self.ask.token_ids else _joined(events):
            self.take(event)
            if isinstance(event, TextTold):
                ids = {"token_ids": list(event.token_ids)} if self.ask.token_ids else {}
                found.append(self._chunk([{**self._text(event), **ids}]))
            elif isinstance(event, ProgressTold):
                found += self._progress(event)
            elif isinstance(event, ChoiceEnded):
                found += [self._chunk([self._end(last)]) for last in self._last]
                self._last = [event]
            elif isinstance(event, Done):
                ends = [self._end(last) for last in self._last]
                report = {"laconic": event.report}
                if self.ask.include_usage:
                    found.append(self._chunk(ends))
                    found.append(self._chunk([], usage=usage_object(event.usage), **report))
                else:
                    found.append(self._chunk(ends, **report))
        return found

    def _progress(self, event: ProgressTold) -> list[Mapping[str, Any]]:
        return []

    def whole(self) -> dict[str, Any]:
        assert self.done is not None
        choices = [self._choice(index) for index in range(len(self.texts))]
        if self.ask.token_ids:
            for choice, ids in zip(choices, self.token_ids, strict=True):
                choice["token_ids"] = ids
        usage = usage_object(self.done.usage)
        return {**self._object(), "choices": choices, "usage": usage, "laconic": self.done.report}

    @abstractmethod
    def _choice(self, index: int) -> dict[str, Any]: ...


class ChatReply(_ChoicesReply):
    """/v1/chat/completions. Reasoning goes by both names that clients read."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def opening(self) -> list[Mapping[str, Any]]:
        first = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": index, "delta": first, "logprobs": None, "finish_reason": None}])
            for index in range(len(self.texts))
        ]

    def _text(self, event: TextTold) -> dict[str, Any]:
        delta = _reasoning(event.text) if event.thinking else {"content": event.text}
        logprobs = {"content": chat_logprobs(event.logprobs)} if event.logprobs else None
        return {"index": event.choice, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _progress(self, event: ProgressTold) -> list[Mapping[str, Any]]:
        delta = _reasoning(event.text)
        return [self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])]

    def _end(self, event: ChoiceEnded) -> dict[str, Any]:
        return {"index": event.choice, "delta": {}, "logprobs": None, "finish_reason": event.reason}

    def _choice(self, index: int) -> dict[str, Any]:
        said, thought = self.texts[index]
        message = {"role": "assistant", "content": said, "refusal": None}
        if thought:
            message |= _reasoning(thought)
        logprobs = None if self.ask.logprobs is None else {"content": chat_logprobs(self.told[index]), "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.reasons[index]}


def _reasoning(text: str) -> dict[str, str]:
    return {"reasoning_content": text, "reasoning": text}


class CompletionReply(_ChoicesReply):
    """/v1/completions: texts as the model writes them."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl-"

    def __init__(self, ask: Ask, model: str, choices: int) -> None:
        super().__init__(ask, model, choices)
        self._offsets = [0] * choices

    def opening(self) -> list[Mapping[str, Any]]:
        return []

    def _text(self, event: TextTold) -> dict[str, Any]:
        logprobs = self._logprobs(event.logprobs, event.choice) if event.logprobs else None
        return {"index": event.choice, "text": event.text, "logprobs": logprobs, "finish_reason": None}

    def _end(self, event: ChoiceEnded) -> dict[str, Any]:
        return {"index": event.choice, "text": "", "logprobs": None, "finish_reason": event.reason}

    def _choice(self, index: int) -> dict[str, Any]:
        logprobs = None if self.ask.logprobs is None else self._logprobs(self.told[index], index)
        return {
            "index": index,
            "text": self.texts[index][0],
            "logprobs": logprobs,
            "finish_reason": self.reasons[index],
        }

    def _logprobs(self, told: Sequence[TokenTold], choice: int) -> dict[str, Any]:
        offsets = []
        for each in told:
            offsets.append(self._offsets[choice])
            self._offsets[choice] += len(each.text)
        return {
            "tokens": [each.text for each in told],
            "token_logprobs": [each.logprob for each in told],
            "top_logprobs": [dict(reversed(each.top)) for each in told],  # of two with one text the likelier
            "text_offset": offsets,
        }


class ResponsesReply(Reply):
    """/v1/responses: an item of reasoning, where there is some, and a message."""

    object, prefix = "response", "resp_"

    def __init__(self, ask: Ask, model: str, choices: int) -> None:
        super().__init__(ask, model, choices)
        self._number = 0
        self._items: list[str] = []  # ids of those that have begun
        self._open: str = ""  # "reasoning", "message" or none
        self._progress = ""
        self._outputs: list[dict[str, Any]] = []

    def opening(self) -> list[Mapping[str, Any]]:
        return [
            self._event("response.created", response=self._response("in_progress")),
            self._event("response.in_progress", response=self._response("in_progress")),
        ]

    def chunks(self, events: Iterable[Event]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for event in _joined(events):
            self.take(event)
            if isinstance(event, TextTold):
                self._write("reasoning" if event.thinking else "message", event.text, found)
            elif isinstance(event, ProgressTold):
                self._write("reasoning", event.text, found)
            elif isinstance(event, Done):
                status = self._status()
                self._close(found, status)
                found.append(self._event(f"response.{status}", response=self._response(status)))
        return found

    def sse(self, chunks: Iterable[Mapping[str, Any]]) -> bytes:
        return b"".join(
            f"event: {chunk['type']}\ndata: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode() for chunk in chunks
        )

    def ending(self) -> bytes:
        return b""

    def broken(self, error: LaconicError) -> bytes:
        told = error_body(error)[1]["error"]
        response = {**self._response("failed"), "error": {"code": told["code"] or told["type"], "message": str(error)}}
        return self.sse([self._event("response.failed", response=response)])

    def whole(self) -> dict[str, Any]:
        said, thought = self.texts[0]
        for kind, text in (("reasoning", thought), ("message", said)):
            if text or kind == "message":
                status = "completed" if kind == "reasoning" and said else self._status()
                self._outputs.append(self._item(kind, text, self._new_id(kind), status))
        return self._response(self._status())

    def _status(self) -> str:
        return "incomplete" if self.reasons[0] == "length" else "completed"

    def _write(self, kind: str, text: str, found: list[Mapping[str, Any]]) -> None:
        if self._open != kind:
            self._close(found)
            self._open, self._progress = kind, ""
            self._items.append(self._new_id(kind))
            place, item = len(self._items) - 1, self._item(kind, None, self._items[-1])
            found.append(self._event("response.output_item.added", output_index=place, item=item))
            part = {"part": self._part(kind, "")}
            found.append(self._event("response.content_part.added", **self._where(), **part))
        self._progress += text
        name = "response.output_text.delta" if kind == "message" else "response.reasoning_text.delta"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        found.append(self._event(name, **self._where(), delta=text, **more))

    def _close(self, found: list[Mapping[str, Any]], status: str = "completed") -> None:
        if not self._open:
            return
        kind, text = self._open, self._progress
        name = "response.output_text.done" if kind == "message" else "response.reasoning_text.done"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        found.append(self._event(name, **self._where(), text=text, **more))
        found.append(self._event("response.content_part.done", **self._where(), part=self._part(kind, text)))
        item = self._item(kind, text, self._items[-1], status)
        self._outputs.append(item)
        found.append(self._event("response.output_item.done", output_index=len(self._items) - 1, item=item))
        self._open = ""

    def _where(self) -> dict[str, Any]:
        return {"item_id": self._items[-1], "output_index": len(self._items) - 1, "content_index": 0}

    def _new_id(self, kind: str) -> str:
        return f"{'msg' if kind == 'message' else 'rs'}_{secrets.token_hex(12)}"

    def _part(self, kind: str, text: str) -> dict[str, Any]:
        if kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}

    def _item(self, kind: str, text: str | None, name: str, status: str = "in_progress") -> dict[str, Any]:
        content = [] if text is None else [self._part(kind, text)]
        if kind == "message":
            return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}
        return {"id": name, "type": "reasoning", "status": status, "summary": [], "content": content}

    def _event(self, kind: str, **more: Any) -> Mapping[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}

    def _response(self, status: str) -> dict[str, Any]:
        sampling = self.ask.sampling
        found: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": list(self._outputs),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.ask.instructions,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "temperature": sampling.get("temperature"),
            "top_p": sampling.get("top_p"),
            "max_output_tokens": sampling.get("max_new_tokens"),
            "usage": None,
        }
        if self.done is not None and status != "in_progress":
            found["usage"] = usage_object(self.done.usage, responses=True)
            found["laconic"] = self.done.report
        return found


REPLIES: Mapping[str, type[Reply]] = {"chat": ChatReply, "completions": CompletionReply, "responses": ResponsesReply}


def _joined(events: Iterable[Event]) -> list[Event]:
    """Neighbouring pieces of one text as one: where a client is slower than the engine it gets fewer, larger chunks."""
    found: list[Event] = []
    parts: list[TextTold] = []

    def flush() -> None:
        if parts:
            first = parts[0]
            logprobs = tuple(told for part in parts for told in part.logprobs)
            ids = tuple(token for part in parts for token in part.token_ids)
            found.append(TextTold(first.choice, first.thinking, "".join(part.text for part in parts), logprobs, ids))
            parts.clear()

    for event in events:
        if isinstance(event, TextTold):
            if parts and (event.choice, event.thinking) != (parts[0].choice, parts[0].thinking):
                flush()
            parts.append(event)
        else:
            flush()
            found.append(event)
    flush()
    return found
