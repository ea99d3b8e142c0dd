"""One compression inside the paged KV cache: read a request's generated tokens, let the policy choose, write back those
that stay.

Shapes: B requests that are due, G KV heads, H query heads, D head size, M candidates of the longest, W window, K kept of
the most. Shorter requests are right-aligned in front of nothing, as `Evidence` wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from laconic.compress import Evidence, Policy
from laconic.compress.select import select
from laconic.engines.vllm.plugin.layouts import CacheLayout
from laconic.engines.vllm.plugin.ring import QueryRing

# Numbers of one layer's keys that are read at once; the values are as many again. 128 MiB in 32 bits.
CHUNK_ELEMENTS = 1 << 25


@dataclass(slots=True)
class AttentionLayer:
    """One attention layer of this worker.

    write: (key [n, G, D], value [n, G, D], cache, slots [n]) puts tokens into its cache. cache: looked up each time, since vLLM
    may bind another tensor.
    """

    name: str
    index: int
    heads: int
    kv_heads: int
    head_size: int
    scaling: float
    cache: Callable[[], Tensor]
    write: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    layout: CacheLayout


@dataclass(slots=True)
class DueRequest:
    """A request at a compression.

    prompt: its prompt's length. held: tokens it holds now. round: which compression this is, from 1. computed: tokens
    computed. slot: its slot in the query ring. blocks: long [n], its block ids. positions: which generated tokens the last
    compression left, [layer name] -> long [g, kept + W]; empty before the first.
    """

    prompt: int
    held: int
    round: int
    computed: int
    slot: int
    blocks: Tensor
    positions: dict[str, Tensor] = field(default_factory=dict)


def compact(
    layers: Sequence[AttentionLayer],
    policy: Policy,
    due: Sequence[DueRequest],
    size: int,
    ring: QueryRing | None,
    across: Callable[[Tensor], Tensor] | None,
) -> None:
    """Compress requests that have one policy, in all layers.

    size: tokens of a block, as the block ids count them (kernels may split blocks further). across: the mean over the devices
    that share a layer's heads.
    """
    assert policy.scorer is not None
    for some in _memory_batches(due, layers[0]):
        _compact_batch(layers, policy, some, size, ring, across)


def _memory_batches(due: Sequence[DueRequest], layer: AttentionLayer) -> list[list[DueRequest]]:
    """Requests that are read together: few enough for memory, alike in length first."""
    queue = sorted(due, key=lambda d: d.held - d.prompt)
    parts: list[list[DueRequest]] = []
    for one in queue:
        size = (one.held - one.prompt) * layer.kv_heads * layer.head_size
        if not parts or size * (len(parts[-1]) + 1) > CHUNK_ELEMENTS:
            parts.append([])
        parts[-1].append(one)
    return parts


def _compact_batch(
    layers: Sequence[AttentionLayer],
    policy: Policy,
    due: Sequence[DueRequest],
    size: int,
    ring: QueryRing | None,
    across: Callable[[Tensor], Tensor] | None,
) -> None:
    scorer, schedule = policy.scorer, policy.schedule
    assert scorer is not None
    device, W = due[0].blocks.device, schedule.window
    counts = [schedule.candidates(d.round) for d in due]
    kept = [schedule.kept(d.round) for d in due]
    M, K = max(counts), max(kept)
    for d, count in zip(due, counts, strict=True):
        if d.held - d.prompt != count + W:
            raise RuntimeError(f"{d.held - d.prompt} generated tokens are held where the schedule knows {count + W}")

    count_B = torch.tensor(counts, device=device)
    keep_B = torch.tensor(kept, device=device)
    prompt_B = torch.tensor([d.prompt for d in due], device=device)
    alike = min(counts) == M and min(kept) == K
    back = torch.arange(M, device=device)
    valid = None if alike else back >= M - count_B[:, None]  # [B, M]
    # Places among a request's held tokens, of its candidates and window in order; junk places are its first generated token.
    place = prompt_B[:, None] + (torch.arange(M + W, device=device) - (M - count_B[:, None])).clamp(min=0)
    blocks = torch.nn.utils.rnn.pad_sequence([d.blocks for d in due], batch_first=True)
    source = blocks.gather(1, place // size) * size + place % size  # [B, M + W]
    # Where what stays goes: kept candidates right-aligned, then the window.
    target_place = prompt_B[:, None] + torch.arange(K + W, device=device) - (K - keep_B[:, None])
    real = None if alike else torch.arange(K + W, device=device) >= K - keep_B[:, None]
    target_place = target_place.clamp(min=0)
    target = blocks.gather(1, target_place // size) * size + target_place % size  # [B, K + W]

    places = None
    if ring is not None and scorer.queries:
        newest = torch.tensor([d.computed for d in due], device=device)[:, None]
        slot = torch.tensor([d.slot for d in due], device=device)[:, None]
        places = ring.place_of(slot, newest - torch.arange(scorer.queries, 0, -1, device=device))  # [B, S]
    keep: int | Tensor = K if min(kept) == K else torch.tensor(kept)
    for layer in layers:
        cache = layer.cache()
        keys, values = layer.layout.read(cache, source)  # [B, M + W, G, D]
        positions = _positions(layer, due, M, W)
        evidence = Evidence(
            queries=None if places is None or ring is None else ring.read(layer.name, places),
            keys=keys.transpose(1, 2),
            scaling=layer.scaling,
            valid=valid,
            positions=positions[..., :M],
            layer=layer.index,
            across=across,
        )
        chosen = select(scorer.score(evidence), keep, valid, check=False)  # [B, g, K]
        told = positions.expand(-1, chosen.shape[1], -1)  # [B, g, M + W]
        for i, d in enumerate(due):
            stays = told[i, :, :M].gather(-1, chosen[i])[:, K - kept[i] :]
            d.positions[layer.name] = torch.cat((stays, told[i, :, M:]), dim=-1)
        index = chosen.transpose(1, 2)[..., None].expand(-1, -1, layer.kv_heads, layer.head_size)
        key = torch.cat((keys[:, :M].gather(1, index), keys[:, M:]), dim=1)  # [B, K + W, G, D]
        value = torch.cat((values[:, :M].gather(1, index), values[:, M:]), dim=1)
        if real is None:
            layer.write(key.flatten(0, 1), value.flatten(0, 1), cache, target.flatten())
        else:
            layer.write(key[real], value[real], cache, target[real])


def _positions(layer: AttentionLayer, due: Sequence[DueRequest], M: int, W: int) -> Tensor:
    """long [B, g, M + W]: index among its request's generated tokens of each candidate and window token; 0 for junk."""
    rows = []
    for d in due:
        generated, held = d.computed - d.prompt, d.held - d.prompt
        stored = d.positions.get(layer.name)
        old = 0 if stored is None else stored.shape[-1]
        recent = torch.arange(generated - (held - old), generated, device=d.blocks.device)
        row = recent[None] if stored is None else torch.cat((stored, recent.expand(stored.shape[0], -1)), dim=-1)
        rows.append(torch.nn.functional.pad(row, (M + W - held, 0)))
    groups = max(row.shape[0] for row in rows)
    return torch.stack([row.expand(groups, -1) for row in rows])
