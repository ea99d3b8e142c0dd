"""What a policy's scorer sees of one layer, and what it chooses: once the layer has attended, nothing of it moves anything.

Shapes: B rows, E rows that are due, G KV heads, H query heads, L slots in use, M candidates, K kept, g index sets (1 or G).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from laconic.compress import Evidence, Scorer
from laconic.compress.select import least, select
from laconic.engines.hf.buffers import KVBuffers
from laconic.engines.hf.ledger import Ledger
from laconic.engines.hf.slots import Eviction
from laconic.errors import InputError

TokenLookup = Callable[[list[int]], Tensor]
"""Numbers of traces -> their generated token ids, long [traces, most generated]."""
FutureLookup = Callable[[int, list[int], Sequence[int], Tensor], Tensor]
"""(layer, numbers of traces, generated tokens of each, positions long [E, g, M]) -> `Evidence.future`, fp32 [E, g or G, M]."""
TakeRows = Callable[[Tensor], Tensor]
"""Picks the due rows of a tensor whose first axis is the batch (or more rows, unused)."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays of the due rows in one layer."""

    slots: Tensor
    """long [E, g, K], ascending, among the candidates."""
    positions: Tensor
    """long [E, g, K + window]: which generated tokens they and the window are; -1 before the first of a row with fewer."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Each row of the batch gives up one token of the layer, and the newest takes its slot."""

    slots: Tensor
    """long [B, g, 1], of those in use."""
    positions: Tensor
    """long [B, g, K + window]: which generated tokens the slots before the newest's hold then, in no order; -1 before the first
    of a row with fewer."""


class LayerScoring:
    """One layer's scorer and what it needs beside the buffers."""

    def __init__(self, scorer: Scorer, layer: int) -> None:
        self.scorer, self.layer = scorer, layer
        self.lookup: TokenLookup | None = None  # only laconic's own engine knows the tokens' ids
        self.future: FutureLookup | None = None  # only who runs a recorded trace again knows it

    def add_attention(
        self, ledger: Ledger, buffers: KVBuffers, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None
    ) -> None:
        """Add up the attention that this pass's queries [B, H, q, D] paid to each slot. mask: as the model's attention has it.

        Raises InputError for a mask that isn't [B, 1 or H, q, T], nor [B, T] (flash attention's, of padding alone).
        """
        seen = visible(mask, query.shape[2], key.shape[2])
        received = by_cached_head(self.scorer.observe(query, key, seen, scaling), buffers)
        buffers.add_mass(received, ledger.write_at)

    def note_tokens(self, ledger: Ledger, buffers: KVBuffers, inputs: Tensor | None) -> None:
        """Keep what the scorer says of this pass's tokens. inputs: what the layer's attention read of them, [B, q, E]."""
        if (
            inputs is None
            or inputs.dim() != 3
            or inputs.shape[:2] != (len(ledger.rows), ledger.length - ledger.write_at)
        ):
            raise InputError(
                f"this policy reads what the attention of layer {self.layer} reads, which is not to be seen here: use another, "
                "such as rpc"
            )
        buffers.set_mass(by_cached_head(self.scorer.note(self.layer, inputs), buffers), ledger.write_at)

    def choose(self, ledger: Ledger, buffers: KVBuffers, key: Tensor, scaling: float) -> Selection | Replacement:
        """Score the candidates of the rows that are due and choose. key: [B, Gk, L, D], what the layer attended to."""
        eviction = ledger.eviction
        assert eviction is not None
        if eviction.one_each and self.scorer.pointwise:
            return self._choose_one(eviction, ledger, buffers, key, scaling)
        order = buffers.put_in_order(len(ledger.rows), eviction.length - eviction.since[0])
        if order is not None and key.untyped_storage().data_ptr() != buffers.keys.untyped_storage().data_ptr():
            end = eviction.length - eviction.since[0]  # the model made its own keys of those in the cache
            kept = key[:, :, end - order.shape[-1] : end]
            kept = kept.gather(2, order[..., None].expand(-1, kept.shape[1], -1, kept.shape[3]))
            key = torch.cat((key[:, :, : end - order.shape[-1]], kept, key[:, :, end:]), dim=2)
        take = _taker(eviction, len(ledger.rows), buffers.keys.device)
        valid = _valid(eviction, buffers.keys.device)
        positions = _positions(eviction, buffers, take, eviction.widest + eviction.window)
        evidence = self._evidence(eviction, ledger, buffers, key, scaling, take, valid, positions)
        keep: int | Tensor = eviction.keep[0]
        if min(eviction.keep) != max(eviction.keep):
            keep = torch.tensor(eviction.keep)  # on the CPU: reading it there waits for no device
        slots = select(by_cached_head(self.scorer.score(evidence), buffers), keep, valid, check=False)
        return Selection(slots, _kept_positions(eviction, positions, slots))

    def _choose_one(
        self, eviction: Eviction, ledger: Ledger, buffers: KVBuffers, key: Tensor, scaling: float
    ) -> Replacement:
        """Which token of each row goes. Slots are in no order, so the window is told by positions."""
        device, window = buffers.keys.device, eviction.window
        whole = eviction.all_but_newest()
        take = _taker(whole, len(ledger.rows), device)
        valid = _valid(whole, device)
        positions = _positions(whole, buffers, take, whole.widest + 1)
        evidence = self._evidence(whole, ledger, buffers, key, scaling, take, valid, positions)
        scores = by_cached_head(self.scorer.score(evidence), buffers)
        generated = torch.tensor(whole.generated, device=device)[:, None, None]
        candidates_at = positions[..., : whole.widest]
        may_go = candidates_at < generated - window
        if valid is not None:
            may_go &= valid[:, None]
            candidates_at = candidates_at.masked_fill(~valid[:, None], -1)
        gone = least(scores, candidates_at, may_go)[..., None]
        kept = candidates_at.expand(-1, gone.shape[1], -1).scatter(-1, gone, (generated - 1).expand_as(gone))
        return Replacement(gone + whole.lowest, kept)

    def _evidence(
        self,
        eviction: Eviction,
        ledger: Ledger,
        buffers: KVBuffers,
        key: Tensor,
        scaling: float,
        take: TakeRows,
        valid: Tensor | None,
        positions: Tensor,
    ) -> Evidence:
        """positions: long [E, g, M + window], of the candidates and the window."""
        device, window, length = buffers.keys.device, eviction.window, eviction.length
        widest, lowest = eviction.widest, eviction.lowest
        candidates_at = positions[..., :widest]
        numbers = [ledger.rows[i].number for i in eviction.due]
        evidence = Evidence(
            queries=self._queries(ledger, buffers, take),
            keys=take(key[:, :, lowest:length]),
            scaling=scaling,
            valid=valid,
            positions=candidates_at,
            token_ids=self._token_ids(numbers, candidates_at),
            mass=None if buffers.mass is None else take(buffers.mass[..., lowest : length - window]),
            layer=self.layer,
            rows=torch.tensor([ledger.rows[i].drawn_by for i in eviction.due], device=device),
        )
        if self.scorer.reads_values:
            starts = [ledger.rows[i].prompt - ledger.rows[i].pads for i in eviction.due]
            values, first = take(buffers.values[:, :, lowest:length]), torch.tensor(starts, device=device)
            evidence = replace(evidence, values=values, starts=first)
        if self.scorer.reads_keep:
            evidence = replace(evidence, keep=torch.tensor(eviction.keep, device=device))
        if self.scorer.reads_future:
            evidence = replace(evidence, future=self._future(numbers, eviction, candidates_at))
        if self.scorer.reads_prompt:
            evidence = _with_prompt(evidence, eviction, key, take, ledger.validity(0, device))
        return evidence

    def _queries(self, ledger: Ledger, buffers: KVBuffers, take: TakeRows) -> Tensor | None:
        if self.scorer.queries == 0:
            return None
        queries = buffers.latest_queries(len(ledger.rows), ledger.ring_next)
        if queries is None:
            raise RuntimeError("a compression is due, but no queries were captured")
        return take(queries)

    def _future(self, numbers: list[int], eviction: Eviction, positions: Tensor) -> Tensor:
        if self.future is None:
            raise InputError(
                "this policy reads what later tokens will attend to, which only a recorded trace tells: use it in `laconic "
                "bench fidelity`"
            )
        return self.future(self.layer, numbers, eviction.generated, positions.clamp(min=0))

    def _token_ids(self, numbers: list[int], positions: Tensor) -> Tensor | None:
        if not self.scorer.needs_token_ids:
            return None
        if self.lookup is None:
            raise InputError(
                "this policy looks at token ids, which only laconic's own engine knows: run it through HFEngine instead of "
                "generate"
            )
        table = self.lookup(numbers).to(positions.device)
        # A row with fewer candidates than the widest has junk positions before its first.
        return table[:, None].expand(-1, positions.shape[1], -1).gather(-1, positions.clamp(min=0))


def by_cached_head(scores: Tensor, buffers: KVBuffers) -> Tensor:
    """[B, g, T] for each head attended to -> for each cached head: several that are made of one (latent attention) are
    averaged."""
    heads = buffers.keys.shape[1]
    return scores if scores.shape[1] in (1, heads) else scores.unflatten(1, (heads, -1)).mean(2)


def visible(mask: Any, queries: int, slots: int) -> Tensor | None:
    """bool [B, 1 or H, q, T]: which query sees which slot; None: causal, and all before."""
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.dim() == 4:
        # Eager attention's masks are added to the logits: the most negative number hides a slot.
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == slots:
        real = mask.bool()[:, None, None]
        causal = torch.ones(queries, slots, dtype=torch.bool, device=mask.device).tril(slots - queries)
        return real & causal
    shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    raise InputError(
        f"this policy adds up attention, and the model's attention has a mask that can't be read here ({shape}); load it with "
        'attn_implementation="sdpa", or use another policy, such as rpc'
    )


def _taker(eviction: Eviction, rows: int, device: torch.device) -> TakeRows:
    if len(eviction.due) == rows:
        return lambda t: t[:rows]
    due = torch.tensor(eviction.due, device=device)
    return lambda t: t[due]


def _valid(eviction: Eviction, device: torch.device) -> Tensor | None:
    """bool [E, M]; None where all have as many. Right-aligned, as the rows are: a row with fewer candidates has part of its
    prompt, or junk, before its first."""
    widest = eviction.widest
    if min(eviction.candidates) == widest:
        return None
    counts = torch.tensor(eviction.candidates, device=device)
    return torch.arange(widest, device=device) >= widest - counts[:, None]


def _positions(eviction: Eviction, buffers: KVBuffers, take: TakeRows, width: int) -> Tensor:
    """long [E, g, width]: index among the row's generated tokens of its last `width` slots (junk before its first).

    Tokens since the previous compression follow each other without a gap; older ones are what that compression kept, in the
    order of its slots.
    """
    device = buffers.keys.device
    back = torch.arange(width - 1, -1, -1, device=device)  # distance from the newest
    newest = torch.tensor(eviction.generated, device=device)[:, None, None] - 1
    if buffers.kept_positions is None:
        return (newest - back).clamp(min=0)
    since = torch.tensor(eviction.since, device=device)[:, None, None]
    kept = take(buffers.kept_positions)
    older = (kept.shape[-1] - 1 - (back - since)).clamp(0, kept.shape[-1] - 1)  # [E, 1, width]
    older = kept.gather(-1, older.expand(-1, kept.shape[1], -1))
    return torch.where(back < since, (newest - back).clamp(min=0), older)


def _with_prompt(
    evidence: Evidence, eviction: Eviction, key: Tensor, take: TakeRows, validity: Tensor | None
) -> Evidence:
    """Add the prompts' keys, right-aligned. Rows whose candidates start later have part of their prompt in the widest row's
    slice of candidates."""
    device, lowest, widest_prompt = evidence.keys.device, eviction.lowest, max(eviction.prompt)
    starts = [eviction.length - eviction.window - c for c in eviction.candidates]  # first generated slot of each row
    if min(starts) == max(starts):
        context = take(key[:, :, lowest - widest_prompt : lowest])
        valid = None if validity is None else take(validity[:, lowest - widest_prompt : lowest])
        return replace(evidence, context_keys=context, context_valid=valid)
    offsets = torch.arange(widest_prompt, device=device) - widest_prompt
    slots = (torch.tensor(starts, device=device)[:, None] + offsets).clamp(min=0)  # [E, slots of the widest prompt]
    keys = take(key)
    index = slots[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
    prompts = torch.tensor(eviction.prompt, device=device)
    valid = offsets + prompts[:, None] >= 0
    return replace(evidence, context_keys=keys.gather(2, index), context_valid=valid)


def _kept_positions(eviction: Eviction, positions: Tensor, slots: Tensor) -> Tensor:
    """Which generated tokens stay: those chosen, then the window; right-aligned, -1 before a row's first."""
    positions = positions.expand(-1, slots.shape[1], -1)
    kept = positions[..., : eviction.widest].gather(-1, slots)
    if min(eviction.keep) != max(eviction.keep):
        counts = torch.tensor(eviction.keep, device=positions.device)[:, None, None]
        kept = kept.masked_fill(torch.arange(kept.shape[-1], device=positions.device) < kept.shape[-1] - counts, -1)
    return torch.cat((kept, positions[..., eviction.widest :]), dim=-1)
