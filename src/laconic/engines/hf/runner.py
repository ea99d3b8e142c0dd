"""Forward passes of one model under one policy, and caches rebuilt from tokens.

Shapes: n rows, q tokens a row and pass, K generated tokens, V vocabulary, D hidden size times layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import Policy
from laconic.compress.schedule import spans_of
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import cache_argument, text_config
from laconic.engines.hf.scoring import TokenLookup


class Rebuilt(NamedTuple):
    cache: CompressedCache
    logits: Tensor
    """After the last token that was fed: [n, V], or [1, V] where that is the prompt's."""
    states: Tensor | None
    """Hidden states of the generated tokens, float32 [n, K, D] on the CPU; None where no layers were asked for."""


class ModelRunner:
    """Runs a model's forward passes. The caller binds the model (`attention`)."""

    def __init__(self, model: PreTrainedModel, policy: Policy) -> None:
        self.model, self.policy = model, policy
        self.device = next(model.parameters()).device

    def bound(self) -> AttentionBinding:
        """A binding of the model that shows what the policy reads."""
        return AttentionBinding(self.model, self.policy)

    def forward(
        self,
        cache: CompressedCache,
        tokens: Sequence[Sequence[int]] | Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        states: bool = False,
    ) -> tuple[Tensor, Sequence[Tensor] | None]:
        """tokens: n rows of q. Returns the last position's logits [n, V], and all layers' hidden states if asked for."""
        out = self._run(cache, torch.as_tensor(tokens, device=self.device), positions, mask, 1, states)
        return out.logits[:, -1], out.hidden_states if states else None

    def all_logits(
        self, cache: CompressedCache, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """tokens: long [n, q]. The logits after each, [n, q, V]: mind their size."""
        logits: Tensor = self._run(cache, tokens, positions, mask, tokens.shape[1], False).logits
        return logits

    def _run(
        self,
        cache: CompressedCache,
        tokens: Tensor,
        positions: Tensor | None,
        mask: Tensor | None,
        keep: int,
        states: bool,
    ) -> Any:
        return self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=keep,
            output_hidden_states=states,
            **{cache_argument(self.model): cache},
        )

    @torch.inference_mode()
    def rebuild(
        self,
        prompt: Sequence[int],
        tokens: Sequence[Sequence[int]],
        lookup: TokenLookup,
        numbers: Sequence[int] | None = None,
        keys: Sequence[int] | None = None,
        limit: int | None = None,
        layers: Sequence[int] = (),
    ) -> Rebuilt:
        """The cache of n traces of one prompt and of equal length, as decoding left it once it had fed `tokens`.

        The prompt goes through the model once. The tokens are fed in pieces that end at the compression points, so each trace
        holds what it held. lookup, numbers: of the rows, for policies that look at tokens (default: 0, 1, ...). keys: of the
        rows, for policies that draw (default: the numbers). limit: tokens a row may generate, for sizing buffers. layers: whose
        hidden states are returned.
        """
        n, length = len(tokens), len(tokens[0])
        cache = CompressedCache(text_config(self.model), self.policy, limit=limit)
        cache.set_token_lookup(lookup)
        logits, _ = self.forward(cache, [prompt])
        if n > 1:
            cache.batch_repeat_interleave(n)
        schedules = [self.policy.schedule.of(row) for row in tokens]
        drawn_by: Sequence[int | None] = [None] * n if keys is None else keys
        given = zip(cache.ledger.rows, numbers or range(n), drawn_by, schedules, strict=True)
        for row, number, key, schedule in given:
            row.number, row.draw_key, row.schedule = number, key, schedule
        seen = []
        for start, end in spans_of(schedules, length):
            logits, hidden = self.forward(cache, [row[start:end] for row in tokens], states=bool(layers))
            if hidden is not None:
                seen.append(pick_states(hidden, layers).cpu())
        return Rebuilt(cache, logits, torch.cat(seen, dim=1) if seen else None)


def sliding_mask(
    cache: CompressedCache, lengths: Sequence[int], width: int, device: torch.device | str
) -> Tensor | None:
    """bool [n, width] for layers that transformers masks itself; None if there are none, or no row is shorter than another.

    lengths: each row's tokens so far, evicted or not: shorter ones are right-aligned at the cache's logical length.
    """
    pads = [cache.ledger.logical_length - length for length in lengths]
    if "sliding" not in cache.left_alone or not any(pads):
        return None
    return torch.arange(width, device=device) >= torch.tensor(pads, device=device)[:, None]


def pick_states(hidden: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """hidden: the model's own, [n, q, H] each. Those of `layers` side by side, float32 [n, q, D]."""
    return torch.cat([hidden[layer] for layer in layers], dim=-1).float()


def held_tokens(cache: CompressedCache, row: int, generated: int) -> Tensor:
    """bool [compressible layers, g, generated]: which of a row's generated tokens each layer holds, on the CPU.

    g is 1, or the number of KV heads where the policy chooses per head.
    """
    at = [layer.held_positions(row).cpu() for layer in cache.compressed_layers]
    groups = max(positions.shape[0] for positions in at)
    held = torch.zeros((len(at), groups, generated), dtype=torch.bool)
    for layer, positions in zip(held, at, strict=True):
        layer.scatter_(-1, positions.expand(groups, -1), True)
    return held
