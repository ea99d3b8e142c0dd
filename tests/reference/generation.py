"""Greedy generation with eviction, one trace, float32, slow and obvious: what an engine's tokens must equal.

A stock DynamicCache, eager attention, queries caught by wrapping the modeling module's `eager_attention_forward`,
scores in loops over Python numbers, eviction by stacking the vectors that stay. Shares no code with laconic: it reads a
policy's name and settings and nothing else.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, LinearAttentionAndFullAttentionLayer

from tests.reference import scorers


@dataclass
class LayerState:
    """What is remembered of one compressible layer. Slots are those of generated tokens, prompt excluded."""

    positions: list[list[int]]  # [G][slots]: each KV head's generated tokens, by index among the generated
    mass: list[list[float]]  # [g][slots]: H2O's accumulated attention, or KVzap's notes
    queries: list[Tensor] = field(default_factory=list)  # each decode step's [H, D], after RoPE
    keys: Tensor | None = None  # [H, slots, D]: the latest step's, as attended to (latent attention expands its cache)
    scaling: float = 0.0
    kept: int = 0  # tokens that the last compression chose


@dataclass
class Run:
    """Tokens generated, and at the end each compressible layer's surviving generated tokens [layer][G][slots]."""

    tokens: list[int]
    positions: dict[int, list[list[int]]]
    evicted: int  # of one layer and KV head
    # So many of the first tokens follow from what float32 can tell apart. The next one comes after a cut between two scores, or
    # a choice between two logits, that are the same but for rounding: another order of summation may decide otherwise.
    sure: int


TIE = 1e-5
"""Scores whose difference is a smaller share of them, and logits that differ by less than ten times this, are a tie."""


def reference_generate(
    model: Any,
    prompt_ids: Tensor,
    policy: Any,
    max_new_tokens: int,
    eos: int | Iterable[int] | None = None,
    row: int = 0,
) -> list[int]:
    """Greedy tokens of one prompt [1, P], the end token included. row: the trace's number (only random draws read it)."""
    return reference_run(model, prompt_ids, policy, max_new_tokens, eos, row).tokens


@torch.no_grad()
def reference_run(
    model: Any,
    prompt_ids: Tensor,
    policy: Any,
    max_new_tokens: int,
    eos: int | Iterable[int] | None = None,
    row: int = 0,
) -> Run:
    """As `reference_generate`, with what was kept. Layers that slide are left alone."""
    assert prompt_ids.shape[0] == 1
    ends = set() if eos is None else {eos} if isinstance(eos, int) else set(eos)
    prompt = prompt_ids.shape[1]
    states: dict[int, LayerState] = {}
    evicted = 0
    with _caught(model) as caught:
        cache = DynamicCache(config=model.config)
        out = model(prompt_ids, position_ids=torch.arange(prompt)[None], past_key_values=cache, use_cache=True)
        for index, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer or type(layer) is LinearAttentionAndFullAttentionLayer:
                assert layer.keys is not None
                G = layer.keys.shape[1]
                groups = G if _aggregation(policy) == "group" else 1
                states[index] = LayerState([[] for _ in range(G)], [[] for _ in range(groups)])
        tokens = [int(out.logits[0, -1].argmax())]
        sure = 0 if _tied(out.logits) else max_new_tokens
        while len(tokens) < max_new_tokens and tokens[-1] not in ends:
            step = len(tokens)  # this step computes the keys and values of the step-th generated token
            caught.clear()
            position = torch.tensor([[prompt + step - 1]])
            more = {"output_hidden_states": True} if policy.name == "kvzap" else {}
            out = model(
                torch.tensor([[tokens[-1]]]), position_ids=position, past_key_values=cache, use_cache=True, **more
            )
            before = after = 0
            for index, state in states.items():
                query, state.keys, state.scaling = caught[index]
                state.queries.append(query[0, :, 0])
                for held in state.positions:
                    held.append(step - 1)
                if policy.name == "h2o":
                    _observe(policy, state)
                if policy.name == "kvzap":
                    read = model.base_model.layers[index].input_layernorm(out.hidden_states[index])[0, -1].tolist()
                    noted = scorers.kvzap(read, policy.scorer.networks.layers[index])
                    for mass, score in zip(state.mass, noted, strict=True):
                        mass.append(score)
                before = len(state.positions[0])
                if _compress(policy, state, cache.layers[index], prompt, tokens, index, row) < TIE:
                    sure = min(sure, len(tokens) + 1)  # this step has attended to everything still
                after = len(state.positions[0])
            evicted += before - after
            if _tied(out.logits):
                sure = min(sure, len(tokens))
            tokens.append(int(out.logits[0, -1].argmax()))
    return Run(tokens, {index: state.positions for index, state in states.items()}, evicted, min(sure, len(tokens)))


def _tied(logits: Tensor) -> bool:
    best, second = logits[0, -1].float().topk(2).values.tolist()
    return best - second < 10 * TIE


@contextmanager
def _caught(model: Any) -> Iterator[dict[int, tuple[Tensor, Tensor, float]]]:
    """Layer index -> (query [1, H, q, D], keys [heads, slots, D], scaling) of the latest pass: eager attention is wrapped."""
    module: Any = sys.modules[type(model).__module__]
    original = module.eager_attention_forward
    before = model.config._attn_implementation
    caught: dict[int, tuple[Tensor, Tensor, float]] = {}

    def eager(attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        caught[attention.layer_idx] = (query, key[0], kwargs["scaling"])
        # One row, no padding: a single query sees all that is cached. The mask is cut for a cache that lost nothing.
        return original(attention, query, key, value, None if query.shape[2] == 1 else mask, **kwargs)

    model.set_attn_implementation("eager")
    module.eager_attention_forward = eager
    try:
        yield caught
    finally:
        module.eager_attention_forward = original
        model.set_attn_implementation(before)


def _plan(policy: Any, held: int, kept: int) -> tuple[int, int] | None:
    """(how many candidates stay, the window) if a compression is due with `held` tokens, `kept` of them chosen."""
    if policy.name in ("rpc", "random", "randomattention", "vase", "oracle", "learned", "kvzap", "expectedattention"):
        if held - kept - policy.window < policy.interval:
            return None
        return kept + int(policy.interval / Fraction(str(policy.ratio))), policy.window
    if policy.name in ("h2o", "tova", "streamingllm", "rkv", "snapkv", "knorm"):
        if held < policy.budget + policy.buffer:
            return None
        window = {
            "h2o": lambda: max(1, policy.budget // 2) if policy.window is None else policy.window,
            "tova": lambda: 1,
            "streamingllm": lambda: policy.budget - policy.sinks,
            "rkv": lambda: policy.window,
            "snapkv": lambda: policy.window,
            "knorm": lambda: policy.window,
        }[policy.name]()
        return policy.budget - window, window
    assert policy.name == "full", f"the reference doesn't know policy {policy.name}"
    return None


def _compress(
    policy: Any, state: LayerState, layer: Any, prompt: int, tokens: list[int], index: int, row: int
) -> float:
    """The smallest gap between a score that stays and one that goes, as a share of the former; infinity without a choice."""
    plan = _plan(policy, len(state.positions[0]), state.kept)
    if plan is None:
        return math.inf
    keep, window = plan
    held = len(state.positions[0])
    M = held - window
    if policy.name == "vase":
        scores = _weighted_draw(policy, state, layer, prompt, M, int(keep * policy.protected), index, row)
    elif policy.name == "expectedattention":
        scores = _expected_attention(policy, state, layer, prompt, M)
    elif policy.name == "learned":
        scores = _learned(policy, state, layer, prompt, M, index)
    else:
        scores = _scores(policy, state, prompt, M, tokens, index, row)
    scores = _by_cached_head(scores, len(state.positions))
    G = len(state.positions)
    chosen = []  # [g][slots that stay], in order
    gap = math.inf
    for group in scores:
        ranked = sorted(range(M), key=lambda i: (group[i], i), reverse=True)  # of equals the later stays
        best = ranked[:keep]
        if 0 < keep < M:
            last, next_ = group[ranked[keep - 1]], group[ranked[keep]]
            if last != next_:  # of equals, as max pooling makes them, the later stays, however they are computed
                gap = min(gap, (last - next_) / max(abs(last), abs(next_)))
        chosen.append(sorted(best) + list(range(M, held)))
    state.mass = [
        [m[i] for i in slots] if m else [] for m, slots in zip(state.mass, _each(chosen, len(state.mass)), strict=True)
    ]
    slots_of_head = _each(chosen, G)
    state.positions = [[state.positions[h][i] for i in slots_of_head[h]] for h in range(G)]
    state.kept = keep
    for name in ("keys", "values"):
        old = getattr(layer, name)
        heads = []
        for h in range(G):
            vectors = [old[0, h, i] for i in range(prompt)] + [old[0, h, prompt + i] for i in slots_of_head[h]]
            heads.append(torch.stack(vectors))
        setattr(layer, name, torch.stack(heads)[None])
    return gap


def _each(per_group: list[list[int]], heads: int) -> list[list[int]]:
    """One list a head: the layer's own list for all, or each head's."""
    return per_group * heads if len(per_group) == 1 else per_group


def _scores(
    policy: Any, state: LayerState, prompt: int, M: int, tokens: list[int], index: int, row: int
) -> list[list[float]]:
    """[g][M]."""
    assert state.keys is not None
    keys = state.keys[:, prompt:].tolist()
    each = len(keys) // len(state.positions)  # heads attended to that are made of one cached head
    where = [held[:M] for held in state.positions for _ in range(each)]
    if policy.name in ("rpc", "snapkv"):
        queries = _latest(state, policy.window)
        return scorers.window_attention(
            queries, keys, M, state.scaling, where, policy.pooling, policy.kernel, policy.aggregation
        )
    if policy.name == "rkv":
        queries = _latest(state, policy.window)
        return scorers.redundancy(
            queries,
            keys,
            M,
            state.scaling,
            where,
            policy.lam,
            policy.kernel,
            policy.threshold,
            policy.aggregation,
        )
    if policy.name == "knorm":
        return scorers.short_keys(keys, M, policy.aggregation)
    if policy.name == "tova":
        context = state.keys[:, :prompt].tolist()
        return scorers.newest_query(_latest(state, 1), context, keys, M, state.scaling, policy.aggregation)
    if policy.name in ("h2o", "kvzap"):
        return [mass[:M] for mass in state.mass]
    if policy.name == "streamingllm":
        return [[float(rank) for rank in scorers.recency(where[0], policy.sinks)]]
    if policy.name in ("random", "randomattention"):
        redraw = policy.name == "randomattention"
        return scorers.random_scores(policy.seed, row, index, where, policy.aggregation, redraw)
    assert policy.name == "oracle"
    ids = torch.tensor([[[tokens[p] for p in where[0]]]])
    return policy.keep(ids)[0].float().tolist()


def _weighted_draw(
    policy: Any, state: LayerState, layer: Any, prompt: int, M: int, sure: int, index: int, row: int
) -> list[list[float]]:
    """VaSE's scores, [g][M]."""
    assert state.keys is not None
    keys, values = state.keys[:, prompt:].tolist(), layer.values[0, :, prompt : prompt + M].tolist()
    where, queries = [held[:M] for held in state.positions], _latest(state, policy.window)
    told = policy.kernel, policy.aggregation
    weights = scorers.window_attention(queries, keys, M, state.scaling, where, "avg", *told)
    return scorers.weighted_draw(weights, values, where, sure, policy.seed, row, index, policy.aggregation)


def _expected_attention(policy: Any, state: LayerState, layer: Any, prompt: int, M: int) -> list[list[float]]:
    """The policy has its rotation already."""
    assert state.keys is not None
    keys, values = state.keys[:, prompt:].tolist(), layer.values[0, :, prompt : prompt + M].tolist()
    newest = prompt + state.positions[0][-1]
    asked = range(newest - policy.queries + 1, newest + 1)
    turn = policy.scorer.rotation
    told = state.scaling, asked, policy.future, turn.frequencies.tolist(), turn.halves, policy.aggregation
    return scorers.expected_attention(_latest(state, policy.queries), keys, values, M, *told)


def _learned(policy: Any, state: LayerState, layer: Any, prompt: int, M: int, index: int) -> list[list[float]]:
    """The policy has its selector already."""
    keys, values = (getattr(layer, name)[0, :, prompt:].tolist() for name in ("keys", "values"))
    at = [[prompt + p for p in held[:M]] for held in state.positions]
    per_head = _aggregation(policy) == "group"
    scores = scorers.learned(keys, values, M, at, policy.scorer.selector, index, per_head)
    newest = prompt + state.positions[0][-1]
    return [
        [score - policy.fading * math.log(newest + 1 - p) for score, p in zip(row, where, strict=True)]
        for row, where in zip(scores, at, strict=False)  # one row for all heads, or one each
    ]


def _aggregation(policy: Any) -> str:
    """A selector says it, not the policy's settings; KVzap has no other."""
    if policy.name == "kvzap":
        return "group"
    return policy.scorer.aggregation if policy.name == "learned" else getattr(policy, "aggregation", "layer")


def _by_cached_head(scores: list[list[float]], heads: int) -> list[list[float]]:
    """A score for each head attended to -> one for each cached head, which several may be made of: their mean."""
    if len(scores) in (1, heads):
        return scores
    each = len(scores) // heads
    return [
        [sum(column) / each for column in zip(*scores[h * each : (h + 1) * each], strict=True)] for h in range(heads)
    ]


def _latest(state: LayerState, count: int) -> list[list[list[float]]]:
    """[H][count][D], oldest first."""
    return torch.stack(state.queries[-count:], dim=1).tolist()


def _observe(policy: Any, state: LayerState) -> None:
    """Add this step's attention, over prompt and generated tokens alike, to what each generated token got so far."""
    assert state.keys is not None
    keys = state.keys.tolist()
    paid = scorers.observed(_latest(state, 1), keys, state.scaling, policy.aggregation, None)
    for mass, row in zip(state.mass, paid, strict=True):
        mass.append(0.0)
        generated = row[len(row) - len(mass) :]
        mass[:] = [m + p for m, p in zip(mass, generated, strict=True)]
