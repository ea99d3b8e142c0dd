"""Which RoPE a model's keys have been turned by: candidates read from its modules, and tried on its own cache.

A token that stands alone has the same key before RoPE wherever it stands: it attends to nothing but itself. So one pass, whose
rows are single tokens at several positions, shows of every layer whether a rotation, undone, leaves equal keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import FullKV, Rotation
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.cache import CompressedCache
from laconic.engines.hf.models import context_length, text_config
from laconic.engines.hf.runner import ModelRunner

POSITIONS = (0, 1, 2, 5, 17, 60, 251, 1000)
TOKENS = 4
EXACT, ROUNDED = 1e-3, 1e-2
"""How far apart keys may be, as a share of their length: in float32, and in 16 bits, which round the rotation, too."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundRotation:
    """fits: whether `rotation` (None: keys are not rotated at all) leaves equal keys; else nothing that was tried does."""

    rotation: Rotation | None
    fits: bool

    def describe(self) -> str:
        """A clause for people."""
        if not self.fits:
            return "none that is known leaves equal keys at all positions, so keys are not read"
        if self.rotation is None:
            return "none: keys do not depend on where a token stands"
        numbers, pairs = 2 * len(self.rotation.frequencies), "halves" if self.rotation.halves else "neighbours"
        return f"RoPE over {numbers} numbers of a key, by {pairs}"


def find_rotation(model: PreTrainedModel) -> FoundRotation:
    """The rotation of all of a model's compressible layers; no rotation is tried first."""
    layers, positions = _keys_of_lone_tokens(model)
    limit = EXACT if layers[0].dtype == torch.float32 else ROUNDED
    widest = layers[0].shape[-1]
    for rotation in (None, *_candidates(model, widest)):
        if all(_spread(rotation, keys, positions) <= limit for keys in layers):
            return FoundRotation(rotation, True)
    return FoundRotation(None, False)


def _candidates(model: PreTrainedModel, head_size: int) -> Iterator[Rotation]:
    """Every set of frequencies that a module holds, each by halves and by neighbours."""
    seen: list[Tensor] = []
    for name, buffer in model.named_buffers():
        frequencies = buffer.detach().float().cpu()
        if not name.endswith("inv_freq") or frequencies.dim() != 1 or not 0 < 2 * len(frequencies) <= head_size:
            continue
        if any(torch.equal(frequencies, other) for other in seen):
            continue
        seen.append(frequencies)
        for halves in (True, False):
            yield Rotation(frequencies, halves)


@torch.inference_mode()
def _keys_of_lone_tokens(model: PreTrainedModel) -> tuple[list[Tensor], Tensor]:
    """Of each compressible layer, keys [tokens, positions, G, D]; and the positions, long [positions]."""
    config, context = text_config(model), context_length(model)
    at = [position for position in POSITIONS if context is None or position < context]
    ids = [int(config.vocab_size) * (2 * i + 1) // (2 * TOKENS) for i in range(TOKENS)]
    runner = ModelRunner(model, FullKV())
    cache = CompressedCache(config, FullKV())
    rows = torch.tensor(ids, device=runner.device)[:, None].expand(-1, len(at)).reshape(-1, 1)
    positions = torch.tensor(at, device=runner.device)
    with AttentionBinding(model):
        runner.forward(cache, rows, positions.repeat(len(ids))[:, None])
    held = [layer.keys for layer in cache.compressed_layers]
    return [keys[:, :, 0].unflatten(0, (len(ids), len(at))) for keys in held if keys is not None], positions


def _spread(rotation: Rotation | None, keys: Tensor, positions: Tensor) -> float:
    """The largest distance between a token's keys at two positions, one of them the first, as a share of their length."""
    by_head = keys.transpose(1, 2)  # [tokens, G, positions, D]
    back = by_head.float() if rotation is None else rotation.undo(by_head, positions)
    first = back[:, :, :1]
    size = first.norm(dim=-1).clamp(min=1e-12)
    return float(((back - first).norm(dim=-1) / size).max())
