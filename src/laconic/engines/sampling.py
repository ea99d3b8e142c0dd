"""Drawing the next tokens, without any generator's state.

The uniform number behind each draw is a hash of (seed, trace, position). So trace i is the same text whichever traces run
beside it, in whatever order rows are batched, and a trace that was stopped goes on as if it had not been; floating point is
the one exception: another batch size may use another matrix kernel, whose last bits can differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from laconic.engines.base import Sampling, TokenLogprobs

_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
NONE = -1  # drawn where logits give no distribution
CACHED = 1 << 20  # logits that a CPU works on at once: in several passes over them, what its caches hold is read once
RANKED = 128  # candidates ranked before a whole vocabulary is sorted for top-p


def mix64(x: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014) on one 64-bit integer."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def trace_key(seed: int, index: int) -> int:
    """The key of trace `index` under `seed`; all of a trace's draws come from it."""
    return mix64(mix64(seed & _MASK) ^ mix64(index + 1))


def uniform(key: int, position: int) -> float:
    """The draw of a trace at a position, in [0, 1), with 53 random bits."""
    return (mix64(key ^ mix64(position)) >> 11) / float(1 << 53)


def draw(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """logits: [B, V]; one setting and one uniform number a row. Returns long [B].

    A row that gives no distribution (a NaN, +inf, or nothing but -inf; some -inf only ban their tokens) draws NONE, which costs
    no synchronisation: whoever fetches the ids sees it.

    top-k first, then top-p over what is left (as transformers orders them), then the inverse of the cumulative distribution:
    over candidates from likeliest to least, or in the vocabulary's order where nothing is cut off.
    """
    first = samplings[0]
    if all(s is first or _same(s, first) for s in samplings):
        return _draw_alike(logits, first, uniforms)
    out = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
    groups: dict[tuple[float, float, int], list[int]] = {}
    for i, s in enumerate(samplings):
        groups.setdefault((s.temperature, s.top_p, s.top_k), []).append(i)
    for rows in groups.values():
        index = torch.tensor(rows, device=logits.device)
        out[index] = _draw_alike(logits[index], samplings[rows[0]], [uniforms[i] for i in rows])
    return out


def _same(a: Sampling, b: Sampling) -> bool:
    return (a.temperature, a.top_p, a.top_k) == (b.temperature, b.top_p, b.top_k)


def _draw_alike(logits: Tensor, sampling: Sampling, uniforms: Sequence[float]) -> Tensor:
    if sampling.temperature == 0:
        return _or_none(logits, logits.argmax(-1))
    rows = max(1, CACHED // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    parts = []
    for some, numbers in zip(logits.split(max(rows, 1)), _cut(uniforms, rows), strict=True):
        scaled = some.float() / sampling.temperature
        parts.append(_or_none(scaled, _draw_scaled(scaled, sampling, numbers)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _cut(uniforms: Sequence[float], rows: int) -> list[Sequence[float]]:
    """As `split` cuts the rows: an empty batch is one empty piece."""
    return [uniforms[i : i + rows] for i in range(0, max(len(uniforms), 1), max(rows, 1))]


def _or_none(logits: Tensor, picked: Tensor) -> Tensor:
    # A row's greatest logit is NaN where any is, and infinite where nothing can be shared out.
    return picked.masked_fill(~logits.amax(-1).isfinite(), NONE)


def _draw_scaled(scaled: Tensor, sampling: Sampling, uniforms: Sequence[float]) -> Tensor:
    width = scaled.shape[-1]
    at = torch.tensor(uniforms, dtype=torch.double, device=scaled.device)[:, None]
    probs = scaled.softmax(-1)
    if not 0 < sampling.top_k < width and sampling.top_p == 1:
        return _inverse(probs.double(), at)[:, 0]  # nothing is cut off, so nothing needs to be ranked
    if 0 < sampling.top_k < width:
        probs, order = probs.topk(sampling.top_k, dim=-1)
        return _nucleus(probs, order, sampling.top_p, at)
    if width <= RANKED:
        return _nucleus(*probs.sort(dim=-1, descending=True, stable=True), sampling.top_p, at)
    # The likeliest few nearly always hold top_p. A row in which they don't is sorted whole: which way a row goes depends
    # on itself alone, so its draw does not depend on its company.
    best, order = probs.topk(RANKED, dim=-1)
    picked = _nucleus(best, order, sampling.top_p, at, total=1.0)
    short = (best.double().sum(-1) <= sampling.top_p).nonzero()[:, 0]
    if len(short):
        whole = probs[short].sort(dim=-1, descending=True, stable=True)
        picked[short] = _nucleus(*whole, sampling.top_p, at[short], total=1.0)
    return picked


def _nucleus(ranked: Tensor, order: Tensor, top_p: float, at: Tensor, total: float | None = None) -> Tensor:
    """Draw from the least number of likeliest candidates that hold `top_p` of `total` (None: of all that are ranked)."""
    probs = ranked.double()
    ahead = probs.cumsum(-1) - probs  # probability of everything likelier
    mass = probs.sum(-1, keepdim=True) if total is None else total
    if top_p < 1:
        probs = probs.masked_fill(ahead >= top_p * mass, 0.0)
    return order.gather(-1, _inverse(probs, at))[:, 0]


def _inverse(probs: Tensor, at: Tensor) -> Tensor:
    """The index at which the cumulative sum of `probs` [B, V], taken as shares, passes `at` [B, 1]. long [B, 1]."""
    total = probs.cumsum(-1)
    return (total <= at * total[:, -1:]).sum(-1, keepdim=True).clamp(max=total.shape[-1] - 1)


def confidence(logits: Tensor, k: int) -> Tensor:
    """Each row's confidence: minus the mean log-probability of its k likeliest tokens. [B, V] -> [B].

    DeepConf (arXiv 2508.15260). Tokens that are banned (-inf) are no candidates: where fewer than k are left, the mean is over
    those.
    """
    best = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1).values
    left = best > -torch.inf
    return -best.masked_fill(~left, 0.0).sum(-1) / left.sum(-1).clamp(min=1)


def token_logprobs(logits: Tensor, tokens: Sequence[int], k: int) -> list[TokenLogprobs]:
    """Each row's log-probability of its token and of its k likeliest ones, before temperature and cuts. logits: [B, V].

    tokens: one a row. Banned ones (-inf) are left out of the likeliest.
    """
    whole = logits.float().log_softmax(-1)
    drawn = whole.gather(-1, torch.tensor(tokens, device=whole.device)[:, None])[:, 0].tolist()
    best = whole.topk(min(k, whole.shape[-1]), dim=-1)
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprobs(logprob, tuple((i, v) for i, v in zip(ids, values, strict=True) if v > -math.inf))
        for logprob, (ids, values) in zip(drawn, likeliest, strict=True)
    ]
