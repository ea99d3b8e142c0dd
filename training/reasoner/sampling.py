"""A batched sampler for evaluation: caches of fixed capacity, every row at its own position.

Prompts of different lengths are padded on the right; a row's next token overwrites its padding, so no mask of pads is
needed beyond "up to my own position". Rows that have finished leave the batch. It computes what transformers computes
(a test compares the two), several times faster on a CPU because keys and values are neither copied nor repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.reasoner.model import Student, _rotate, rotary
from training.reasoner.vocabulary import EOS, IDS


class _Caches:
    """Keys and values [layers, B, G, capacity, E]."""

    def __init__(self, student: Student, rows: int, capacity: int) -> None:
        s = student.shape
        self.keys = torch.zeros(s.layers, rows, s.kv_heads, capacity, s.head_width)
        self.values = torch.zeros_like(self.keys)

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


@torch.inference_mode()
def sample(
    student: Student,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    seed: int = 0,
    max_new_tokens: int = 1024,
) -> list[list[int]]:
    """New token ids of every prompt, the end token included where it came; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    table_VD = student.embedding()
    lengths = torch.tensor([len(p) for p in prompts])
    longest = int(lengths.max())
    capacity = longest + max_new_tokens
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids_BL[row, : len(prompt)] = torch.tensor(prompt)
    caches = _Caches(student, len(prompts), capacity)
    cos_LE, sin_LE = rotary(capacity, student.shape, ids_BL.device)
    x_BLD = _prefill(student, F.embedding(ids_BL, table_VD), caches, cos_LE, sin_LE)
    x_BD = x_BLD[torch.arange(len(prompts)), lengths - 1]
    written: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts))
    positions = lengths.clone()
    for _ in range(max_new_tokens):
        logits_BV = x_BD @ table_VD.T
        if temperature > 0:
            noise = torch.empty_like(logits_BV).exponential_(generator=generator).log_()
            logits_BV = logits_BV / temperature - noise  # Gumbel: the argmax is a sample
        tokens_B = logits_BV.argmax(-1)
        for row, token in zip(alive.tolist(), tokens_B.tolist(), strict=True):
            written[row].append(token)
        going = (tokens_B != IDS[EOS]).nonzero().flatten()
        if len(going) == 0:
            break
        if len(going) < len(alive):
            tokens_B, positions, alive = tokens_B[going], positions[going], alive[going]
            caches.keep(going)
        x_BD = _step(student, F.embedding(tokens_B, table_VD), caches, positions, cos_LE, sin_LE)
        positions = positions + 1
    return written


def _prefill(student: Student, x: Tensor, caches: _Caches, cos: Tensor, sin: Tensor) -> Tensor:
    length = x.shape[1]
    for index, layer in enumerate(student.layers):
        normed, attention, s = layer.input_layernorm(x), layer.self_attn, student.shape
        for projection, cache in ((attention.k_proj, caches.keys), (attention.v_proj, caches.values)):
            heads = projection(normed).view(*x.shape[:2], s.kv_heads, s.head_width).transpose(1, 2)
            is_key = cache is caches.keys
            cache[index, :, :, :length] = _rotate(heads, cos[:length], sin[:length]) if is_key else heads
        x = layer(x, cos[:length], sin[:length])
    return student.norm(x)


def _step(student: Student, x: Tensor, caches: _Caches, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    s, rows, longest = student.shape, torch.arange(len(positions)), int(positions.max()) + 1
    hidden = torch.arange(longest)[None, :] > positions[:, None]
    turn = cos[positions][:, None], sin[positions][:, None]
    for index, layer in enumerate(student.layers):
        normed, attention = layer.input_layernorm(x), layer.self_attn
        q_BHE = _rotate(attention.q_proj(normed).view(-1, s.heads, s.head_width), *turn)
        k_BGE = _rotate(attention.k_proj(normed).view(-1, s.kv_heads, s.head_width), *turn)
        caches.keys[index, rows, :, positions] = k_BGE
        caches.values[index, rows, :, positions] = attention.v_proj(normed).view(-1, s.kv_heads, s.head_width)
        keys, values = caches.keys[index, :, :, :longest], caches.values[index, :, :, :longest]
        q_BGRE = q_BHE.view(-1, s.kv_heads, s.heads // s.kv_heads, s.head_width)
        scores = (q_BGRE @ keys.mT) * s.head_width**-0.5
        scores = scores.masked_fill_(hidden[:, None, None], float("-inf")).softmax(-1)
        x = x + attention.o_proj((scores @ values).reshape(len(positions), -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return student.norm(x)
