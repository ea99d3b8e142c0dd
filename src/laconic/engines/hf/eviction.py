"""One compression of one layer: show the scorer what it needs, let `select` choose; once the pass is over, move what stays.

Shapes: D due rows, G KV heads, H query heads, L slots in use, M candidates, K kept, g index sets (1 or G).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laconic.compress import Evidence
from laconic.compress.select import select
from laconic.engines.hf.ledger import Eviction
from laconic.errors import InputError

if TYPE_CHECKING:
    from laconic.engines.hf.layer import CompressedLayer


@dataclass(frozen=True, slots=True)
class Selection:
    """What stays of the due rows. slots: long [D, g, K], ascending, among the candidates. positions: long [D, g, K + window],
    which generated tokens they and the window are; -1 before the first of a row with fewer."""

    slots: Tensor
    positions: Tensor


def choose(layer: CompressedLayer, plan: Eviction, key: Tensor, scaling: float) -> Selection:
    """Score the candidates of the due rows and choose. key: [B, Gk, L, D], what the layer attended to."""
    assert layer.scorer is not None
    window, length = plan.window, plan.length
    widest = max(plan.candidates)
    lowest = length - window - widest
    take = _taker(layer, _due(layer, plan))
    alike = min(plan.candidates) == widest
    valid = None
    if not alike:
        counts = torch.tensor(plan.candidates, device=layer.device)
        valid = torch.arange(widest, device=layer.device) >= widest - counts[:, None]
    positions = _positions(layer, plan, take, widest + window)
    candidates_at = positions[..., :widest]
    evidence = Evidence(
        queries=_queries(layer, take),
        keys=take(key[:, :, lowest:length]),
        scaling=scaling,
        valid=valid,
        positions=candidates_at,
        token_ids=_token_ids(layer, plan, candidates_at),
        mass=None if layer.mass is None else take(layer.mass[..., lowest : length - window]),
        context_keys=None,
        context_valid=None,
        layer=layer.index,
        rows=torch.tensor([layer.ledger.rows[i].number for i in plan.due], device=layer.device),
    )
    if layer.scorer.reads_prompt:
        evidence = _with_context(layer, evidence, plan, key, take, lowest)
    keep: int | Tensor = plan.keep[0]
    if min(plan.keep) != max(plan.keep):
        keep = torch.tensor(plan.keep)  # on the CPU: reading it there waits for no device
    slots = select(layer.by_cached_head(layer.scorer.score(evidence)), keep, valid, check=False)
    return Selection(slots, _kept(layer, plan, positions, slots, widest))


def move(layer: CompressedLayer, plan: Eviction, choice: Selection) -> None:
    """Keep the chosen candidates and the window, in place, and note which tokens they are."""
    lowest = plan.length - plan.window - max(plan.candidates)
    due = _due(layer, plan)
    _store(layer, due, choice.positions)
    if plan.uniform:
        _compact(layer, plan, choice.slots, lowest)
    else:
        _rewrite(layer, plan, due, choice.slots, lowest)


def _due(layer: CompressedLayer, plan: Eviction) -> Tensor | None:
    """long [D], the rows that compress now; None: all of them."""
    return None if len(plan.due) == len(layer.ledger.rows) else torch.tensor(plan.due, device=layer.device)


def _taker(layer: CompressedLayer, due: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Picks the due rows of a tensor whose first axis is the batch (or more rows, unused)."""
    return (lambda t: t[: len(layer.ledger.rows)]) if due is None else (lambda t: t[due])


def _queries(layer: CompressedLayer, take: Callable[[Tensor], Tensor]) -> Tensor | None:
    assert layer.scorer is not None
    if layer.scorer.queries == 0:
        return None
    queries = layer.queries()
    if queries is None:
        raise RuntimeError("a compression is due, but no queries were captured")
    return take(queries)


def _positions(layer: CompressedLayer, plan: Eviction, take: Callable[[Tensor], Tensor], width: int) -> Tensor:
    """long [D, g, width]: index among the row's generated tokens of its last `width` slots (junk before its first)."""
    back = torch.arange(width - 1, -1, -1, device=layer.device)  # distance from the newest
    newest = torch.tensor(plan.generated, device=layer.device)[:, None, None] - 1
    if layer.stored is None:
        return (newest - back).clamp(min=0)
    since = torch.tensor(plan.since, device=layer.device)[:, None, None]
    stored = take(layer.stored)
    older = (stored.shape[-1] - 1 - (back - since)).clamp(0, stored.shape[-1] - 1)  # [D, 1, width]
    older = stored.gather(-1, older.expand(-1, stored.shape[1], -1))
    return torch.where(back < since, (newest - back).clamp(min=0), older)


def _token_ids(layer: CompressedLayer, plan: Eviction, positions: Tensor) -> Tensor | None:
    if layer.scorer is None or not layer.scorer.needs_token_ids:
        return None
    if layer.lookup is None:
        raise InputError(
            "this policy looks at token ids, which only laconic's own engine knows: run it through HFEngine instead of generate"
        )
    table = layer.lookup([layer.ledger.rows[i].number for i in plan.due]).to(layer.device)
    # A row with fewer candidates than the widest has junk positions before its first.
    return table[:, None].expand(-1, positions.shape[1], -1).gather(-1, positions.clamp(min=0))


def _with_context(
    layer: CompressedLayer,
    evidence: Evidence,
    plan: Eviction,
    key: Tensor,
    take: Callable[[Tensor], Tensor],
    lowest: int,
) -> Evidence:
    """Add the prompt's keys, right-aligned. Rows whose candidates start later have part of their prompt in the slice."""
    widest_prompt = max(plan.prompt)
    starts = [plan.length - plan.window - c for c in plan.candidates]  # first generated slot of each row
    mask = layer.ledger.validity(0, layer.device)
    if min(starts) == max(starts):
        context = take(key[:, :, lowest - widest_prompt : lowest])
        valid = None if mask is None else take(mask[:, lowest - widest_prompt : lowest])
        return replace(evidence, context_keys=context, context_valid=valid)
    offsets = torch.arange(widest_prompt, device=layer.device) - widest_prompt
    slots = (torch.tensor(starts, device=layer.device)[:, None] + offsets).clamp(min=0)  # [D, Pr]
    keys = take(key)
    index = slots[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
    prompts = torch.tensor(plan.prompt, device=layer.device)
    valid = offsets + prompts[:, None] >= 0
    return replace(evidence, context_keys=keys.gather(2, index), context_valid=valid)


def _kept(layer: CompressedLayer, plan: Eviction, positions: Tensor, slots: Tensor, widest: int) -> Tensor:
    """Which generated tokens stay: those chosen, then the window; right-aligned, -1 before a row's first."""
    positions = positions.expand(-1, slots.shape[1], -1)
    kept = positions[..., :widest].gather(-1, slots)
    if min(plan.keep) != max(plan.keep):
        counts = torch.tensor(plan.keep, device=layer.device)[:, None, None]
        kept = kept.masked_fill(torch.arange(kept.shape[-1], device=layer.device) < kept.shape[-1] - counts, -1)
    return torch.cat((kept, positions[..., widest:]), dim=-1)


def _store(layer: CompressedLayer, due: Tensor | None, new: Tensor) -> None:
    """Remember which generated tokens stay, right-aligned."""
    if due is None:
        layer.stored = new
        return
    old = layer.stored
    if old is None:
        old = new.new_full((len(layer.ledger.rows), new.shape[1], 0), -1)
    width = max(old.shape[-1], new.shape[-1])
    old, new = right_align(old, width, -1), right_align(new, width, -1)
    layer.stored = old.index_copy(0, due, new)


def _compact(layer: CompressedLayer, plan: Eviction, chosen: Tensor, lowest: int) -> None:
    """All rows alike: gather into the same buffers, prompts untouched."""
    rows, keep, window, length = len(plan.due), chosen.shape[-1], plan.window, plan.length
    for buffer in layer.buffers():
        shape = (-1, buffer.shape[1], -1) + ((buffer.shape[3],) if buffer.dim() == 4 else ())
        index = chosen[..., None] if buffer.dim() == 4 else chosen
        live = buffer[:rows]
        kept = live[:, :, lowest : length - window].gather(2, index.expand(shape))
        recent = live[:, :, length - window : length].clone()
        live[:, :, lowest : lowest + keep] = kept
        live[:, :, lowest + keep : lowest + keep + window] = recent


def _rewrite(layer: CompressedLayer, plan: Eviction, due: Tensor | None, chosen: Tensor, lowest: int) -> None:
    """Rows differ: build for every slot of the new frame the slot it comes from, and gather the due rows."""
    rows, window, length, new = len(layer.ledger.rows), plan.window, plan.length, plan.new_length
    keep = torch.tensor(plan.keep, device=layer.device)[:, None]
    dropped = torch.tensor(plan.candidates, device=layer.device)[:, None] - keep
    back = torch.arange(new - 1, -1, -1, device=layer.device)  # [new]: distance from the end
    source = (length - 1 - back - dropped * (back >= window + keep)).clamp(min=0)  # [D, new]
    source = source[:, None].expand(-1, chosen.shape[1], -1).clone()
    widest = chosen.shape[-1]
    middle = source[..., new - window - widest : new - window]
    is_kept = torch.arange(widest, device=layer.device) >= widest - keep  # [D, K]
    middle.copy_(torch.where(is_kept[:, None], chosen + lowest, middle))
    rest = None
    if due is not None and new < length:
        rest = torch.tensor(sorted(set(range(rows)) - set(plan.due)), device=layer.device)
    for buffer in layer.buffers():
        live = buffer[:rows]
        shape = (-1, buffer.shape[1], -1) + ((buffer.shape[3],) if buffer.dim() == 4 else ())
        index = (source[..., None] if buffer.dim() == 4 else source).expand(shape)
        moved = (live if due is None else live[due])[:, :, :length].gather(2, index)
        if rest is not None:
            live[rest, :, :new] = live[rest, :, length - new : length]
        if due is None:
            live[:, :, :new] = moved
        else:
            live[due, :, :new] = moved


def right_align(tensor: Tensor, width: int, fill: int) -> Tensor:
    lack = width - tensor.shape[-1]
    return tensor if lack <= 0 else torch.nn.functional.pad(tensor, (lack, 0), value=fill)
