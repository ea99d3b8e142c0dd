"""vLLM as an engine: every trace is a request, stopped by aborting it and resumed as a new one.

The n traces of a prompt are n requests with the same tokens, whose full blocks vLLM's prefix cache computes once. Tokens are
drawn by `logits_processors` as on the HF engine. vLLM computes in processes of its own, a little ahead of the reader
(`client`): what it sent of a trace beyond the chunk at which that was stopped is dropped, and drawn again when the trace
resumes.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from laconic.compress import Policy
from laconic.engines.base import Chunk, Engine, EngineStats, FinishReason, GivenUpError, Prompt, Sampling, Trace
from laconic.engines.chat import Chat, chat_of
from laconic.engines.requests import check_length, check_request, check_settings, check_vocabulary
from laconic.engines.sampling import trace_key
from laconic.engines.scheduler import Scheduler
from laconic.engines.text import Detokenizer, begins_thinking, decode, render, tokenize
from laconic.engines.vllm.engine.client import AHEAD, VLLMClient
from laconic.engines.vllm.engine.counts import Counts
from laconic.engines.vllm.engine.messages import RequestOutput
from laconic.engines.vllm.engine.starting import RunningVLLM, start
from laconic.engines.vllm.engine.traces import VLLMTrace
from laconic.errors import InputError


class VLLMEngine(Engine):
    """An engine on one model that vLLM runs in this machine. Close it, or use it as a context: vLLM has processes of its own.

    model: a directory or a name on the Hub. policy: None is FullKV; others run through laconic's plugin. max_batch: traces
    that run at once. chunk_tokens: tokens a chunk holds at most. dtype: as vLLM takes it. ahead: tokens of a trace that
    vLLM may be ahead of the reader; more keeps it busy while a judge thinks, and wastes more of what is then stopped. log:
    a file for what vLLM prints. chat: as HFEngine's. Further arguments are vLLM's own (`tensor_parallel_size`,
    `max_model_len`, ...); on a CPU `enforce_eager` is set and the cache is 1 GiB, unless they say otherwise.

    `stats`: measured are `steps` (forward passes, prefill included; of all engines where vLLM runs several), `generated_tokens`
    (all that vLLM sent, also what was dropped), `prompt_tokens` (sent and not found in the prefix cache; generated ones too
    where a trace resumes), `preemptions`, seconds (of steps that gave a trace its first token, and of the others) and
    `reserved_kv_bytes`. Computed from the policy's schedule are KV tokens and bytes, compressions, evicted and kept: for every
    trace on its own, whereas vLLM's blocks hold a shared prompt once and are filled to their ends, and without what is done
    again after a preemption.

    Raises InputError where vLLM is missing, a policy can't run in it, the chat template does not take `chat`, or vLLM
    refuses the model, an argument or the memory; EngineError where vLLM dies, while it starts or later, or where it gives a
    trace up (once the others of the stream have come to their ends).
    """

    name = "vllm"

    def __init__(
        self,
        model: str | os.PathLike[str],
        policy: Policy | None = None,
        max_batch: int = 64,
        chunk_tokens: int = 1,
        dtype: str = "auto",
        *,
        ahead: int = AHEAD,
        log: Path | None = None,
        chat: Chat | None = None,
        **engine_args: Any,
    ) -> None:
        max_batch, chunk_tokens = check_settings(max_batch, chunk_tokens)
        started = start(model, policy, max_batch, dtype, ahead, log, chat, **engine_args)
        self._prepare(started, started.policy, max_batch, chunk_tokens, chat)
        self._close: Callable[[], object] = weakref.finalize(self, started.client.close)

    @classmethod
    def over(
        cls,
        started: RunningVLLM,
        max_batch: int = 64,
        chunk_tokens: int = 1,
        chat: Chat | None = None,
        policy: Policy | None = None,
    ) -> VLLMEngine:
        """An engine over a vLLM that runs already and is not this engine's to end. Others may use it before and after, one at a
        time: `stream` raises InputError while traces of another one run.

        policy: None is that of the launch; another one goes with each request, and the launch must have been told that such
        would come (`others` of `start`): InputError if it wasn't.
        """
        engine = cls.__new__(cls)
        chat_of(chat).check(started.tokenizer)
        if policy is not None:
            started.check_served(policy)
        engine._prepare(started, started.policy if policy is None else policy, max_batch, chunk_tokens, chat)
        engine._close = weakref.finalize(engine, _abandon, started.client, engine._live)
        return engine

    def _prepare(
        self, started: RunningVLLM, policy: Policy, max_batch: int, chunk_tokens: int, chat: Chat | None
    ) -> None:
        self.chat = chat_of(chat)
        self.policy, self.tokenizer = policy, started.tokenizer
        self._started = started
        self.generation_config = started.generation_config
        self._client, self._facts, self._end_ids = started.client, started.facts, started.end_ids
        self._scheduler: Scheduler[VLLMTrace] = Scheduler(self.policy.schedule, max_batch, chunk_tokens)
        self._counts = Counts(self.policy.schedule, self._facts.bytes_per_token)
        self._counts.stats.reserved_kv_bytes = self._facts.reserved_bytes
        self._live: dict[str, VLLMTrace] = {}  # by request
        self._prefix = f"{started.client.unique_prefix()}-"  # of this engine's requests
        self._requests = 0
        self._given_up: list[str] = []  # in this stream: a sentence for each trace that vLLM ended by itself
        self._client.users.add(self)

    @property
    def dtype(self) -> str:
        """Of the weights, as vLLM has chosen it: float32, bfloat16 or float16."""
        return str(self._client.config.model_config.dtype).removeprefix("torch.")

    def close(self) -> None:
        """End vLLM. Happens by itself when the engine is collected or the program ends; closing twice is fine."""
        if self._live and not self._client.closed:
            self._client.abort(list(self._live))
            self._live.clear()
        self._close()

    def __enter__(self) -> VLLMEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        return render(self.tokenizer, question, self.chat)

    def decode(self, token_ids: Sequence[int]) -> str:
        return decode(self.tokenizer, token_ids)

    def check_served(self, policy: Policy) -> None:
        """Raises InputError for a policy that no trace of this vLLM can have, by what it was launched with."""
        self._started.check_served(policy)

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling,
        n: int = 1,
        ids: Sequence[str] | None = None,
        policy: Policy | None = None,
    ) -> list[str]:
        """See Engine.submit. Text is tokenized without extra special tokens where the tokenizer has a chat template.

        policy: of these traces alone, which the launch must be able to serve (`check_served`); None: the engine's.
        """
        n = check_request(sampling, n)
        own = self.policy if policy is None else policy
        if own != self.policy:
            self.check_served(own)
        tokens = tokenize(self.tokenizer, prompt)
        check_length(len(tokens), self._facts.context)
        check_vocabulary(tokens, self._facts.vocabulary)
        limit = min(sampling.max_new_tokens, self._facts.context - len(tokens))
        stop_ids = frozenset(i for i in self._end_ids.union(sampling.stop_token_ids) if i < self._facts.vocabulary)

        def make(trace: Trace, number: int) -> VLLMTrace:
            return VLLMTrace(
                trace=trace,
                number=number,
                key=trace_key(sampling.seed, trace.index),
                policy=own,
                schedule=own.schedule,
                limit=limit,
                stop_ids=stop_ids,
                text=Detokenizer(self.tokenizer),
            )

        return self._scheduler.submit(tokens, sampling, n, ids, begins_thinking(self.tokenizer, tokens), make)

    def stream(self) -> Generator[Chunk, None, None]:
        reading, outbox = False, self._scheduler.outbox
        with self._scheduler.streaming():
            self._check_alone()
            self._given_up.clear()  # of a stream that was closed
            try:
                while True:
                    # Requests are gone before their last chunk goes out: closing the iterator here loses nothing.
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
                    if not reading:
                        # Only now that all are sent: those of one prompt start in one step.
                        self._client.set_reading(reading := True)
                    self._take()
            finally:
                if reading:
                    self._client.set_reading(False)

    def stop(self, trace_id: str) -> None:
        entry = self._scheduler.entry(trace_id)
        if entry.trace.state == "waiting" and entry.request:  # vLLM has it, and has sent nothing of it yet
            self._client.abort([entry.request])
            self._drop(entry)
        self._scheduler.stop(trace_id)

    def resume(self, trace_id: str) -> None:
        self._scheduler.resume(trace_id)

    def trace(self, trace_id: str) -> Trace:
        return self._scheduler.trace(trace_id)

    def forget(self, trace_ids: Sequence[str]) -> None:
        self._scheduler.forget(trace_ids)

    @property
    def stats(self) -> EngineStats:
        return replace(self._counts.stats)

    @property
    def kv_token_limit(self) -> int:
        """Tokens of KV, one layer, that vLLM's cache has room for, over all traces."""
        return self._facts.reserved_bytes // max(self._facts.bytes_per_token, 1)

    @property
    def max_batch(self) -> int:
        """Traces that run at once."""
        return self._scheduler.max_batch

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk holds at most."""
        return self._scheduler.chunk_tokens

    def _check_alone(self) -> None:
        """What comes for another engine's traces would be lost here."""
        running = sum(len(other._live) for other in self._client.users if other is not self)
        if running and not self._client.dead:
            raise InputError(
                f"another engine over this vLLM has {running} traces that run: read its stream to the end before this one's, "
                "or stop them and read on"
            )

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Waiting traces take free places."""
        waiting = self._scheduler.waiting
        entries = [waiting.popleft() for _ in range(min(len(waiting), self.max_batch - len(self._live)))]
        if not entries:
            return
        for entry in entries:
            self._requests += 1
            entry.request = f"{self._prefix}{self._requests}"
        try:
            self._client.add_requests([e.make_request(self._started.policy, self._facts.vocabulary) for e in entries])
        except BaseException:  # none has been taken: the traces wait on
            for entry in entries:
                entry.request = ""
            self._scheduler.put_back(entries)
            raise
        self._live.update((entry.request, entry) for entry in entries)

    def _stop_leaving(self) -> None:
        """Traces that were asked to stop leave."""
        entries = list(self._scheduler.leaving.values())
        if entries:
            self._scheduler.leaving.clear()
            self._client.abort([entry.request for entry in entries])
            for entry in entries:
                self._end(entry, "stopped")

    def _take(self) -> None:
        """What the next step brought, as chunks: those that are full or last."""
        step, stats = self._client.next_step(), self._counts.stats
        stats.steps += 1
        stats.preemptions += step.preempted
        stats.generated_tokens += sum(len(out.tokens) for out in step.outputs if out.id.startswith(self._prefix))
        # What came for requests that are gone is dropped.
        moved = [(self._live[out.id], out) for out in step.outputs if out.id in self._live]
        moved.sort(key=lambda pair: pair[0].number)
        if all(entry.holding is not None for entry, _ in moved) and moved:
            stats.decode_seconds += step.seconds
        else:
            stats.prefill_seconds += step.seconds
        for entry, out in moved:
            self._accept(entry, out)
        for entry, out in moved:
            self._emit(entry, out)

    def _accept(self, entry: VLLMTrace, out: RequestOutput) -> None:
        """Note a request's new tokens."""
        trace = entry.trace
        for i, token in enumerate(out.tokens):
            if len(entry.pending) == self._scheduler.chunk_tokens:
                self._scheduler.outbox.append(entry.flush())
            if entry.holding is None:
                trace.state = "running"
                entry.holding = self._counts.enter(len(trace.prompt_ids), len(trace.token_ids), entry.schedule)
                self._counts.stats.prompt_tokens += len(trace.prompt_ids) + len(trace.token_ids) - out.cached
            else:
                self._counts.step(entry.holding)
            confidence = out.confidences[i] if out.confidences else None
            entry.add(token, confidence, out.logprobs[i] if out.logprobs else None)

    def _emit(self, entry: VLLMTrace, out: RequestOutput) -> None:
        if out.ended is not None:
            if out.ended not in ("stop", "length"):
                # Told when the others have come to their ends.
                why = f"({out.ended}): {self._client.last_error()}"
                entry.trace.error = f"vLLM gave it up {why}"
                self._given_up.append(
                    f"vLLM gave trace {entry.trace.id!r} up {why}; it is stopped, with "
                    f"{len(entry.trace.token_ids)} tokens"
                )
                self._end(entry, "stopped")
            else:
                self._end(entry, "stop" if out.ended == "stop" else "length")
        elif len(entry.pending) >= self._scheduler.chunk_tokens:
            self._scheduler.outbox.append(entry.flush())

    def _end(self, entry: VLLMTrace, reason: FinishReason) -> None:
        """The trace's last chunk."""
        self._drop(entry)
        self._scheduler.outbox.append(self._scheduler.end(entry, reason))

    def _drop(self, entry: VLLMTrace) -> None:
        """The trace has no request any more, and holds nothing."""
        self._live.pop(entry.request, None)
        entry.request = ""
        if entry.holding is not None:
            self._counts.leave(entry.holding)
            entry.holding = None


def _abandon(client: VLLMClient, live: dict[str, VLLMTrace]) -> None:
    if live and not client.closed:
        client.abort_soon(live)
        live.clear()
