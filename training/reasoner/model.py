"""The student while it is trained: a Llama whose tied embedding is the sum of what its tokens are made of.

``Student.embedding()`` adds a vector for the kind of a token, for the letter it is about, for the letter it names and
for its digit to a free one of its own; export folds that sum into one plain table, so the shipped model is an ordinary
Llama.
Shapes: B batch, L length, D width, H heads, G key/value heads, E head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.problems.programs import LETTERS
from training.reasoner.vocabulary import KINDS, PARTS, TOKENS


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a student; ``theta`` is the rotary base."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_width: int = 32
    hidden: int = 384
    theta: float = 1e4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"Shape.{name} must be positive, not {value!r}.")
        if self.heads % self.kv_heads:
            raise ValueError(f"Shape.heads ({self.heads}) must be a multiple of Shape.kv_heads ({self.kv_heads}).")
        if self.head_width % 2:
            raise ValueError(f"Shape.head_width must be even, not {self.head_width}.")


class Norm(nn.Module):
    """Root-mean-square normalisation with a gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x_BLD: Tensor) -> Tensor:
        x = x_BLD.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)

    def forward(self, x_BLD: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
        s, (batch, length, _) = self.shape, x_BLD.shape
        q_BHLE = self.q_proj(x_BLD).view(batch, length, s.heads, s.head_width).transpose(1, 2)
        k_BGLE = self.k_proj(x_BLD).view(batch, length, s.kv_heads, s.head_width).transpose(1, 2)
        v_BGLE = self.v_proj(x_BLD).view(batch, length, s.kv_heads, s.head_width).transpose(1, 2)
        q_BHLE, k_BGLE = _rotate(q_BHLE, cos_LE, sin_LE), _rotate(k_BGLE, cos_LE, sin_LE)
        repeats = s.heads // s.kv_heads
        k_BHLE, v_BHLE = k_BGLE.repeat_interleave(repeats, 1), v_BGLE.repeat_interleave(repeats, 1)
        out_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, is_causal=True)
        return self.o_proj(out_BHLE.transpose(1, 2).reshape(batch, length, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return (x * cos + torch.cat((-right, left), -1) * sin).to(x.dtype)


class Gated(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.width, shape.epsilon)
        self.mlp = Gated(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Student(nn.Module):
    """Logits for every position; parameter names are Llama's, but for the embedding."""

    mix: Tensor  # [V, components]: which components a token has

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        letters = len(LETTERS) + 1
        self.free = nn.Parameter(torch.empty(len(TOKENS), shape.width))
        self.kind = nn.Parameter(torch.empty(len(KINDS), shape.width))
        self.key = nn.Parameter(torch.empty(letters, shape.width))
        self.argument = nn.Parameter(torch.empty(letters, shape.width))
        self.digit = nn.Parameter(torch.empty(10, shape.width))
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.epsilon)
        self.register_buffer("mix", _mixing_matrix(letters), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(weight)  # each block starts as the identity
            elif weight.ndim == 2:
                std = 0.02 if name in EMBEDDING else weight.shape[1] ** -0.5
                nn.init.normal_(weight, std=std, generator=generator)

    @property
    def blocks(self) -> list[Block]:
        """The layers by their own type, which a ModuleList forgets."""
        return [cast(Block, layer) for layer in self.layers]

    def embedding(self) -> Tensor:
        """The embedding table [V, D] that the components add up to."""
        return self.free + self.mix @ torch.cat((self.kind, self.key, self.argument, self.digit))

    def forward(self, ids_BL: Tensor) -> Tensor:
        return self.hidden(ids_BL)[0] @ self.embedding().T

    def hidden(self, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden states [B, L, D] and the embedding table."""
        table_VD = self.embedding()
        x = F.embedding(ids_BL, table_VD)
        cos, sin = rotary(ids_BL.shape[1], self.shape, ids_BL.device)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x), table_VD

    def loss(self, ids_BL: Tensor, weights_BL: Tensor) -> Tensor:
        """Cross-entropy of each next token, averaged with the weight of the token that is predicted."""
        x, table_VD = self.hidden(ids_BL[:, :-1])
        logits = (x @ table_VD.T).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids_BL[:, 1:].flatten(), reduction="none")
        weights = weights_BL[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()


EMBEDDING = ("free", "kind", "key", "argument", "digit")


def _mixing_matrix(letters: int) -> Tensor:
    mix = torch.zeros(len(TOKENS), len(KINDS) + 2 * letters + 10)
    for row, parts in enumerate(PARTS):
        mix[row, KINDS.index(parts.kind)] = float(parts.kind != "word")
        for offset, part in ((0, parts.key), (letters, parts.argument), (2 * letters, parts.digit)):
            if part >= 0:
                mix[row, len(KINDS) + offset + part] = 1.0
    return mix


def rotary(length: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L, E] of Llama's rotation."""
    half = torch.arange(0, shape.head_width, 2, device=device, dtype=torch.float32)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * shape.theta ** (-half / shape.head_width)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()
