"""Recorded traces played back token by token: an engine without a model.

Strategies are compared on identical traces in seconds, and pay what they would have paid: the loop is HFEngine's, rows join,
leave, stop, resume and are rebuilt in the same order, and the same bookkeeping counts their KV tokens and steps. Only the clock
is missing, as nothing is computed: seconds are 0.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laconic import checks
from laconic.compress import Policy, parse
from laconic.engines.base import Chunk, Engine, EngineStats, Prompt, Sampling, Trace
from laconic.engines.hf.engine import HFEngine
from laconic.engines.hf.stats import add_stats
from laconic.engines.loop import Loop
from laconic.engines.replay.records import RecordedText, RecordIndex
from laconic.engines.replay.rows import ReplayedRows, ReplayedTrace
from laconic.engines.requests import check_goes_by_counts, check_policy, check_request, check_settings, check_tokenizer
from laconic.engines.scheduler import Scheduler
from laconic.engines.text import begins_thinking, decode
from laconic.engines.trace_reader import TraceReader
from laconic.errors import InputError
from laconic.traces import TraceRecord

if TYPE_CHECKING:
    from laconic.prune.needs import Needs


class ReplayEngine(Engine):
    """Plays back recorded traces: trace i of a prompt is record i of the same sampling.

    records: of one policy and one model, any number of problems. policy: None is the recorded one. max_batch: rows that run
    at once. model_engine: an HFEngine on the model that wrote the records, for `states`, `probe` and `kept`, which need one;
    its tokenizer serves for texts too. tokenizer: where there is no such engine; with neither, a trace's text comes whole,
    with its last chunk. chunk_tokens: tokens a chunk holds at most. acts_at: as of `Strategy.acts_at`, for who only
    acts when a trace has ended (0), or also when it has so many tokens: all tokens before that come in one chunk a row,
    however many, which is faster; what is counted stays the same. None: every token is shown.

    A request that differs from what was recorded is refused, naming both. Raises InputError as `RecordIndex`, and for a
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
        acts_at: int | None = None,
    ) -> None:
        check_settings(max_batch, chunk_tokens)
        check_policy(policy)
        check_tokenizer(tokenizer)
        if model_engine is not None:
            checks.instance("model_engine", model_engine, HFEngine, "an HFEngine on the model that wrote the traces")
        if tokenizer is None and model_engine is not None:
            tokenizer = model_engine.tokenizer
        self.tokenizer = tokenizer
        self.recorded = RecordIndex(records, tokenizer)
        self.policy = policy if policy is not None else parse(self.recorded.policy)
        for what, spec in (
            ("this replay", self.policy.spec()),
            ("the model's engine", model_engine.policy.spec() if model_engine is not None else self.recorded.policy),
        ):
            if spec != self.recorded.policy:
                raise InputError(
                    f"the traces were recorded under {self.recorded.policy}, {what} has {spec}; use that policy"
                )
        check_goes_by_counts(self.policy, "a replay")
        self.model_engine = model_engine
        self._scheduler: Scheduler[ReplayedTrace] = Scheduler(self.policy.schedule, max_batch, chunk_tokens)
        if acts_at is not None:
            checks.whole("acts_at", acts_at, 0, meaning="tokens; 0 is where a trace ends, None at every token")
        self._rows = ReplayedRows(self.policy.schedule, self.recorded.bytes_per_token, acts_at)
        self._loop = Loop(self._scheduler, self._rows)
        reader = None if model_engine is None else model_engine.model_reader
        self._trace_reader = TraceReader(self._scheduler, self._rows, reader, self._loop.counted)

    # ---- the interface --------------------------------------------------------------------------------------------

    def render(self, question: str) -> str:
        """The question itself: recorded prompts are found by it."""
        if not checks.text("question", question).strip():
            raise InputError("the problem is empty: give a question")
        return question

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        """See Engine.submit. prompt: a recorded question, or a recorded prompt's text or token ids.

        Raises InputError as RecordIndex.find.
        """
        n = check_request(sampling, n)
        tokens, outputs = self.recorded.find(prompt, sampling, n)

        def make(trace: Trace, number: int) -> ReplayedTrace:
            output = outputs[trace.index]
            if self.tokenizer is None and output.whole:
                trace.thinking = output.record.thinking  # the prompt itself can't be read
            return ReplayedTrace(
                trace=trace,
                number=number,
                limit=len(output.tokens),
                stop_ids=frozenset(),
                text=RecordedText(self.recorded, output),
                output=output,
            )

        return self._scheduler.submit(tokens, sampling, n, ids, begins_thinking(self.tokenizer, tokens), make)

    def stream(self) -> Generator[Chunk, None, None]:
        return self._loop.stream()

    def stop(self, trace_id: str) -> None:
        self._scheduler.stop(trace_id)

    def resume(self, trace_id: str) -> None:
        self._scheduler.resume(trace_id)

    def trace(self, trace_id: str) -> Trace:
        return self._scheduler.trace(trace_id)

    def forget(self, trace_ids: Sequence[str]) -> None:
        self._scheduler.forget(trace_ids)

    @property
    def stats(self) -> EngineStats:
        """As the engine that wrote the traces would count; `reserved_kv_bytes` and seconds are 0."""
        stats = add_stats(self._rows.stats(), self._loop.counted)
        return replace(stats, side_tokens=self._trace_reader.probe_tokens)

    @property
    def live_kv_bytes(self) -> int:
        """See Engine.live_kv_bytes."""
        return self._rows.live_kv_bytes

    @property
    def max_batch(self) -> int:
        """Rows that run at once."""
        return self._scheduler.max_batch

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk holds at most."""
        return self._scheduler.chunk_tokens

    def prepare(self, needs: Needs) -> None:
        """See Engine.prepare. What compression kept needs no model before the first compression, so it isn't refused here."""
        if self.model_engine is not None:
            self.model_engine.prepare(needs)
            return
        for what, needed in (("states", needs.state_tokens > 0), ("probe", needs.probe)):
            if needed:
                self._trace_reader.need_model(what)

    # ---- reading a trace beside its decoding: with `model_engine` --------------------------------------------------

    def decode(self, token_ids: Sequence[int]) -> str:
        if self.recorded.tokenizer is None:
            return super().decode(token_ids)
        return decode(self.recorded.tokenizer, token_ids)

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states. Nothing is counted: an engine that decodes notes them on the way."""
        return self._trace_reader.states(trace_ids, tokens)

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe. Counted as an engine that decodes counts: for running traces, what it feeds to their copies."""
        return self._trace_reader.probe(trace_ids, suffix, steps)

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """See Engine.probe_texts. A text ends with the model's end token, which has no text."""
        return self._trace_reader.probe_texts(trace_ids, suffix, max_tokens, until_closed)

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept. Before the first compression no model is asked; after it, the trace's cache is built again."""
        return self._trace_reader.kept(trace_id)
