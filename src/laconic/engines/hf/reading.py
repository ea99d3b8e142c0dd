"""What can be read from traces beside their decoding: hidden states, and a peek at the answer a trace would give now.

Neither disturbs a trace: states are what its own steps computed, or a second pass over its tokens; a probe runs on a copy of
its rows. Tokens that go through the model for this are the caller's to count (`EngineStats.side_tokens`).
Shapes: n traces, K tokens, D hidden size times layers, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import Policy
from laconic.compress.schedule import Never
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.layer import CompressedLayer, TokenLookup
from laconic.engines.hf.models import text_config

ROWS = 64  # traces read again in one pass


def pick(hidden: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """hidden: the model's own, [B, q, H] each. Those of `layers` side by side, float32 [B, q, D]."""
    return torch.cat([hidden[layer] for layer in layers], dim=-1).float()


def fork(cache: CompressedCache, rows: Sequence[int]) -> CompressedCache:
    """A copy of some rows that can be fed on its own and never compresses; the original is not touched."""
    twin = copy.copy(cache)
    twin.ledger = copy.copy(cache.ledger)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    twin.compressed_layers = [layer for layer in twin.layers if isinstance(layer, CompressedLayer)]
    for layer in twin.compressed_layers:
        layer.ledger = twin.ledger
    twin.batch_select_indices(rows)
    return _frozen(twin)


def _frozen(cache: CompressedCache) -> CompressedCache:
    cache.ledger.schedule = Never()
    cache.ledger.refresh()
    return cache


class Reader:
    """Reads tokens again through one model under one policy: caches compress where decoding compressed."""

    def __init__(self, model: PreTrainedModel, policy: Policy) -> None:
        self.model, self.policy = model, policy
        self.device = next(model.parameters()).device

    def rebuild(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], layers: Sequence[int] = ()
    ) -> tuple[CompressedCache, Tensor | None]:
        """Caches of n traces of one prompt and of equal length that have been fed `tokens`, and the hidden states of those.

        The prompt goes through the model once. Returns the states float32 [n, K, D], or None where no layers are asked for.
        """
        n, length = len(tokens), len(tokens[0])
        cache = CompressedCache(text_config(self.model), self.policy, limit=max(length, 1))
        cache.set_token_lookup(_lookup(tokens))
        self._feed(cache, [prompt])
        if n > 1:
            cache.batch_repeat_interleave(n)
        for number, row in enumerate(cache.ledger.rows):
            row.number = number
        seen, fed = [], 0
        while fed < length:
            room = cache.ledger.tokens_to_compression()
            upto = length if room is None else min(length, fed + room)
            hidden = self._feed(cache, [t[fed:upto] for t in tokens], states=bool(layers))[1]
            if hidden is not None:
                seen.append(pick(hidden, layers).cpu())
            fed = upto
        return cache, torch.cat(seen, dim=1) if seen else None

    @torch.inference_mode()
    def states(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], count: int, layers: Sequence[int]
    ) -> tuple[Tensor, int]:
        """(float32 [n, count, D], tokens run): zeros where a trace is shorter than `count`."""
        parts, run = [], len(prompt)
        for start in range(0, len(tokens), ROWS):
            rows = [list(t[:count]) for t in tokens[start : start + ROWS]]
            longest = max(1, *(len(t) for t in rows))
            run += sum(len(t) for t in rows)
            # A shorter trace is filled up with its own last token: nothing before it can see that.
            padded = [t + [t[-1] if t else prompt[-1]] * (longest - len(t)) for t in rows]
            states = self.rebuild(prompt, padded, layers)[1]
            assert states is not None
            for row, t in zip(states, rows, strict=True):
                row[len(t) :] = 0
            parts.append(torch.nn.functional.pad(states, (0, 0, 0, count - longest)))
        return torch.cat(parts), run

    @torch.inference_mode()
    def probe(
        self, cache: CompressedCache, positions: Sequence[int], newest: Sequence[int], suffix: Sequence[int], steps: int
    ) -> tuple[Tensor, int]:
        """(probabilities, float32 [n, steps, V], tokens run) of the next `steps` tokens, taken greedily, after `suffix`.

        cache: a fork or a rebuilt one, used up here. positions: of each row's newest token, which has not been fed yet.
        """
        at = torch.tensor(positions, device=self.device)[:, None]
        feed = torch.tensor(newest, device=self.device)[:, None]
        queue = list(suffix)
        found: list[Tensor] = []
        run = 0
        while True:
            logits = self._feed(cache, feed, at)[0]
            at, run = at + 1, run + len(newest)
            if queue:
                feed = torch.full_like(feed, queue.pop(0))
                continue
            probabilities = logits.float().softmax(-1)
            found.append(probabilities.cpu())
            if len(found) == steps:
                return torch.stack(found, dim=1), run
            feed = probabilities.argmax(-1, keepdim=True)

    def probe_again(
        self, prompt: Sequence[int], tokens: Sequence[Sequence[int]], suffix: Sequence[int], steps: int
    ) -> tuple[Tensor, int]:
        """`probe` for traces whose cache is gone: rebuilt from their tokens, those of one length together."""
        found: list[Tensor | None] = [None] * len(tokens)
        run = 0
        for length in sorted({len(t) for t in tokens}):
            alike = [i for i, t in enumerate(tokens) if len(t) == length]
            for start in range(0, len(alike), ROWS):
                part = alike[start : start + ROWS]
                if length:
                    cache, _ = self.rebuild(prompt, [tokens[i][:-1] for i in part])
                    newest = [tokens[i][-1] for i in part]
                else:  # nothing generated yet: the prompt's last token is the newest
                    cache, _ = self.rebuild(prompt[:-1], [[] for _ in part])
                    newest = [prompt[-1]] * len(part)
                before = len(prompt) + length - 1
                answers, fed = self.probe(_frozen(cache), [before] * len(part), newest, suffix, steps)
                run += fed + before + max(length - 1, 0) * (len(part) - 1)
                for i, answer in zip(part, answers, strict=True):
                    found[i] = answer
        return torch.stack([f for f in found if f is not None]), run

    def _feed(
        self,
        cache: CompressedCache,
        tokens: Sequence[Sequence[int]] | Tensor,
        positions: Tensor | None = None,
        states: bool = False,
    ) -> tuple[Tensor, Sequence[Tensor] | None]:
        out = self.model(
            input_ids=torch.as_tensor(tokens, device=self.device),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            output_hidden_states=states,
        )
        return out.logits[:, -1], out.hidden_states if states else None


def _lookup(tokens: Sequence[Sequence[int]]) -> TokenLookup:
    table = torch.tensor([list(t) for t in tokens], dtype=torch.long)
    return lambda numbers: table[torch.tensor(numbers)]
