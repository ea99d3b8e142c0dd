"""Servers with OpenAI's API as an engine: every trace is a streamed request, stopped by closing it.

Requests run in a thread of their own (`sending`), and what they bring goes through one queue to whoever reads the stream.
A trace that was stopped goes on by prefix: its prompt and its text so far are sent again. One whose server fails goes on at
another in the same way, or begins anew where no server continues a text.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from laconic import checks
from laconic.compress import FullKV
from laconic.engines.base import (
    NOTHING,
    Chunk,
    Engine,
    EngineStats,
    FinishReason,
    GivenUpError,
    Prompt,
    Sampling,
    Trace,
    up_to_brace,
)
from laconic.engines.chat import Chat, chat_of
from laconic.engines.openai.asking import Asker, key_of
from laconic.engines.openai.endpoints import Endpoints
from laconic.engines.openai.probing import ask_probes, ask_texts, probe_bodies
from laconic.engines.openai.protocol import (
    MOST_LOGPROBS,
    Conversation,
    PlainText,
    RemotePiece,
    RemotePrompt,
    confidence_of,
    logprobs_of,
    plan,
)
from laconic.engines.openai.remote_trace import LiveRequest, PieceIds, RemoteText, RemoteTrace
from laconic.engines.openai.sending import Failure, Message, Sender
from laconic.engines.requests import check_ids, check_length, check_request
from laconic.engines.scheduler import Scheduler
from laconic.errors import InputError, LaconicWarning

RETRIES = 5


class OpenAIEngine(Engine):
    """An engine over one server or several of the same model. Close it, or use it as a context.

    urls: addresses, as http://127.0.0.1:8000/v1, separated by commas. model: as the servers call it; None: the one that they
    serve. key: what they want to be sent; key_env: the environment variable that holds it (OPENAI_API_KEY where it is set).
    max_batch: requests at once. chat: a system message and arguments of the server's chat template. extra: fields that go with
    every request, such as laconic's own.

    A prompt of text is a user's message, and a `Conversation` several: both go to /v1/chat/completions. One of token ids and a
    `PlainText` go to /v1/completions. Token ids are the server's where it tells them (vLLM and laconic do), else numbers of the
    texts of its pieces. KV tokens are those of a full cache, by what is known of lengths. Trace i draws with a seed of its own,
    made of the sampling's and i.

    Raises InputError for an address that is none, a server that can't be reached, refuses the key or doesn't know the model;
    and, while it streams, EngineError where a trace can't go on anywhere, once the others have come to their ends.
    """

    name = "openai"
    own_token_ids: ClassVar[bool] = False

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str | None = None,
        key: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        max_batch: int = 64,
        chunk_tokens: int = 1,
        chat: Chat | None = None,
        extra: Mapping[str, Any] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.endpoints = Endpoints(urls)
        self.chat = chat_of(chat)
        self.policy = FullKV()
        self.retries = checks.whole("retries", retries, 0)
        self._extra = dict(extra or {})
        self._scheduler: Scheduler[RemoteTrace] = Scheduler(self.policy.schedule, max_batch, chunk_tokens)
        self._stats = EngineStats()
        self._live: dict[int, LiveRequest] = {}
        self._requests = 0
        self._given_up: list[str] = []
        self._warned = False
        self._pieces = PieceIds()
        headers = key_of(key_env) if key is None else {"Authorization": f"Bearer {key}"}
        self._asker = Asker(self.endpoints, headers, max_batch)
        self._sender = Sender(self.endpoints, headers, max_batch, self.retries)
        try:
            served = self._asker.find_model(model)
            self.model, self.context = served.name, served.context
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all requests. Closing twice is fine."""
        self._sender.close()
        self._asker.close()

    def __enter__(self) -> OpenAIEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        """The question as it is: the server's chat template is applied there."""
        if not checks.text("question", question).strip():
            raise InputError("the problem is empty: give a question")
        return question

    def submit(
        self,
        prompt: Prompt | Conversation | PlainText,
        sampling: Sampling,
        n: int = 1,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """See Engine.submit. What the server thinks of a prompt is known when it is asked, in `stream`."""
        self._check_open()
        n = check_request(sampling, n)
        asked = max(sampling.confidence_top_k, sampling.logprobs or 0)
        if asked > MOST_LOGPROBS:
            raise InputError(
                f"the log-probabilities of {asked} candidates are asked for; OpenAI's API tells at most {MOST_LOGPROBS}"
            )
        own: RemotePrompt
        tokens: tuple[int, ...] = ()
        if isinstance(prompt, Conversation | PlainText):
            own = prompt
        elif isinstance(prompt, str):
            if not checks.text("prompt", prompt).strip():
                raise InputError("the prompt is empty: give a question")
            own = prompt
        else:
            own = tokens = check_ids(prompt)
            check_length(len(tokens), self.context)
        limit = sampling.max_new_tokens
        if self.context is not None and tokens:
            limit = min(limit, self.context - len(tokens))

        def make(trace: Trace, number: int) -> RemoteTrace:
            return RemoteTrace(
                trace=trace,
                number=number,
                limit=limit,
                stop_ids=frozenset(),
                text=RemoteText(),
                prompt=own,
            )

        return self._scheduler.submit(tokens, sampling, n, ids, False, make)

    def stream(self) -> Generator[Chunk, None, None]:
        self._check_open()
        outbox = self._scheduler.outbox
        with self._scheduler.streaming():
            self._given_up.clear()
            while True:
                while outbox:
                    yield outbox.popleft()
                self._stop_leaving()
                self._send()
                if outbox:
                    continue
                if not self._live:
                    if self._given_up:
                        raise GivenUpError(self._given_up[0])
                    return
                try:
                    message = self._sender.inbox.get(timeout=self.longest_wait)
                except queue.Empty:
                    yield NOTHING
                    continue
                self._take(message)

    def stop(self, trace_id: str) -> None:
        entry = self._scheduler.entry(trace_id)
        if entry.trace.state == "waiting" and entry.request:  # asked for, and nothing has come of it
            self._cancel(entry)
        self._scheduler.stop(trace_id)

    def resume(self, trace_id: str) -> None:
        self._scheduler.resume(trace_id)

    def trace(self, trace_id: str) -> Trace:
        return self._scheduler.trace(trace_id)

    def prompt_length(self, trace_id: str) -> int:
        """Tokens of a trace's prompt: as sent, or as the server has counted them by the trace's end; 0: not known."""
        entry = self._scheduler.entry(trace_id)
        return len(entry.trace.prompt_ids) or entry.prompt_length

    def generated_length(self, trace_id: str) -> int:
        """Tokens that were generated for a trace: as the server has counted them, once a request of it has ended, else the
        pieces that came. One that began anew counts both."""
        return self._scheduler.entry(trace_id).generated

    def forget(self, trace_ids: Sequence[str]) -> None:
        self._scheduler.forget(trace_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens that came without ids. Raises InputError for others: their tokenizer is the server's."""
        return self._pieces.decode(token_ids)

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe, and `probing.ask_probes` for what the columns are. Each text is sent with the suffix and continued.

        Raises InputError for a prompt of token ids, EngineError where a server doesn't continue texts.
        """
        checks.whole("steps", steps, 1, meaning="tokens of the answer")
        bodies = self._probe_bodies(trace_ids, suffix, steps, MOST_LOGPROBS)
        found, tokens = ask_probes(self._asker, bodies, steps, self._pieces.number)
        self._stats.side_tokens += tokens
        return found

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """See Engine.probe_texts. Each text is sent with the suffix and continued; no log-probabilities are asked for.

        Raises as `probe`.
        """
        checks.whole("max_tokens", max_tokens, 1, meaning="tokens")
        checks.flag("until_closed", until_closed)
        texts, tokens = ask_texts(self._asker, self._probe_bodies(trace_ids, suffix, max_tokens, None))
        self._stats.side_tokens += tokens
        return [up_to_brace(text) for text in texts] if until_closed else texts

    def _probe_bodies(
        self, trace_ids: Sequence[str], suffix: str, steps: int, logprobs: int | None
    ) -> list[tuple[str, dict[str, Any]]]:
        self._asker.hurry = self.longest_wait is not None  # whoever drives waits for the answers, with all others
        entries = [self._scheduler.entry(name) for name in checks.texts("trace_ids", trace_ids, "ids of traces")]
        checks.text("suffix", suffix)
        traces = [(entry.prompt, entry.trace) for entry in entries]
        bodies = probe_bodies(traces, suffix, steps, self.chat.arguments, self.chat.system, logprobs)
        return [(path, {"model": self.model, **body, **self._extra}) for path, body in bodies]

    @property
    def stats(self) -> EngineStats:
        live = sum(len(each.entry.trace.prompt_ids) + each.entry.computed for each in self._live.values())
        self._stats.peak_kv_tokens = max(self._stats.peak_kv_tokens, live)
        return replace(self._stats, live_kv_tokens=live)

    @property
    def max_batch(self) -> int:
        """Requests at once."""
        return self._scheduler.max_batch

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk holds at most."""
        return self._scheduler.chunk_tokens

    # ---- what comes ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._sender.closed:
            raise InputError("this engine is closed: make a new one")

    def _send(self) -> None:
        """Waiting traces are asked for, as many at once as may be."""
        waiting = self._scheduler.waiting
        while waiting and len(self._live) < self.max_batch:
            entry = waiting.popleft()
            self._requests += 1
            entry.request = self._requests
            self._live[entry.request] = LiveRequest(entry)
            self._begin(entry.request)

    def _begin(self, number: int, anew: bool = False) -> None:
        live = self._live[number]
        live.counted = 0
        entry = live.entry
        trace = entry.trace
        if anew:  # what there is of it was paid for
            entry.restart(RemoteText())
            entry.known = True
        tokens = trace.token_ids if entry.known else None
        if trace.token_ids and tokens is None and isinstance(entry.prompt, tuple):
            self._give_up(number, "the server tells no token ids, so a prompt of token ids can't be continued")
            return
        if len(trace.token_ids) >= entry.limit:  # all had come when the stream broke, or when it was stopped
            self._end(number, "length")
            return
        asked = plan(
            entry.prompt,
            trace.text,
            tokens,
            trace.sampling,
            trace.index,
            entry.limit - len(trace.token_ids),
            self.chat.arguments,
            self.chat.system,
        )
        body = {"model": self.model, **asked.body, **self._extra}
        live.task = self._sender.begin(number, asked.path, body, asked.continues or bool(trace.text))

    def _take(self, message: Message) -> None:
        live = self._live.get(message.request)
        if live is None:  # of a request that is gone
            return
        if isinstance(message.what, Failure):
            self._failed(message.request, live, message.what)
            return
        piece, entry = message.what, live.entry
        if piece.tokens:
            self._accept(live, piece)
        if not entry.request:  # given up
            return
        if piece.finish is not None:
            self._check_usage(live, piece)
            self._end(message.request, "length" if piece.finish == "length" else "stop")
        elif (
            entry.known
            and len(entry.trace.token_ids) >= entry.limit
            and entry.limit < entry.trace.sampling.max_new_tokens
        ):
            self._end(message.request, "length")
        elif len(entry.pending) >= self._scheduler.chunk_tokens:
            self._scheduler.outbox.append(entry.flush())

    def _check_usage(self, live: LiveRequest, piece: RemotePiece) -> None:
        """What the server says that it computed, against what came."""
        usage = piece.usage or {}
        made, read = usage.get("completion_tokens"), usage.get("prompt_tokens")
        if isinstance(read, int) and read > 0:
            self._stats.prompt_tokens += read
            if not live.entry.prompt_length:  # of its first request: what follows may send its text along
                live.entry.prompt_length = read
        if not isinstance(made, int) or made == live.counted or made < 0:
            return
        if live.entry.known and not self._warned:
            self._warned = True
            warnings.warn(
                f"the server says that it generated {made} tokens, and {live.counted} came; what came is counted",
                LaconicWarning,
                stacklevel=2,
            )
        elif not live.entry.known:  # pieces were counted, and a piece may hold several tokens
            self._stats.generated_tokens += made - live.counted
            live.entry.generated += made - live.counted

    def _accept(self, live: LiveRequest, piece: RemotePiece) -> None:
        entry = live.entry
        trace, sampling = entry.trace, entry.trace.sampling
        trace.state = "running"
        text: Any = entry.text
        text.next += piece.text
        for told in piece.tokens:
            if len(entry.pending) == self._scheduler.chunk_tokens:
                self._scheduler.outbox.append(entry.flush())
            if told.id is None:
                token, entry.known = self._pieces.number(told.text), False
            else:
                token = told.id
                if told.logprob is not None:
                    self._pieces.note(told.text, token)
            confidence = logprobs = None
            if sampling.confidence_top_k:
                confidence = confidence_of(told, sampling.confidence_top_k)
            if sampling.logprobs is not None:
                ids = self._pieces.alternative if entry.known else self._pieces.number
                logprobs = logprobs_of(told, ids, sampling.logprobs)
            if (sampling.confidence_top_k and confidence is None) or (
                sampling.logprobs is not None and logprobs is None
            ):
                self._give_up(
                    entry.request,
                    "the server tells no log-probabilities, and they were asked for: use a strategy that reads none "
                    "(ties=index, no deepconf)",
                )
                return
            entry.add(token, confidence, logprobs)
            live.counted += 1
            entry.generated += 1
            self._stats.generated_tokens += 1

    def _failed(self, number: int, live: LiveRequest, failure: Failure) -> None:
        live.tries += 1
        if failure.anew and live.entry.trace.token_ids and live.tries <= self.retries:
            self._begin(number, anew=True)
        elif failure.final or failure.anew or live.tries > self.retries:
            self._give_up(number, failure.message, failure.status)
        else:
            self._begin(number)

    def _give_up(self, number: int, why: str, status: int = 0) -> None:
        entry = self._live[number].entry
        entry.trace.error, entry.trace.error_status = why, status
        self._given_up.append(f"trace {entry.trace.id!r} can't go on: {why}")
        self._cancel(entry)
        self._scheduler.outbox.append(self._scheduler.end(entry, "stopped"))

    def _stop_leaving(self) -> None:
        entries = list(self._scheduler.leaving.values())
        self._scheduler.leaving.clear()
        for entry in entries:
            self._cancel(entry)
            self._scheduler.outbox.append(self._scheduler.end(entry, "stopped"))

    def _end(self, number: int, reason: FinishReason) -> None:
        entry = self._live[number].entry
        self._cancel(entry)
        self._scheduler.outbox.append(self._scheduler.end(entry, reason))

    def _cancel(self, entry: RemoteTrace) -> None:
        live = self._live.pop(entry.request, None)
        entry.request = 0
        if live is not None and live.task is not None:
            live.task.cancel()
