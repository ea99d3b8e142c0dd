"""laconic's own engine on a transformers model: traces join, leave, stop and resume while the batch runs.

What is what: `scheduler` knows the traces, `batch` has the rows that run, `loop` drives them, and `trace_reader` and
`model_reader` tell of traces what decoding itself doesn't.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laconic import checks
from laconic.compress import FullKV, Policy
from laconic.engines.base import Chunk, Engine, EngineStats, Prompt, Sampling, Trace
from laconic.engines.chat import Chat, chat_of
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.batch import Batch, HFTrace
from laconic.engines.hf.facts import fit
from laconic.engines.hf.model_reader import ModelReader, check_layers
from laconic.engines.hf.models import check_model, check_prompt_fits, context_length, text_config
from laconic.engines.hf.rotation import check_rotation
from laconic.engines.hf.stats import add_stats
from laconic.engines.loop import Loop
from laconic.engines.requests import check_policy, check_request, check_tokenizer, check_vocabulary
from laconic.engines.sampling import trace_key
from laconic.engines.scheduler import Scheduler
from laconic.engines.text import Detokenizer, begins_thinking, decode, end_ids, render, tokenize
from laconic.engines.trace_reader import TraceReader
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.prune.needs import Needs


class HFEngine(Engine):
    """An engine on one transformers decoder.

    policy: None is FullKV. max_batch: rows that run at once. chunk_tokens: tokens a chunk holds at most (larger is cheaper).
    chat: what `render` puts into the chat template beside the question. model_reader: runs tokens through the model again.

    What a strategy reads of its traces it arranges by itself (`prepare`); by hand, for reading them yourself, that is
    record_held: remember, for `held` and `kept`, which tokens each layer held when a trace ended or was stopped.
    record_states: remember, for `states`, the hidden states of a trace's first so many tokens. state_layers: of these layers
    (indices into transformers' `hidden_states`; several stand side by side), and of no others: a strategy that reads others is
    refused. None: the last one, until a strategy asks for others.

    Raises InputError for a model that can't be compressed, whatever the policy, so that policies can be compared, or a chat
    that the template does not take.
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
        state_layers: Sequence[int] | None = None,
        chat: Chat | None = None,
    ) -> None:
        check_model(model)
        check_policy(policy)
        self.policy = fit(policy if policy is not None else FullKV(), model)
        self._scheduler: Scheduler[HFTrace] = Scheduler(self.policy.schedule, max_batch, chunk_tokens)
        check_tokenizer(tokenizer)
        checks.flag("record_held", record_held)
        layers = (-1,) if state_layers is None else state_layers
        check_layers(model, record_states, layers)
        self.model, self.tokenizer = model, tokenizer
        self.chat = chat_of(chat)
        self.chat.check(tokenizer)
        self._layers_given = state_layers is not None
        self._end_ids = end_ids(model.generation_config, model.config, tokenizer)
        self._batch = Batch(model, self.policy, record_states, tuple(layers), record_held)
        self._loop = Loop(self._scheduler, self._batch)
        self.model_reader = ModelReader(self._batch.runner, tokenizer, self.state_layers, self._end_ids)
        self._trace_reader = TraceReader(self._scheduler, self._batch, self.model_reader, self._loop.counted)

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

        def make(trace: Trace, number: int) -> HFTrace:
            return HFTrace(
                trace=trace,
                number=number,
                key=trace_key(sampling.seed, trace.index),
                limit=limit,
                stop_ids=stop_ids,
                text=Detokenizer(self.tokenizer),
            )

        return self._scheduler.submit(tokens, sampling, n, ids, begins_thinking(self.tokenizer, tokens), make)

    def stream(self) -> Generator[Chunk, None, None]:
        with AttentionBinding(self.model, self.policy):
            yield from self._loop.stream()

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
        stats = add_stats(self._batch.stats(), self._loop.counted)
        return replace(stats, side_tokens=self.model_reader.tokens_run, left_alone=self._batch.left_alone)

    @property
    def max_batch(self) -> int:
        """Rows that run at once."""
        return self._scheduler.max_batch

    @property
    def chunk_tokens(self) -> int:
        """Tokens a chunk holds at most; may be set at any time."""
        return self._scheduler.chunk_tokens

    @chunk_tokens.setter
    def chunk_tokens(self, tokens: int) -> None:
        self._scheduler.chunk_tokens = tokens

    # ---- what will be read of traces ------------------------------------------------------------------------------

    def prepare(self, needs: Needs) -> None:
        """See Engine.prepare. Hidden states and what was held are recorded from here on, as far as anything has asked for yet.

        Raises InputError for layers that the model doesn't have, or others than the engine was made for.
        """
        super().prepare(needs)
        if needs.state_tokens:
            if needs.state_layers is not None:
                self._set_layers(needs.state_layers)
            self._batch.record_states = max(self._batch.record_states, needs.state_tokens)
        if needs.kept:
            self._batch.record_held = True

    def _set_layers(self, layers: tuple[int, ...]) -> None:
        if layers == self.state_layers:
            return
        check_layers(self.model, self._batch.record_states, layers)
        if self._layers_given:
            raise InputError(
                f"hidden states of layers {list(layers)} are to be read, the engine gives those of {list(self.state_layers)}; "
                f"make the engine with state_layers={layers}, or without state_layers"
            )
        self._batch.layers = self.model_reader.layers = layers
        for entry in self._scheduler.entries:  # those of other layers; whoever asks for them again, they are read again
            entry.states.clear()

    @property
    def state_layers(self) -> tuple[int, ...]:
        """Whose hidden states `states` gives, side by side."""
        return tuple(self._batch.layers)

    # ---- reading a trace beside its decoding ----------------------------------------------------------------------

    def decode(self, token_ids: Sequence[int]) -> str:
        if self.tokenizer is None:
            return super().decode(token_ids)
        return decode(self.tokenizer, token_ids)

    def states(self, trace_ids: Sequence[str], tokens: int) -> Tensor:
        """See Engine.states. Recorded as far as `record_states` or a strategy asked, of the layers `state_layers`."""
        return self._trace_reader.states(trace_ids, tokens)

    def states_of(
        self,
        prompt_ids: Sequence[int],
        token_lists: Sequence[Sequence[int]],
        tokens: int,
        keys: Sequence[int] | None = None,
    ) -> Tensor:
        """`states` of recorded traces of one prompt: their tokens are run through the model, [n, tokens, D].

        keys: of the traces (`engines.sampling.trace_key` of seed and index, the lower 32 bits), for policies that draw what
        stays: with them these stand as they stood when they ran. None: each by its place in the list.
        """
        return self.model_reader.states(prompt_ids, token_lists, tokens, keys)

    def probe(self, trace_ids: Sequence[str], suffix: str, steps: int) -> Tensor:
        """See Engine.probe. Traces in the batch are probed on a copy of their rows, others rebuilt from their tokens."""
        return self._trace_reader.probe(trace_ids, suffix, steps)

    def probe_texts(
        self, trace_ids: Sequence[str], suffix: str, max_tokens: int, until_closed: bool = False
    ) -> list[str]:
        """See Engine.probe_texts. A text ends with the model's end token, which has no text."""
        return self._trace_reader.probe_texts(trace_ids, suffix, max_tokens, until_closed)

    def probe_of(
        self,
        prompt_ids: Sequence[int],
        token_lists: Sequence[Sequence[int]],
        suffix: str,
        steps: int,
        keys: Sequence[int] | None = None,
    ) -> Tensor:
        """`probe` of recorded traces of one prompt: their caches are built from their tokens first, [n, steps, V]. keys: see
        `states_of`."""
        return self.model_reader.probe(prompt_ids, token_lists, suffix, steps, keys)[0]

    def kept(self, trace_id: str) -> list[int]:
        """See Engine.kept. Of a trace that has left the batch only where that is recorded (`record_held`)."""
        return self._trace_reader.kept(trace_id)

    def held(self, trace_id: str) -> Tensor:
        """bool [compressible layers, g, generated tokens]: which tokens' KV each layer holds, at the end of a finished trace.

        g is 1, or the number of KV heads where the policy chooses per head. The newest token's KV has not been computed yet;
        it counts as held. Needs record_held=True for a trace that is no longer running.
        """
        return self._batch.held(self._scheduler.entry(trace_id))

    def compression_points(self, trace_id: str) -> list[int]:
        """Counts of generated tokens at which the trace was compressed."""
        entry = self._scheduler.entry(trace_id)
        return self.policy.schedule.of(entry.trace.token_ids).compression_points(entry.computed)

    @property
    def record_held(self) -> bool:
        """Whether it is remembered what a trace's layers held when it left; may be set before that."""
        return self._batch.record_held

    @record_held.setter
    def record_held(self, record: bool) -> None:
        self._batch.record_held = record
