"""A learned selector: a small network a layer that tells from a token's own key and value whether later tokens will look at it.

Prior work that learns what to evict: Locret (arXiv 2410.01805), KVzap (2601.07891), TRIM-KV (2512.03324), KVpop (2607.05061).
Here a network reads what the cache holds anyway, so nothing of the model is hooked, and trains in minutes on its own traces.

Shapes: L layers, g index sets (1, or G KV heads), F features, N hidden units, B rows, T tokens, D head size.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from laconic import checks
from laconic.errors import InputError

FEATURES = ("key", "value", "size")
"""key: the key before RoPE; value: the value; size: log of the norms of a head's key and value."""
GRID = 2.0**-8
"""Scores are multiples of it. In the first layer equal tokens have equal keys before RoPE: without it, rounding would say which
of them stay, and a trace that is computed again in other pieces could keep others. So the latest of them stay."""
SMALLEST = 1e-6
"""Of a number whose logarithm is taken."""
WEIGHTS = ("mean", "scale", "weight_in", "bias_in", "weight_out", "bias_out")


@dataclass(frozen=True, eq=False)
class Rotation:
    """A model's RoPE (arXiv 2104.09864).

    frequencies: fp32 [R], radians a position; the first 2R of a key's numbers are rotated. halves: number i turns with i + R,
    as in Llama; else with its neighbour (2i with 2i + 1), as in GPT-J. Raises InputError for what are no frequencies.
    """

    frequencies: Tensor
    halves: bool = True

    def __post_init__(self) -> None:
        found = self.frequencies
        if not isinstance(found, Tensor) or found.dim() != 1 or not found.is_floating_point() or not len(found):
            raise checks.input_error("frequencies", found, "a tensor of at least one number, radians a position each")
        checks.flag("halves", self.halves)

    def undo(self, keys: Tensor, positions: Tensor) -> Tensor:
        """keys: [..., T, D] after RoPE; positions: [..., T], broadcastable. Returns fp32 [..., T, D], those before it."""
        angles = positions[..., None].float() * self.frequencies.to(keys.device)
        return self._turned(keys, angles.cos(), -angles.sin())

    def mean_of(self, vectors: Tensor, first: Tensor, count: int) -> Tensor:
        """What vectors before RoPE are on average over `count` positions from `first` (long [B]) on. fp32 [B, ..., T, D]."""
        steps = torch.arange(count, device=vectors.device)
        angles = (first[:, None] + steps)[..., None].float() * self.frequencies.to(vectors.device)  # [B, count, R]
        cos, sin = (
            part.mean(1).view(-1, *[1] * (vectors.dim() - 2), part.shape[-1]) for part in (angles.cos(), angles.sin())
        )
        return self._turned(vectors, cos, sin)

    def _turned(self, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        R = self.frequencies.shape[0]
        turned, rest = vectors[..., : 2 * R].float(), vectors[..., 2 * R :].float()
        a, b = (turned[..., :R], turned[..., R:]) if self.halves else (turned[..., ::2], turned[..., 1::2])
        new = (a * cos - b * sin, b * cos + a * sin)
        whole = torch.cat(new, dim=-1) if self.halves else torch.stack(new, dim=-1).flatten(-2)
        return torch.cat((whole, rest), dim=-1) if rest.shape[-1] else whole


@dataclass(frozen=True, eq=False)
class Selector:
    """The networks of one model's layers: weight_out . relu(weight_in . (features - mean) * scale + bias_in) + bias_out.

    Raises InputError for parts that don't fit together.
    """

    features: tuple[str, ...]
    """Of FEATURES, in the order in which they stand side by side."""
    layers: tuple[int, ...]
    """The model's indices of the layers that have a network, ascending."""
    kv_heads: int
    head_size: int
    per_head: bool
    """Each KV head has a set of its own (g = G) and a network of its own; else one a layer reads all heads (g = 1)."""
    rotation: Rotation | None
    """None: keys are read as they are cached."""
    weights: Mapping[str, Tensor]
    """fp32: mean, scale [L, g, F]; weight_in [L, g, F, N]; bias_in [L, g, N]; weight_out [L, g, N]; bias_out [L, g]."""
    fingerprint: str = ""
    """Of the model's weights that it was made for; empty: unknown."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made and what it showed: plain JSON values."""

    def __post_init__(self) -> None:
        self._check_settings()
        missing = [name for name in WEIGHTS if not isinstance(self.weights.get(name), Tensor)]
        if missing:
            raise InputError(f"the selector's weights lack {', '.join(missing)}; make it again with laconic learn")
        L, g, F = len(self.layers), self.kv_heads if self.per_head else 1, self.width
        N = (self.weights["weight_in"].shape or (0,))[-1]
        shapes = {"mean": (F,), "scale": (F,), "weight_in": (F, N), "bias_in": (N,), "weight_out": (N,), "bias_out": ()}
        for name, shape in shapes.items():
            found = tuple(self.weights[name].shape)
            if found != (L, g, *shape):
                raise InputError(f"{name} of the selector's weights has shape {found}; expected {(L, g, *shape)}")
            if not self.weights[name].isfinite().all():
                raise InputError(f"{name} of the selector's weights is not finite; make it again with laconic learn")

    def _check_settings(self) -> None:
        checks.unwrap_numpy_fields(self)
        for name in checks.texts("features", self.features, f"some of {', '.join(FEATURES)}", some=True):
            checks.word("features", name, FEATURES)
        if sorted(set(checks.wholes("layers", self.layers, 0, some=True))) != list(self.layers):
            raise checks.input_error("layers", self.layers, "the model's indices of layers, ascending")
        checks.whole("kv_heads", self.kv_heads, 1)
        checks.whole("head_size", self.head_size, 1)
        checks.flag("per_head", self.per_head)
        if self.rotation is not None:
            checks.instance("rotation", self.rotation, Rotation, "a Rotation, or None")
            if 2 * len(self.rotation.frequencies) > self.head_size:
                raise InputError(
                    f"rotation turns {2 * len(self.rotation.frequencies)} numbers of a key; expected at most head_size "
                    f"{self.head_size}"
                )
        checks.instance("weights", self.weights, Mapping, f"a mapping of tensors: {', '.join(WEIGHTS)}")
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "layers", tuple(self.layers))
        checks.text("fingerprint", self.fingerprint)
        checks.instance("recipe", self.recipe, Mapping, "a mapping of plain JSON values")

    @property
    def width(self) -> int:
        """F"""
        heads = 1 if self.per_head else self.kv_heads
        return sum(2 * heads if name == "size" else heads * self.head_size for name in self.features)

    def read(self, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """The features, fp32 [B, g, T, F]. keys, values: [B, G, T, D] as cached; positions: long [B, 1 or G, T]."""
        if self.rotation is not None and "key" in self.features:
            keys = self.rotation.undo(keys, positions)  # sizes stay what they are
        return features_of(self.features, keys, values, self.per_head)

    def score(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """fp32 [B, g, T] on the GRID: the higher, the more later tokens look at it. layer: the model's index; rest as `read`.

        Raises InputError for a layer without a network, or keys of another shape.
        """
        if layer not in self.layers:
            raise InputError(f"the selector has no network for layer {layer}; expected one of {list(self.layers)}")
        if keys.shape[1] != self.kv_heads or keys.shape[3] != self.head_size or values.shape != keys.shape:
            raise InputError(
                f"layer {layer} caches keys {tuple(keys.shape)} and values {tuple(values.shape)}; the selector expects "
                f"{self.kv_heads} KV heads of {self.head_size}"
            )
        at = self.layers.index(layer)
        mean, scale, weight_in, bias_in, weight_out, bias_out = (self._on(keys.device)[name][at] for name in WEIGHTS)
        x = (self.read(keys, values, positions) - mean[:, None]) * scale[:, None]
        hidden = (x @ weight_in + bias_in[:, None]).relu()
        scores = (hidden @ weight_out[..., None]).squeeze(-1) + bias_out[:, None]
        return (scores / GRID).round() * GRID

    def of_heads(self, first: int, count: int) -> Selector:
        """The networks of `count` KV heads from `first` on, for a device that has those heads alone.

        Raises InputError for a selector whose networks read all heads of a layer.
        """
        if not self.per_head:
            raise InputError(
                "the selector reads all KV heads of a layer together; expected one that has a network for each head"
            )
        checks.whole("first", first, 0, self.kv_heads - 1, "a KV head")
        checks.whole("count", count, 1, self.kv_heads - first, "KV heads")
        weights = {name: self.weights[name][:, first : first + count] for name in WEIGHTS}
        return dataclasses.replace(self, kv_heads=count, weights=weights)

    def to(self, device: torch.device) -> Selector:
        """The same with all of its numbers on a device."""
        turns = self.rotation
        return dataclasses.replace(
            self,
            rotation=None if turns is None else Rotation(turns.frequencies.to(device), turns.halves),
            weights={name: self.weights[name].to(device, torch.float32) for name in WEIGHTS},
        )

    @property
    def bytes(self) -> int:
        """Memory that its networks take."""
        return sum(self.weights[name].numel() * 4 for name in WEIGHTS)

    def digest(self) -> str:
        """12 hexadecimal digits of what it scores by, the same in every file that holds it."""
        told = hashlib.blake2b(repr((self.features, self.layers, self.per_head)).encode(), digest_size=6)
        frequencies = () if self.rotation is None else (self.rotation.frequencies,)
        for part in (*(self.weights[name] for name in WEIGHTS), *frequencies):
            told.update(part.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return told.hexdigest()

    def check_model(self, shapes: Mapping[int, tuple[int, int, int]], fingerprint: str | None) -> None:
        """InputError if this is no selector for such a model. shapes: layer -> KV heads, size of a key, size of a value.
        fingerprint: of its weights; None: not known."""
        for layer in self.layers:
            if layer not in shapes:
                raise InputError(
                    f"the selector is of a model with a full-attention layer {layer}, this one's are {sorted(shapes)}: "
                    "expected a selector that laconic learn made for this model"
                )
        for layer, (heads, key, value) in shapes.items():
            if layer not in self.layers or (heads, key, value) != (self.kv_heads, self.head_size, self.head_size):
                raise InputError(
                    f"layer {layer} has {heads} KV heads with keys of {key} and values of {value}, the selector is of "
                    f"{len(self.layers)} layers with {self.kv_heads} of {self.head_size}: expected a selector that laconic "
                    "learn made for this model"
                )
        if fingerprint is not None and self.fingerprint and fingerprint != self.fingerprint:
            raise InputError(
                f"the selector was made for a model with the fingerprint {self.fingerprint}, this one's is {fingerprint}: "
                "expected a selector that laconic learn made for this model"
            )

    def _on(self, device: torch.device) -> Mapping[str, Tensor]:
        """The weights on a device; moved once."""
        moved: dict[torch.device, Mapping[str, Tensor]] = self.__dict__.setdefault("_moved", {})
        if device not in moved:
            moved[device] = {name: tensor.to(device, torch.float32) for name, tensor in self.weights.items()}
        return moved[device]


def features_of(names: Sequence[str], keys: Tensor, values: Tensor, per_head: bool) -> Tensor:
    """Of FEATURES, side by side: fp32 [B, g, T, F]. keys, values: [B, G, T, D], keys before RoPE. per_head: those of each KV
    head by itself (g = G); else of all heads (g = 1)."""
    parts = []
    for name in names:
        if name == "size":
            sizes = torch.stack([cached.float().norm(dim=-1) for cached in (keys, values)], dim=-1)
            part = sizes.clamp(min=SMALLEST).log()
        else:
            part = (keys if name == "key" else values).float()
        parts.append(part if per_head else part.transpose(1, 2).flatten(2)[:, None])
    return torch.cat(parts, dim=-1)


def check_selector(selector: Any) -> Selector:
    """InputError for what is none."""
    if not isinstance(selector, Selector):
        raise checks.input_error("selector", selector, "a Selector, as laconic learn makes them")
    return selector
