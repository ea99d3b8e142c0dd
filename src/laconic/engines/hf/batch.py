"""The rows that run now, and their cache: prefill, join, one step for all, leave.

Knows traces and tokens; knows nothing of sampling, text or chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import Policy
from laconic.engines.base import EngineStats, Trace
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import text_config
from laconic.engines.hf.reading import pick
from laconic.engines.hf.rows import check_rows
from laconic.engines.hf.stats import add_stats, count_cache
from laconic.engines.text import Detokenizer


@dataclass(slots=True, eq=False)
class Run:
    """A trace and what the loop needs to know of it.

    number: stable over the engine's life; key: of its random stream; limit: tokens it may generate; pending: tokens, text
    and log-probabilities that no chunk has carried yet; held: what its layers held when it ended, states: the hidden states
    of its first tokens, [D] each, where that is recorded.
    """

    trace: Trace
    number: int
    key: int
    limit: int
    stop_ids: frozenset[int]
    text: Detokenizer
    pending: list[int] = field(default_factory=list)
    pending_text: list[str] = field(default_factory=list)
    pending_logprobs: list[float] = field(default_factory=list)
    held: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Generated tokens whose KV has been computed: all but the newest, which the next step feeds."""
        return max(len(self.trace.token_ids) - 1, 0)

    @property
    def length(self) -> int:
        """Tokens before the newest, prompt included: the position of the newest."""
        return len(self.trace.prompt_ids) + self.computed


class Batch:
    """Rows of one model under one policy. `runs[i]` is row i of the cache.

    record_states: hidden states of `layers` are noted for so many of a trace's first tokens.
    """

    def __init__(
        self, model: PreTrainedModel, policy: Policy, record_states: int = 0, layers: Sequence[int] = (-1,)
    ) -> None:
        self.model, self.policy = model, policy
        self.record_states, self.layers = record_states, layers
        self.device = next(model.parameters()).device
        # Fails here for a model that has nothing to compress.
        cache = CompressedCache(text_config(model), policy)
        check_rows(cache.layers)
        self.left_alone = cache.left_alone
        self.runs: list[Run] = []
        self.cache: CompressedCache | None = None
        self._gone = EngineStats(left_alone=self.left_alone)
        self._mask: Tensor | None = None  # bool [B, logical], only where sliding layers need it

    def __len__(self) -> int:
        return len(self.runs)

    @torch.inference_mode()
    def admit(self, group: Sequence[Run], spare: int) -> Tensor | None:
        """Rows join. Either one that resumes, rebuilt from its tokens, or new ones that share a prompt and its prefill.

        spare: rows that will be needed in all, so that buffers grow once. Returns the prompt's last logits [1, V] for new
        ones, else None.
        """
        first = group[0]
        prompt, tokens = first.trace.prompt_ids, first.trace.token_ids
        cache = CompressedCache(text_config(self.model), self.policy, limit=max(run.limit for run in group))
        cache.set_token_lookup(self._generated_tokens)
        held, self.runs = self.runs, [*self.runs, *group]  # the newcomers' tokens can be looked up from here on
        try:
            logits, _ = self._forward(cache, [prompt])
            self._replay(cache, first, tokens[:-1])
        except BaseException:
            self.runs = held
            raise
        if len(group) > 1:
            cache.batch_repeat_interleave(len(group))
        for row, run in zip(cache.ledger.rows, group, strict=True):
            row.number, row.limit = run.number, run.limit
        for layer in cache.compressed_layers:
            layer.spare_rows = spare
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.append_rows(cache)
        self._mask = None
        return None if tokens else logits

    def _replay(self, cache: CompressedCache, run: Run, tokens: Sequence[int]) -> None:
        """Feed generated tokens in pieces that end at the compression points, as decoding did."""
        cache.ledger.rows[0].number, cache.ledger.rows[0].limit = run.number, run.limit
        fed = 0
        while fed < len(tokens):
            room = cache.ledger.tokens_to_compression()
            upto = len(tokens) if room is None else min(len(tokens), fed + room)
            self._forward(cache, [tokens[fed:upto]])
            fed = upto

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Feed every row's newest token. Returns logits [B, V] for the next."""
        assert self.cache is not None
        positions = torch.tensor([[run.length] for run in self.runs], device=self.device)
        newest = [[run.trace.token_ids[-1]] for run in self.runs]
        # A trace that was rebuilt from its tokens has gaps: its states are read again when they are asked for.
        young = [i for i, run in enumerate(self.runs) if len(run.states) == run.computed < self.record_states]
        mask = self._sliding_mask(self.cache)
        logits, hidden = self._forward(self.cache, newest, positions, mask, states=bool(young))
        if hidden is not None:
            states = pick(hidden, self.layers)[:, 0]
            for i in young:
                self.runs[i].states.append(states[i])
        return logits

    def _forward(
        self,
        cache: CompressedCache,
        tokens: Sequence[Sequence[int]],
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        states: bool = False,
    ) -> tuple[Tensor, Sequence[Tensor] | None]:
        """tokens: B rows of q. Returns the last position's logits [B, V], and each layer's hidden states if asked for."""
        out = self.model(
            input_ids=torch.tensor(tokens, device=self.device),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            output_hidden_states=states,
        )
        return out.logits[:, -1], out.hidden_states if states else None

    @torch.inference_mode()
    def remove(self, rows: Sequence[int]) -> None:
        """Rows leave, and give their memory back."""
        if not rows:
            return
        assert self.cache is not None
        self._mask = None
        if len(rows) < len(self.runs):
            order = self.cache.remove_rows(rows)
            self.runs = [self.runs[i] for i in order]
            return
        self.clear()

    def clear(self) -> None:
        """All rows leave."""
        if self.cache is None:
            return
        self._mask = None
        gone = count_cache(EngineStats(), self.cache)
        gone.live_kv_tokens = gone.live_kv_bytes = gone.reserved_kv_bytes = 0
        self._gone = add_stats(self._gone, gone)
        self.runs, self.cache = [], None

    def stats(self) -> EngineStats:
        """Over all rows that have been here. Prompt and generated tokens are the engine's to count."""
        stats = add_stats(EngineStats(), self._gone)
        if self.cache is not None:
            count_cache(stats, self.cache)
        stats.prompt_tokens = stats.generated_tokens = 0
        return stats

    def held(self, run: Run) -> Tensor:
        """bool [compressible layers, g, generated tokens]: which of a running trace's tokens each layer holds."""
        assert self.cache is not None
        row = self.runs.index(run)
        at = [layer.held_positions(row) for layer in self.cache.compressed_layers]
        groups = max(p.shape[0] for p in at)
        held = torch.zeros((len(at), groups, len(run.trace.token_ids)), dtype=torch.bool)
        for i, positions in enumerate(at):
            held[i].scatter_(-1, positions.expand(groups, -1), True)
        held[:, :, run.computed :] = True
        return held

    def _sliding_mask(self, cache: CompressedCache) -> Tensor | None:
        """bool [B, logical + 1] for layers that transformers masks itself; None if no row has padding, or no such layers."""
        if "sliding" not in self.left_alone:
            return None
        need = cache.ledger.logical_length + 1
        if self._mask is None or self._mask.shape[1] < need:
            pads = torch.tensor([cache.ledger.logical_length - run.length for run in self.runs], device=self.device)
            self._mask = torch.arange(need + 256, device=self.device) >= pads[:, None]
        return None if bool(self._mask[:, 0].all()) else self._mask[:, :need]

    def _generated_tokens(self, numbers: list[int]) -> Tensor:
        """long [rows, most generated]: the tokens of traces by their numbers, zero-padded."""
        by_number = {run.number: run.trace.token_ids for run in self.runs}
        rows = [by_number[n] for n in numbers]
        table = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        for i, tokens in enumerate(rows):
            table[i, : len(tokens)] = torch.tensor(tokens)
        return table
