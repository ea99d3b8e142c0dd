"""Recorded traces played back token by token: an engine without a model.

Strategies are compared on identical traces in seconds, and pay what they would have paid: rows join, leave, stop, resume
and are rebuilt as in `engines.hf`, in the same order, and the same bookkeeping counts their KV tokens and steps. Only the
clock is missing, as nothing is computed: seconds are 0.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from transformers import PreTrainedTokenizerBase

from laconic import checks
from laconic.compress import Policy, parse
from laconic.engines.base import Chunk, EngineStats, FinishReason, Prompt, Sampling, Trace
from laconic.engines.hf.engine import HFEngine
from laconic.engines.hf.stats import add_stats
from laconic.engines.played import Play, PlayedRows
from laconic.engines.recorded import Recorded
from laconic.engines.requests import check_policy, check_request, check_tokenizer
from laconic.engines.rereading import RereadingEngine
from laconic.engines.text import decode
from laconic.errors import InputError
from laconic.traces import TraceRecord


class ReplayEngine(RereadingEngine):
    """Plays back recorded traces: trace i of a prompt is record i of the same sampling.

    records: of one policy and one model, any number of problems. policy: None is the recorded one. max_batch: rows that run
    at once. model_engine: an HFEngine on the model that wrote the records, for `states`, `probe` and `kept`, which need one;
    its tokenizer serves for texts too. tokenizer: where there is no such engine; with neither, a trace's text comes whole,
    with its last chunk. chunk_tokens: tokens a chunk holds at most.

    A request that differs from what was recorded is refused, naming both. Raises InputError as `Recorded`, and for a
    policy or a model_engine of another policy than the records'.
    """

    name = "replay"

    def __init__(
        self,
        records: Sequence[TraceRecord],
        policy: Policy | None = None,
        max_batch: int = 64,
        model_engine: HFEngine | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chunk_tokens: int = 1,
    ) -> None:
        self._open(max_batch, chunk_tokens)
        check_policy(policy)
        check_tokenizer(tokenizer)
        if model_engine is not None:
            checks.instance("model_engine", model_engine, HFEngine, "an HFEngine on the model that wrote the traces")
        if tokenizer is None and model_engine is not None:
            tokenizer = model_engine.tokenizer
        self.tokenizer = tokenizer
        self.recorded = Recorded(records, tokenizer)
        self.policy = policy if policy is not None else parse(self.recorded.policy)
        for what, spec in (
            ("this replay", self.policy.spec()),
            ("the model's engine", model_engine.policy.spec() if model_engine is not None else self.recorded.policy),
        ):
            if spec != self.recorded.policy:
                raise InputError(
                    f"the traces were recorded under {self.recorded.policy}, {what} has {spec}; use that policy"
                )
        self.model_engine = model_engine
        self._rows = PlayedRows(self.policy.schedule, self.recorded.bytes_per_token)
        self._counted = EngineStats()

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        """The question itself: recorded prompts are found by it."""
        if not checks.text("question", question).strip():
            raise InputError("the problem is empty: give a question")
        return question

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """See Engine.submit. prompt: a recorded question, or a recorded prompt's text or token ids. Raises as Recorded.find."""
        n = check_request(sampling, n)
        tokens, parts = self.recorded.find(prompt, sampling, n)

        def make(trace: Trace, number: int) -> Play:
            part = parts[trace.index]
            if self.tokenizer is None and part.whole:
                trace.thinking = part.record.thinking  # the prompt itself can't be read
            return Play(trace, number, part)

        return self._enter(tokens, sampling, n, ids, make)

    def decode(self, token_ids: Sequence[int]) -> str:
        """See Engine.decode."""
        if self.recorded.tokenizer is None:
            return super().decode(token_ids)
        return decode(self.recorded.tokenizer, token_ids)

    def stream(self) -> Generator[Chunk, None, None]:
        with self._alone():
            while True:
                while self._outbox:
                    yield self._outbox.popleft()
                self._settle()
                if self._admit():
                    self._emit()
                if self._rows.plays:
                    self._rows.step()
                    self._draw(self._rows.plays)
                    self._emit()
                elif not self._waiting and not self._outbox:
                    return

    @property
    def stats(self) -> EngineStats:
        """As the engine that wrote the traces would count; `reserved_kv_bytes` and seconds are 0."""
        return add_stats(self._rows.stats(), self._counted)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Rows that were asked to stop leave the batch."""
        if self._leaving:
            rows = [i for i, play in enumerate(self._rows.plays) if play.trace.id in self._leaving]
            self._leaving.clear()
            self._outbox.extend([self._close(self._rows.plays[i], "stopped") for i in rows])
            self._rows.remove(rows)

    def _close(self, play: Play, reason: FinishReason) -> Chunk:
        trace = play.trace
        trace.state = "stopped" if reason == "stopped" else "finished"
        trace.finish_reason = reason
        self._account(play)
        trace.kv_tokens = 0
        if reason == "stopped":
            return self._flush(play, reason)
        streamed, whole = trace.text, self.recorded.text(play.part)
        # What the incremental detokenizer still held back (half a character, say) comes now.
        trace.text = whole if whole.startswith(streamed) else streamed
        chunk = self._flush(play, reason)
        trace.text = whole
        return chunk

    def _flush(self, play: Play, reason: FinishReason | None = None) -> Chunk:
        trace, sent = play.trace, play.sent
        logprobs = tuple(trace.logprobs[sent:]) if trace.sampling.logprobs else None
        chunk = Chunk(trace.id, tuple(trace.token_ids[sent:]), trace.text[play.sent_text :], logprobs, reason)
        play.sent, play.sent_text = len(trace.token_ids), len(trace.text)
        return chunk

    def _admit(self) -> bool:
        """Waiting traces take free rows, in groups and at moments as in HFEngine. True if some did."""
        if not self._to_admit(len(self._rows.plays)):
            return False
        while self._waiting and len(self._rows.plays) < self.max_batch:
            group = self._next_group(self.max_batch - len(self._rows.plays))
            self._rows.admit(group)
            self._counted.prompt_tokens += len(group[0].trace.prompt_ids)
            for play in group:
                play.trace.state = "running"
            if not group[0].trace.token_ids:
                self._draw(group)
        return True

    def _draw(self, plays: Sequence[Play]) -> None:
        """The next recorded token of every row."""
        for play in plays:
            trace, part, at = play.trace, play.part, len(play.trace.token_ids)
            if at == 0:
                play.pieces = self.recorded.pieces(part)
            trace.token_ids.append(part.tokens[at])
            if part.logprobs and part.record.logprobs is not None:
                trace.logprobs.append(part.record.logprobs[at])
            if play.pieces is not None and at < part.shown:
                trace.text = play.pieces.text[: play.pieces.ends[at]]
        self._counted.generated_tokens += len(plays)

    def _emit(self) -> None:
        """Chunks that are full or last go out; rows that have finished leave."""
        finished = []
        for i, play in enumerate(self._rows.plays):
            done = len(play.trace.token_ids)
            if done == len(play.part.tokens):
                finished.append(i)
                self._outbox.append(self._close(play, play.part.finish_reason))
            elif done - play.sent >= self.chunk_tokens:
                self._outbox.append(self._flush(play))
        self._rows.remove(finished)
