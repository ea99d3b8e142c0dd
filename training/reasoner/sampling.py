"""A batched sampler for evaluation: caches that are written in place, every row at its own position.

Prompts of different lengths are padded on the right; a row's next token overwrites its padding, so no mask of pads is
needed beyond "up to my own position". Rows that have finished leave the batch a few at a time. It computes what
transformers computes (a test compares the two), several times faster on a CPU: keys and values are neither copied nor
repeated at each token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.reasoner.model import Student, _rotate, rotary
from training.reasoner.vocabulary import EOS, IDS

_BLOCK = 256  # caches grow by this many positions
_MAX_DEAD = 0.1  # share of finished rows that is carried along before the batch shrinks


class _Decoder:
    """Weights laid out for one token a row, and keys and values [layers, B, G, capacity, E]."""

    def __init__(self, student: Student, rows: int, positions: int) -> None:
        self.student, self.shape = student, student.shape
        self.table_VD = student.embedding()
        self.cos_LE, self.sin_LE = rotary(positions, student.shape, self.table_VD.device)
        self.qkv = [
            torch.cat((b.self_attn.q_proj.weight, b.self_attn.k_proj.weight, b.self_attn.v_proj.weight))
            for b in student.blocks
        ]
        self.gate_up = [torch.cat((b.mlp.gate_proj.weight, b.mlp.up_proj.weight)) for b in student.blocks]
        self.keys = torch.zeros(self.shape.layers, rows, self.shape.kv_heads, 0, self.shape.head_width)
        self.values = torch.zeros_like(self.keys)

    def reserve(self, positions: int) -> None:
        missing = positions - self.keys.shape[3]
        if missing > 0:
            grow = -(-missing // _BLOCK) * _BLOCK
            self.keys, self.values = F.pad(self.keys, (0, 0, 0, grow)), F.pad(self.values, (0, 0, 0, grow))

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def prefill(self, ids_BL: Tensor) -> Tensor:
        """The last hidden states [B, L, D] of right-padded prompts; their keys and values are kept."""
        x, s, length = F.embedding(ids_BL, self.table_VD), self.shape, ids_BL.shape[1]
        self.reserve(length)
        cos, sin = self.cos_LE[:length], self.sin_LE[:length]
        for index, layer in enumerate(self.student.blocks):
            normed = layer.input_layernorm(x)
            for projection, cache in ((layer.self_attn.k_proj, self.keys), (layer.self_attn.v_proj, self.values)):
                heads = projection(normed).view(*ids_BL.shape, s.kv_heads, s.head_width).transpose(1, 2)
                cache[index, :, :, :length] = _rotate(heads, cos, sin) if cache is self.keys else heads
            x = layer(x, cos, sin)
        return self.student.norm(x)

    def step(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """The hidden states [B, D] after one more token a row, at that row's position."""
        s, rows, longest = self.shape, torch.arange(len(tokens_B)), int(positions_B.max()) + 1
        self.reserve(longest)
        x = F.embedding(tokens_B, self.table_VD)
        hidden = (torch.arange(longest)[None, :] > positions_B[:, None])[:, None, None]
        cos, sin = self.cos_LE[positions_B][:, None], self.sin_LE[positions_B][:, None]
        for index, layer in enumerate(self.student.blocks):
            heads = (layer.input_layernorm(x) @ self.qkv[index].T).view(len(rows), -1, s.head_width)
            turned = _rotate(heads[:, : s.heads + s.kv_heads], cos, sin)
            self.keys[index, rows, :, positions_B] = turned[:, s.heads :]
            self.values[index, rows, :, positions_B] = heads[:, s.heads + s.kv_heads :]
            q_BGRE = turned[:, : s.heads].reshape(len(rows), s.kv_heads, -1, s.head_width)
            scores = (q_BGRE @ self.keys[index, :, :, :longest].mT) * s.head_width**-0.5
            scores = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
            mixed = (scores @ self.values[index, :, :, :longest]).reshape(len(rows), -1)
            x = x + mixed @ layer.self_attn.o_proj.weight.T
            gate, up = (layer.post_attention_layernorm(x) @ self.gate_up[index].T).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ layer.mlp.down_proj.weight.T
        return self.student.norm(x)


@torch.inference_mode()
def sample(
    student: Student,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    seed: int = 0,
    max_new_tokens: int = 1024,
    top_p: float = 1.0,
) -> list[list[int]]:
    """New token ids of every prompt, the end token included where it came; temperature 0 is greedy.

    ``top_p``: draw from the smallest set of tokens that holds this much probability.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([len(p) for p in prompts])
    longest = int(lengths.max())
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids_BL[row, : len(prompt)] = torch.tensor(prompt)
    decoder = _Decoder(student, len(prompts), longest + max_new_tokens)
    x_BD = decoder.prefill(ids_BL)[torch.arange(len(prompts)), lengths - 1]
    written: list[list[int]] = [[] for _ in prompts]
    rows, positions = torch.arange(len(prompts)), lengths.clone()
    alive = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        tokens_B = _draw(x_BD @ decoder.table_VD.T, temperature, top_p, generator)
        for row, token, going in zip(rows.tolist(), tokens_B.tolist(), alive.tolist(), strict=True):
            if going:
                written[row].append(token)
        alive &= tokens_B != IDS[EOS]
        if not alive.any():
            break
        if alive.float().mean() < 1 - _MAX_DEAD:
            kept = alive.nonzero().flatten()
            rows, positions, tokens_B, alive = rows[kept], positions[kept], tokens_B[kept], alive[kept]
            decoder.keep(kept)
        x_BD = decoder.step(tokens_B, positions)
        positions = positions + 1
    return written


def _draw(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    sorted_BV, order_BV = (logits_BV / temperature).softmax(-1).sort(-1, descending=True)
    cumulative = sorted_BV.cumsum(-1)
    # The set ends with the first token at which the sum reaches top_p.
    size = (cumulative < min(top_p, 1.0 - 1e-6)).sum(-1, keepdim=True).clamp_(max=logits_BV.shape[1] - 1)
    thresholds = torch.rand(len(logits_BV), 1, generator=generator) * cumulative.gather(1, size)
    ranks = torch.searchsorted(cumulative, thresholds, right=True)
    return order_BV.gather(1, torch.minimum(ranks, size)).squeeze(1)
