"""laconic's own loop on a transformers model: rows join, leave, stop and resume while the batch runs.

A step is one forward pass of one token a row. Rows that finish leave the batch; waiting traces take their places. The traces
of one prompt share its prefill. A stopped trace gives its memory back and is rebuilt from its tokens when it resumes, its
prefill clipped at the compression points, so that it holds what it would have held.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic import checks
from laconic.compress import FullKV, Policy
from laconic.engines.base import Chunk, EngineStats, FinishReason, Prompt, Sampling, Trace
from laconic.engines.chat import Chat, chat_of
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.batch import Batch, Run
from laconic.engines.hf.models import check_model, check_prompt_fits, context_length, text_config
from laconic.engines.hf.readable import ReadableEngine, check_layers
from laconic.engines.hf.reading import Reader
from laconic.engines.hf.rotation import check_rotation
from laconic.engines.hf.stats import add_stats
from laconic.engines.requests import check_policy, check_request, check_tokenizer, check_vocabulary
from laconic.engines.sampling import NONE, draw, mean_top_logprob, trace_key, uniform
from laconic.engines.text import Detokenizer, end_ids, render, tokenize
from laconic.errors import InputError


class HFEngine(ReadableEngine):
    """An engine on one transformers decoder.

    policy: None is FullKV. max_batch: rows that run at once. chunk_tokens: tokens a chunk holds at most (larger is cheaper).
    record_held: remember, for `held` and `kept`, which tokens each layer held when a trace ended or was stopped.
    record_states: remember, for `states`, the hidden states of a trace's first so many tokens, of `state_layers` (indices
    into transformers' `hidden_states`; several stand side by side). chat: what `render` puts into the chat template beside
    the question. Raises InputError for a model that can't be compressed, whatever the policy, so that policies can be
    compared, or a chat that the template does not take.
    """

    name = "hf"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        policy: Policy | None = None,
        max_batch: int = 64,
        chunk_tokens: int = 1,
        record_held: bool = False,
        record_states: int = 0,
        state_layers: Sequence[int] = (-1,),
        chat: Chat | None = None,
    ) -> None:
        check_model(model)
        self._open(max_batch, chunk_tokens)
        check_policy(policy)
        check_tokenizer(tokenizer)
        checks.flag("record_held", record_held)
        check_layers(model, record_states, state_layers)
        self.model, self.tokenizer = model, tokenizer
        self.policy = policy if policy is not None else FullKV()
        self.chat = chat_of(chat)
        self.chat.check(tokenizer)
        self.record_held = record_held
        self.state_layers = tuple(state_layers)
        self._batch = Batch(model, self.policy, record_states, self.state_layers)
        self._reader = Reader(model, self.policy)
        self._counted = EngineStats()
        self._broken: list[Run] = []  # of this stream: whose next token had no distribution
        self._undrawn: list[Run] = []  # those of this step
        self._end_ids = end_ids(model.generation_config, model.config, tokenizer)

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        return render(self.tokenizer, question, self.chat)

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """See Engine.submit. Text is tokenized without extra special tokens where the tokenizer has a chat template."""
        n = check_request(sampling, n)
        tokens = tokenize(self.tokenizer, prompt)
        check_prompt_fits(self.model, len(tokens))
        check_vocabulary(tokens, text_config(self.model).vocab_size)
        context = context_length(self.model)
        limit = sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - len(tokens))
        check_rotation(self.model, len(tokens), limit, mixed=True)
        stop_ids = self._end_ids | frozenset(sampling.stop_token_ids)

        def make(trace: Trace, number: int) -> Run:
            text = Detokenizer(self.tokenizer)
            return Run(trace, number, trace_key(sampling.seed, trace.index), limit, stop_ids, text)

        return self._enter(tokens, sampling, n, ids, make)

    def stream(self) -> Generator[Chunk, None, None]:
        with self._alone(), AttentionBinding(self.model):
            self._broken.clear()  # of a stream that was closed
            while True:
                # Rows have left before their last chunk goes out: closing the iterator here loses nothing.
                while self._outbox:
                    yield self._outbox.popleft()
                self._settle()
                if self._admit():
                    self._emit()
                if self._batch:
                    self._step()
                    self._emit()
                elif not self._waiting and not self._outbox:
                    if self._broken:
                        raise InputError(self._told_broken())
                    return

    @property
    def stats(self) -> EngineStats:
        left_alone = self._batch.left_alone
        return replace(add_stats(self._batch.stats(), self._counted), left_alone=left_alone)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Rows that were asked to stop leave the batch."""
        if self._leaving:
            rows = [i for i, run in enumerate(self._batch.runs) if run.trace.id in self._leaving]
            self._leaving.clear()
            self._outbox.extend([self._close(self._batch.runs[i], "stopped") for i in rows])
            self._batch.remove(rows)

    def _close(self, run: Run, reason: FinishReason) -> Chunk:
        trace = run.trace
        trace.state = "stopped" if reason == "stopped" else "finished"
        trace.finish_reason = reason
        if self.record_held:
            run.held = self._batch.held(run)
        self._account(run)
        trace.kv_tokens = 0
        if reason != "stopped":
            held_back = run.text.finish([t for t in trace.token_ids if t not in run.stop_ids])
            run.pending_text.append(held_back)
            trace.text = run.text.text
        return self._flush(run, reason)

    def _flush(self, run: Run, reason: FinishReason | None = None) -> Chunk:
        logprobs = tuple(run.pending_logprobs) if run.trace.sampling.logprobs else None
        chunk = Chunk(run.trace.id, tuple(run.pending), "".join(run.pending_text), logprobs, reason)
        run.pending, run.pending_text, run.pending_logprobs = [], [], []
        return chunk

    def _admit(self) -> bool:
        """Waiting traces take free rows. True if some did."""
        if not self._to_admit(len(self._batch)):
            return False
        start = time.perf_counter()
        while self._waiting and len(self._batch) < self.max_batch:
            group = self._next_group(self.max_batch - len(self._batch))
            rows = min(self.max_batch, len(self._batch) + len(group) + len(self._waiting))
            try:
                logits = self._batch.admit(group, rows)
            except BaseException:  # out of memory, say: the traces wait on, nothing of theirs is lost
                self._waiting.extendleft(reversed(group))
                raise
            self._counted.prompt_tokens += len(group[0].trace.prompt_ids)
            for run in group:
                run.trace.state = "running"
            if logits is not None:
                self._accept(group, logits.expand(len(group), -1))
        if self._batch.device.type == "cuda":
            torch.cuda.synchronize(self._batch.device)
        self._counted.prefill_seconds += time.perf_counter() - start
        return True

    def _step(self) -> None:
        """One forward pass of one token a row."""
        start = time.perf_counter()
        try:
            self._accept(self._batch.runs, self._batch.step())
        except BaseException:  # out of memory, Ctrl-C: what the cache holds is not whole, what the traces hold is
            self._set_aside()
            raise
        self._counted.decode_seconds += time.perf_counter() - start

    def _set_aside(self) -> None:
        """All rows leave the batch. The next stream rebuilds them from their tokens; those that were to stop have stopped."""
        for run in reversed(self._batch.runs):
            if run.trace.id in self._leaving:
                self._outbox.append(self._close(run, "stopped"))
            else:
                run.trace.state = "waiting"
                self._waiting.appendleft(run)
        self._leaving.clear()
        self._batch.clear()

    def _emit(self) -> None:
        """Chunks that are full or last go out; rows that have finished leave."""
        finished = []
        for i, run in enumerate(self._batch.runs):
            if run in self._undrawn:
                finished.append(i)
                self._leaving.pop(run.trace.id, None)
                if run.pending:
                    self._outbox.append(self._flush(run))
                self._close(run, "stopped")  # whoever reads waits for no last chunk: an error comes in its place
                continue
            reason = self._finish_reason(run)
            if reason is not None:
                finished.append(i)
                self._outbox.append(self._close(run, reason))
            elif len(run.pending) >= self.chunk_tokens:
                self._outbox.append(self._flush(run))
        self._batch.remove(finished)
        self._undrawn.clear()

    @torch.inference_mode()
    def _accept(self, runs: list[Run], logits: Tensor) -> None:
        """Draw the next token of every row and note it."""
        uniforms = [uniform(run.key, len(run.trace.token_ids)) for run in runs]
        picked = draw(logits, [run.trace.sampling for run in runs], uniforms).tolist()
        most = max(run.trace.sampling.logprobs for run in runs)
        marks = mean_top_logprob(logits, most).tolist() if most else None
        for i, (run, token) in enumerate(zip(runs, picked, strict=True)):
            trace = run.trace
            if token == NONE:
                self._broken.append(run)
                self._undrawn.append(run)
                continue
            trace.token_ids.append(token)
            run.pending.append(token)
            if marks is not None and trace.sampling.logprobs:
                value = marks[i]
                if trace.sampling.logprobs != most:
                    value = float(mean_top_logprob(logits[i : i + 1], trace.sampling.logprobs)[0])
                trace.logprobs.append(value)
                run.pending_logprobs.append(value)
            if token not in run.stop_ids:
                run.pending_text.append(run.text.add(token))
                trace.text = run.text.text
        self._counted.generated_tokens += sum(token != NONE for token in picked)

    def _told_broken(self) -> str:
        first, more = self._broken[0].trace, len(self._broken) - 1
        others = f" (and {more} more of its stream)" if more else ""
        return (
            f"the model gave no probabilities for token {len(first.token_ids)} of trace {first.id!r}{others}: its logits are "
            "NaN or infinite, as from damaged weights or from float16 that overflows (bfloat16 and float32 don't); it is "
            "stopped with the tokens before"
        )

    def _finish_reason(self, run: Run) -> FinishReason | None:
        if run.trace.token_ids[-1] in run.stop_ids:
            return "stop"
        return "length" if len(run.trace.token_ids) >= run.limit else None
