"""The pair encoder's network: an excerpt's tokens to one vector, two vectors to one logit.

Shapes: n excerpts, L tokens, D width of the vectors that are given, W the network's own, E of an encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconic.errors import InputError

ABSENT = -1


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The sizes of the network. Raises InputError for sizes that make none."""

    given: int = 0
    """D, the width of the vectors that are given with each token; 0 where none are."""
    vocabulary: int = 0
    """Tokens of the reasoner's tokenizer; 0 where token ids are not embedded."""
    embedding: int = 192
    """Width of a token's embedding."""
    tokens: int = 64
    """How many tokens are read of an excerpt, at most."""
    width: int = 64
    """W, the transformer's width; a multiple of `heads`."""
    layers: int = 1
    """Transformer layers."""
    heads: int = 4
    """Attention heads of a layer."""
    pools: int = 4
    """Attention pools over the tokens; the encoding is made of their results, side by side."""
    encoding: int = 64
    """E, the width of an excerpt's encoding."""
    hidden: int = 64
    """Width of the hidden layer that compares two encodings."""
    dropout: float = 0.1
    """While training."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "dropout":
                if not 0 <= value < 1:
                    raise InputError(f"dropout is {value}; expected 0 to below 1")
                continue
            least = 0 if field.name in ("given", "vocabulary") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{field.name} is {value!r}; expected a whole number of at least {least}")
        if self.width % self.heads:
            raise InputError(f"width is {self.width}; expected a multiple of heads, {self.heads}")
        if not self.given and not self.vocabulary:
            raise InputError("given and vocabulary are both 0; expected vectors, tokens or both to read")


@dataclass(frozen=True, slots=True)
class EncoderBatch:
    """Excerpts side by side, padded on the right."""

    tokens: Tensor
    """int64 [n, L]: token ids, ABSENT where padded."""
    before: Tensor
    """int64 [n, L]: the token that stands before the same token in the question; ABSENT where the question has no such
    token, or begins with it."""
    given: Tensor | None = None
    """float [n, L, D]: vectors, or None."""


class EncoderNetwork(nn.Module):
    """Excerpts to encodings (`encode`), two encodings to a logit (`compare`)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.vocabulary:
            self.embedding = nn.Embedding(config.vocabulary, config.embedding)
            self.token = nn.Linear(config.embedding, width)
            self.question = nn.Linear(config.embedding, width, bias=False)
        if config.given:
            self.given_norm = nn.LayerNorm(config.given)
            self.given = nn.Linear(config.given, width)
        self.position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.neighbours = nn.Linear(2 * width, width)
        self.layers = nn.ModuleList(EncoderLayer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.pools = nn.Linear(width, config.pools)
        self.encoding = nn.Linear(config.pools * width, config.encoding)
        self.both = nn.Linear(config.encoding, config.hidden)
        self.apart = nn.Linear(config.encoding, config.hidden, bias=False)
        self.alike = nn.Linear(config.encoding, config.hidden, bias=False)
        self.verdict = nn.Linear(config.hidden, 1)

    def encode(self, inputs: EncoderBatch) -> Tensor:
        """One vector an excerpt, [n, E]. An excerpt without tokens is read as one padded position."""
        present = inputs.tokens != ABSENT
        n, length = inputs.tokens.shape
        if length > self.config.tokens:
            raise InputError(f"an excerpt has {length} tokens; this network reads at most {self.config.tokens}")
        x = self.position[:length].expand(n, -1, -1)
        if self.config.vocabulary:
            x = x + self.token(self.embedding(inputs.tokens.clamp(min=0)))
            seen = inputs.before != ABSENT
            x = x + self.question(self.embedding(inputs.before.clamp(min=0))) * seen[..., None]
        if self.config.given:
            assert inputs.given is not None
            x = x + self.given(self.given_norm(inputs.given))
        # What stands just before a token, at once: attention takes long to find it.
        x = x + F.gelu(self.neighbours(torch.cat([x, F.pad(x, (0, 0, 1, 0))[:, :-1]], dim=-1)))
        # A row of nothing but padding would be a softmax over nothing.
        visible = present | ((torch.arange(length, device=present.device) == 0) & ~present.any(-1, keepdim=True))
        for layer in self.layers:
            x = layer(x, visible)
        x = self.norm(x)
        weights = self.pools(x).masked_fill(~visible[..., None], -torch.inf).softmax(dim=1)
        return self.encoding(torch.einsum("nlp,nlw->npw", weights, x).flatten(1))

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits of "same" [P] of encodings a and b [P, E]; symmetric, to the last bit."""
        hidden = self.both(a + b) + self.apart((a - b).abs()) + self.alike(a * b)
        return self.verdict(F.gelu(hidden)).squeeze(-1)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer with bidirectional attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """[n, L, W] to [n, L, W]; visible: bool [n, L], the tokens that may be attended to."""
        n, length, width = x.shape
        split = self.attend(self.attention_norm(x)).view(n, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])
        x = x + self.dropout(self.project(mixed.transpose(1, 2).reshape(n, length, width)))
        return x + self.dropout(self.down(F.gelu(self.up(self.hidden_norm(x)))))
