"""One compression inside the paged KV cache: read a request's generated tokens, let the policy choose, write back those
that stay.

Shapes: B requests that are due, G KV heads, H query heads, D head size, M candidates of the longest, W window, K kept of
the most. Shorter requests are right-aligned in front of nothing, as `Evidence` wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from laconic.compress import Evidence, Policy
from laconic.compress.select import select
from laconic.engines.vllm.plugin.layouts import CacheLayout, WriteTokens
from laconic.engines.vllm.plugin.ring import QueryRing

# Numbers of one layer's keys that are read at once; the values are as many again. 128 MiB in 32 bits.
CHUNK_ELEMENTS = 1 << 25


@dataclass(slots=True)
class AttentionLayer:
    """One attention layer of this worker."""

    name: str
    """vLLM's, of the module."""
    index: int
    """The model's, from 0; a worker of a pipeline has some of them."""
    heads: int
    """H, on this device."""
    kv_heads: int
    """G, on this device."""
    first_head: int
    """Which of the layer's KV heads the first one here is."""
    head_size: int
    """D."""
    scaling: float
    """What attention multiplies its scores by."""
    cache: Callable[[], Tensor]
    """Its KV cache, [blocks, G, block size, 2 * D]; looked up each time, since vLLM may bind another tensor."""
    write: WriteTokens
    """Puts tokens into the cache."""
    layout: CacheLayout
    """How they are read again."""


@dataclass(slots=True)
class DueRequest:
    """A request that is due for a compression."""

    prompt: int
    """Tokens of its prompt."""
    held: int
    """Tokens it holds now."""
    round: int
    """Which compression this is, from 1."""
    computed: int
    """Tokens whose KV has been computed, evicted ones included."""
    slot: int
    """Its slot in the query ring."""
    blocks: Tensor
    """Its block ids, long [n], on the cache's device."""
    positions: dict[str, Tensor] = field(default_factory=dict)
    """Which of its generated tokens the last compression left: layer name -> long [g, kept + W]; empty before the first.
    `compact` puts those of this one there."""


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


@dataclass(slots=True)
class _Batch:
    """Where the tokens of some due requests lie and go to, for all layers alike."""

    due: Sequence[DueRequest]
    candidates: int
    """M: of the request that has the most."""
    window: int
    """W."""
    kept: list[int]
    """K of each request."""
    valid: Tensor | None
    """bool [B, M], which candidates are real; None: all."""
    source: Tensor
    """long [B, M + W], slots of the candidates and the window."""
    target: Tensor
    """long [B, K + W], slots that take what stays."""
    written: Tensor | None
    """bool [B, K + W], which of those are real; None: all."""
    ring_places: Tensor | None
    """long [B, S], places of the latest queries in the ring; None: the policy reads none."""


def _locate(policy: Policy, due: Sequence[DueRequest], size: int, ring: QueryRing | None) -> _Batch:
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
    blocks = torch.nn.utils.rnn.pad_sequence([d.blocks for d in due], batch_first=True)

    def slots(place: Tensor) -> Tensor:
        """Of places among each request's held tokens, [B, n]."""
        return blocks.gather(1, place // size) * size + place % size

    # Candidates and window, in order and right-aligned. What a shorter request lacks in front reads its first generated token.
    source = prompt_B[:, None] + (torch.arange(M + W, device=device) - (M - count_B[:, None])).clamp(min=0)
    # What stays moves up behind the prompt, right-aligned too; places in front of a shorter request's are never written.
    target = prompt_B[:, None] + torch.arange(K + W, device=device) - (K - keep_B[:, None])
    alike = min(counts) == M and min(kept) == K
    ring_places = None
    if ring is not None and scorer.queries:
        newest = torch.tensor([d.computed for d in due], device=device)[:, None]
        slot = torch.tensor([d.slot for d in due], device=device)[:, None]
        ring_places = ring.place_of(slot, newest - torch.arange(scorer.queries, 0, -1, device=device))
    return _Batch(
        due=due,
        candidates=M,
        window=W,
        kept=kept,
        valid=None if alike else torch.arange(M, device=device) >= M - count_B[:, None],
        source=slots(source),
        target=slots(target.clamp(min=0)),
        written=None if alike else torch.arange(K + W, device=device) >= K - keep_B[:, None],
        ring_places=ring_places,
    )


def _compact_batch(
    layers: Sequence[AttentionLayer],
    policy: Policy,
    due: Sequence[DueRequest],
    size: int,
    ring: QueryRing | None,
    across: Callable[[Tensor], Tensor] | None,
) -> None:
    batch = _locate(policy, due, size, ring)
    for layer in layers:
        _compact_layer(layer, policy, batch, ring, across)


def _compact_layer(
    layer: AttentionLayer,
    policy: Policy,
    batch: _Batch,
    ring: QueryRing | None,
    across: Callable[[Tensor], Tensor] | None,
) -> None:
    scorer = policy.scorer
    assert scorer is not None
    M, W, kept = batch.candidates, batch.window, batch.kept
    K = max(kept)
    cache = layer.cache()
    keys, values = layer.layout.read(cache, batch.source)  # [B, M + W, G, D]
    positions = _positions(layer, batch.due, M, W)
    evidence = Evidence(
        queries=None if batch.ring_places is None or ring is None else ring.read(layer.name, batch.ring_places),
        keys=keys.transpose(1, 2),
        scaling=layer.scaling,
        valid=batch.valid,
        positions=positions[..., :M],
        layer=layer.index,
        across=across,
        first_head=layer.first_head,
    )
    if scorer.reads_values:
        starts = torch.tensor([d.prompt for d in batch.due], device=keys.device)
        evidence = replace(evidence, values=values.transpose(1, 2), starts=starts)
    if scorer.reads_keep:
        evidence = replace(evidence, keep=torch.tensor(kept, device=keys.device))
    keep: int | Tensor = K if min(kept) == K else torch.tensor(kept)
    chosen = select(scorer.score(evidence), keep, batch.valid, check=False)  # [B, g, K]
    # g is 1 where the policy chooses for all KV heads together, and G where each has its own.
    told = positions.expand(-1, chosen.shape[1], -1)  # [B, g, M + W]
    for i, d in enumerate(batch.due):
        stays = told[i, :, :M].gather(-1, chosen[i])[:, K - kept[i] :]
        d.positions[layer.name] = torch.cat((stays, told[i, :, M:]), dim=-1)
    index = chosen.transpose(1, 2)[..., None].expand(-1, -1, layer.kv_heads, layer.head_size)
    # Copies, both: what is read and what is written lie in the same blocks.
    key = torch.cat((keys[:, :M].gather(1, index), keys[:, M:]), dim=1)  # [B, K + W, G, D]
    value = torch.cat((values[:, :M].gather(1, index), values[:, M:]), dim=1)
    if batch.written is None:
        layer.write(key.flatten(0, 1), value.flatten(0, 1), cache, batch.target.flatten())
    else:
        layer.write(key[batch.written], value[batch.written], cache, batch.target[batch.written])


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
