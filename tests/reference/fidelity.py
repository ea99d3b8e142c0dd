"""How far a policy moves next-token distributions, the slow way: a forward pass of the whole text for each, under masks that
are built from what each layer kept; and sums over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

from laconic.compress import Policy
from laconic.engines.hf import CompressedCache
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.scoring import FutureLookup

NAME = "masks_of_kept_sets"


def kept_sets(
    model: Any, policy: Policy, prompt: list[int], tokens: list[int], number: int, future: FutureLookup | None = None
) -> list[list[list[set[int]]]]:
    """[layer][token][KV head]: the generated tokens that each token sees, itself included; tokens are fed one by one."""
    cache = CompressedCache(model.config, policy)
    cache.set_token_lookup(lambda numbers: torch.tensor([tokens] * len(numbers)))
    if future is not None:
        cache.set_future_lookup(future)
    heads = model.config.num_key_value_heads
    seen: list[list[list[set[int]]]] = [[] for _ in cache.compressed_layers]
    with AttentionBinding(model, policy), torch.no_grad():
        model(torch.tensor([prompt]), past_key_values=cache)
        cache.ledger.rows[0].number = number
        for index, token in enumerate(tokens):
            for layer, of in zip(cache.compressed_layers, seen, strict=True):
                held = layer.held_positions(0).tolist() if index else [[]]
                sets = [{*row, index} for row in held]
                of.append(sets * heads if len(sets) == 1 else sets)
            model(torch.tensor([[token]]), past_key_values=cache)
    return seen


def masked_logits(model: Any, seen: list[list[list[set[int]]]], prompt: list[int], tokens: list[int]) -> Tensor:
    """[K, V] of the generated tokens' distributions: one pass over prompt and tokens, every head with a mask of its own."""
    start, length = len(prompt), len(prompt) + len(tokens)
    heads = model.config.num_attention_heads
    masks = []
    for layer in seen:
        groups = heads // len(layer[0])
        visible = torch.zeros(1, heads, length, length, dtype=torch.bool)
        for query in range(length):
            visible[:, :, query, : min(query + 1, start)] = True
            if query >= start:
                for g, held in enumerate(layer[query - start]):
                    for token in held:
                        visible[:, g * groups : (g + 1) * groups, query, start + token] = True
        masks.append(torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min))

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> Any:
        return eager_attention_forward(module, query, key, value, masks[module.layer_idx], **settings)

    before = model.config._attn_implementation
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    try:
        model.set_attn_implementation(NAME)
        with torch.no_grad():
            logits: Tensor = model(torch.tensor([prompt + tokens])).logits[0, start - 1 : -1]
    finally:
        model.set_attn_implementation(before)
        for registry in (AttentionInterface, AttentionMaskInterface):
            registry._global_mapping.pop(NAME, None)
    return logits


def log_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    total = math.fsum(math.exp(value - top) for value in logits)
    return [value - top - math.log(total) for value in logits]


def divergence(full: Sequence[float], other: Sequence[float], target: int) -> tuple[float, float, float]:
    """KL(full || other), whether full's likeliest token is other's too, and the target's change of log-likelihood."""
    ours, theirs = log_softmax(full), log_softmax(other)
    kl = math.fsum(math.exp(a) * (a - b) for a, b in zip(ours, theirs, strict=True) if a > -math.inf)
    agree = theirs[ours.index(max(ours))] == max(theirs)
    return kl, float(agree), theirs[target] - ours[target]
