"""The rows that run now, and their cache: prefill, join, one step for all, leave. HFEngine's `Rows`.

Knows traces and tokens; knows nothing of text or chunks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import Policy
from laconic.engines.base import EngineStats, Sampling, TokenLogprobs
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.left_alone import check_rows
from laconic.engines.hf.models import text_config
from laconic.engines.hf.runner import ModelRunner, held_tokens, pick_states, sliding_mask
from laconic.engines.hf.stats import add_stats, count_cache
from laconic.engines.rows import NextToken
from laconic.engines.sampling import NONE, confidence, draw, token_logprobs, uniform
from laconic.engines.scheduler import ScheduledTrace
from laconic.errors import InputError


@dataclass(slots=True, eq=False, kw_only=True)
class HFTrace(ScheduledTrace):
    """A trace in HFEngine."""

    key: int
    """Of its random stream."""
    held: Tensor | None = None
    """What its layers held when it last left the batch, where that is recorded: as `Batch.held`."""
    states: list[Tensor] = field(default_factory=list)
    """Hidden states of its first tokens, [D] each, where they are recorded."""


class Batch:
    """Rows of one model under one policy. `entries[i]` is row i of the cache.

    record_states: hidden states of `layers` are noted for so many of a trace's first tokens. record_held: what a trace's layers
    held is noted when it leaves. Raises InputError for a model that has nothing to compress.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Policy,
        record_states: int = 0,
        layers: Sequence[int] = (-1,),
        record_held: bool = False,
    ) -> None:
        self.runner = ModelRunner(model, policy)
        self.device = self.runner.device
        self.record_states, self.layers, self.record_held = record_states, layers, record_held
        cache = CompressedCache(text_config(model), policy)
        check_rows(cache.layers)
        self.left_alone = cache.left_alone
        self.entries: list[HFTrace] = []
        self.cache: CompressedCache | None = None
        self._gone = EngineStats(left_alone=self.left_alone)  # of caches that all rows have left
        self._mask: Tensor | None = None  # bool [B, logical], only where sliding layers need it

    # ---- what the loop drives -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def join(self, group: Sequence[HFTrace], rows: int) -> list[NextToken] | None:
        """See Rows.join."""
        first, fresh = group[0], not group[0].trace.token_ids
        before, self.entries = (
            self.entries,
            [*self.entries, *group],
        )  # from here on the newcomers' tokens can be looked up
        try:
            cache, logits, _ = self.runner.rebuild(
                first.trace.prompt_ids,
                [first.trace.token_ids[:-1]],
                self._generated_tokens,
                numbers=[first.number],
                keys=[first.draw_key],
                limit=max(entry.limit for entry in group),
            )
            if len(group) > 1:
                cache.batch_repeat_interleave(len(group))
            for row, entry in zip(cache.ledger.rows, group, strict=True):
                row.number, row.draw_key, row.limit = entry.number, entry.draw_key, entry.limit
                row.schedule = self.runner.policy.schedule.of(entry.trace.token_ids)  # a list that grows
            for layer in cache.compressed_layers:
                layer.spare_rows = rows
            drawn = draw_next(group, logits.expand(len(group), -1), self.runner.policy) if fresh else None
        except BaseException:
            self.entries = before
            raise
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.append_rows(cache)
        self._mask = None
        return drawn

    @torch.inference_mode()
    def step(self) -> list[NextToken]:
        """See Rows.step."""
        assert self.cache is not None
        positions = torch.tensor([[entry.length] for entry in self.entries], device=self.device)
        newest = [[entry.trace.token_ids[-1]] for entry in self.entries]
        # A trace that was rebuilt from its tokens has gaps: its states are read again when they are asked for.
        young = [i for i, entry in enumerate(self.entries) if len(entry.states) == entry.computed < self.record_states]
        mask = self._sliding_mask(self.cache)
        logits, hidden = self.runner.forward(self.cache, newest, positions, mask, states=bool(young))
        if hidden is not None:
            states = pick_states(hidden, self.layers)[:, 0]
            for i in young:
                self.entries[i].states.append(states[i])
        return draw_next(self.entries, logits, self.runner.policy)

    def leap(self) -> int:
        """See Rows.leap."""
        return 0

    @torch.inference_mode()
    def leave(self, rows: Sequence[int]) -> None:
        """See Rows.leave."""
        if not rows:
            return
        assert self.cache is not None
        self._mask = None
        if len(rows) < len(self.entries):
            order = self.cache.remove_rows(rows)
            self.entries = [self.entries[i] for i in order]
            return
        self.clear()

    def clear(self) -> None:
        """See Rows.clear."""
        if self.cache is None:
            return
        self._mask = None
        gone = count_cache(EngineStats(), self.cache)
        gone.live_kv_tokens = gone.live_kv_bytes = gone.reserved_kv_bytes = 0
        self._gone = add_stats(self._gone, gone)
        self.entries, self.cache = [], None

    def lose(self, entries: Sequence[HFTrace]) -> None:
        """See Rows.lose."""
        for entry in entries:
            entry.held = None  # of when it was stopped, if it was
        self.clear()

    def remember(self, entry: HFTrace) -> None:
        """See Rows.remember."""
        if self.record_held:
            entry.held = self.held(entry)

    def clock(self) -> float:
        """See Rows.clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def stats(self) -> EngineStats:
        """See Rows.stats."""
        stats = add_stats(EngineStats(), self._gone)
        if self.cache is not None:
            count_cache(stats, self.cache)
        stats.prompt_tokens = stats.generated_tokens = 0
        return stats

    # ---- what is read beside decoding -----------------------------------------------------------------------------

    @property
    def bytes_per_token(self) -> int:
        """See ReadableRows.bytes_per_token. 0 before anything has run."""
        return 0 if self.cache is None else self.cache.bytes_per_token

    def tokens_held(self, entry: HFTrace) -> int:
        """See ReadableRows.tokens_held."""
        assert self.cache is not None
        return self.cache.ledger.rows[self.entries.index(entry)].tokens

    def held(self, entry: HFTrace) -> Tensor:
        """See ReadableRows.held. The newest token's KV has not been computed yet; it counts as held."""
        if entry in self.entries:
            assert self.cache is not None
            held = held_tokens(self.cache, self.entries.index(entry), len(entry.trace.token_ids))
            held[:, :, entry.computed :] = True
            return held
        if entry.held is None and entry.trace.state == "waiting" and entry.trace.token_ids:
            raise InputError(
                f"trace {entry.trace.id!r} waits to be computed again, since the stream that it ran in was broken off: what it "
                "holds is known once the next one has begun with it"
            )
        if entry.held is None:
            raise InputError(
                f"what trace {entry.trace.id!r} held was not recorded: make the engine with record_held=True"
            )
        return entry.held

    def recorded_states(self, entry: HFTrace) -> list[Tensor]:
        """See ReadableRows.recorded_states."""
        return entry.states

    @torch.inference_mode()
    def fork(self, entries: Sequence[HFTrace]) -> CompressedCache:
        """See ReadableRows.fork."""
        assert self.cache is not None
        return self.cache.fork([self.entries.index(entry) for entry in entries])

    # ---- helpers --------------------------------------------------------------------------------------------------

    def _sliding_mask(self, cache: CompressedCache) -> Tensor | None:
        """bool [B, logical + 1] for layers that transformers masks itself; None if no row has padding, or no such layers."""
        need = cache.ledger.logical_length + 1
        if self._mask is None or self._mask.shape[1] < need:
            self._mask = sliding_mask(cache, [entry.length for entry in self.entries], need + 256, self.device)
        return None if self._mask is None else self._mask[:, :need]

    def _generated_tokens(self, numbers: list[int]) -> Tensor:
        """long [rows, most generated]: the tokens of traces by their numbers, zero-padded."""
        by_number = {entry.number: entry.trace.token_ids for entry in self.entries}
        rows = [by_number[n] for n in numbers]
        table = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        for i, tokens in enumerate(rows):
            table[i, : len(tokens)] = torch.tensor(tokens)
        return table


def draw_next(entries: Sequence[HFTrace], logits: Tensor, policy: Policy) -> list[NextToken]:
    """The next token of every row: drawn, or the one that the policy feeds. logits: [B, V]."""
    samplings = [entry.trace.sampling for entry in entries]
    uniforms = [uniform(entry.key, len(entry.trace.token_ids)) for entry in entries]
    fed: list[int | None] = [None] * len(entries)
    may_draw = logits
    if policy.schedule.reads_tokens:
        fed = [policy.next_fed(entry.trace.token_ids) for entry in entries]
        may_draw = logits.index_fill(-1, torch.tensor(policy.never_drawn, device=logits.device), -math.inf)
    drawn = draw(may_draw, samplings, uniforms).tolist()
    picked = [token if its is None else its for token, its in zip(drawn, fed, strict=True)]
    confidences = _confidences(samplings, logits)
    logprobs = _logprobs(samplings, logits, picked)
    return [
        NextToken(None if token == NONE else token, confidences.get(i), logprobs.get(i), fed[i] is not None)
        for i, token in enumerate(picked)
    ]


def _confidences(samplings: Sequence[Sampling], logits: Tensor) -> dict[int, float]:
    """By row, for those that ask. logits: [B, V]."""
    most = max(sampling.confidence_top_k for sampling in samplings)
    if not most:
        return {}
    found = confidence(logits, most).tolist()
    return {
        i: found[i] if k == most else float(confidence(logits[i : i + 1], k)[0])
        for i, k in enumerate(sampling.confidence_top_k for sampling in samplings)
        if k
    }


def _logprobs(samplings: Sequence[Sampling], logits: Tensor, picked: Sequence[int]) -> dict[int, TokenLogprobs]:
    """By row, for those that ask and drew a token. logits: [B, V]."""
    asked = {
        i: sampling.logprobs
        for i, sampling in enumerate(samplings)
        if sampling.logprobs is not None and picked[i] != NONE
    }
    if not asked:
        return {}
    rows = list(asked)
    found = token_logprobs(logits[rows], [picked[i] for i in rows], max(asked.values()))
    return {i: TokenLogprobs(one.logprob, one.top[: asked[i]]) for i, one in zip(rows, found, strict=True)}
