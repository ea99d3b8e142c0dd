"""What later tokens attend to, against loops over whole attention maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laconic.compress import attention
from laconic.compress.future import AttentionMaxima, even_starts, largest_attention, summed_attention
from laconic.errors import LaconicError
from tests.reference import future as reference

B, H, G, D, PROMPT, K = 3, 6, 2, 8, 5, 37
SCALING = 0.6
PADS = [0, 4, 2]  # junk slots before each row's first token


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(5)
    length = PROMPT + K
    queries, keys = torch.randn(B, H, length, D, generator=source), torch.randn(B, G, length, D, generator=source)
    valid = torch.arange(length) >= torch.tensor(PADS)[:, None]
    keys.masked_fill_(~valid[:, None, :, None], torch.nan)  # a leak would show
    return queries, keys, valid


def maps() -> Tensor:
    """[B, H, T, T]: causal softmax over all that is real, a query at a time."""
    queries, keys, _ = tensors()
    out = torch.zeros(B, H, PROMPT + K, PROMPT + K)
    for b in range(B):
        for h in range(H):
            for s in range(PADS[b], PROMPT + K):
                seen = keys[b, h // (H // G), PADS[b] : s + 1]
                out[b, h, s, PADS[b] : s + 1] = (seen @ queries[b, h, s] * SCALING).softmax(-1)
    return out


def by_blocks(block: int) -> list[AttentionMaxima]:
    queries, keys, valid = tensors()
    rows = []
    for start in range(0, K, block):
        low, high = PROMPT + start, PROMPT + min(K, start + block)
        found = largest_attention(queries[:, :, low:high], keys[:, :, :high], SCALING, valid[:, :high])
        rows.append(torch.nn.functional.pad(found[:, :, PROMPT:], (0, PROMPT + K - high)))
    whole = torch.stack(rows, dim=1).half()
    return [AttentionMaxima(whole[b], even_starts(K, block)) for b in range(B)]


@pytest.mark.parametrize("limit", [1 << 26, 100])
@pytest.mark.parametrize("block", [1, 5, 16, 64])
def test_maxima_are_those_of_the_whole_maps(block: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", limit)
    whole = maps()
    for b, maxima in enumerate(by_blocks(block)):
        assert maxima.tokens == K
        for generated in (0, 1, 16, 17, K - 1, K, K + 40):
            want = torch.tensor(reference.after(whole[b], G, PROMPT, generated, block))
            assert maxima.after(generated).dtype == torch.float32
            torch.testing.assert_close(maxima.after(generated), want, rtol=1e-3, atol=1e-6)
        for delay in (1, 3, 16, 30, 500):
            want = torch.tensor(reference.delayed(whole[b], G, PROMPT, delay, block))
            torch.testing.assert_close(maxima.delayed(delay), want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("limit", [1 << 26, 100])
def test_sums_are_those_of_the_whole_maps(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", limit)
    queries, keys, valid = tensors()
    for low, high in ((0, 16), (20, 21), (32, K)):
        seen = PROMPT + high
        found = summed_attention(queries[:, :, PROMPT + low : seen], keys[:, :, :seen], SCALING, valid[:, :seen])
        for b in range(B):
            want = torch.tensor(reference.summed(maps()[b], G, PROMPT, range(low, high)))
            torch.testing.assert_close(found[b, :, PROMPT:], want[:, :high], rtol=1e-4, atol=1e-6)


def test_maxima_are_exact_where_counts_are_multiples_of_the_block() -> None:
    whole, single = maps(), by_blocks(1)
    for b, maxima in enumerate(by_blocks(16)):
        for generated in (0, 16, 32):
            # But for the last bit of float16: 16 queries at once are multiplied in another order than one.
            torch.testing.assert_close(maxima.after(generated), single[b].after(generated), rtol=1e-3, atol=1e-6)
        assert whole[b].shape == (H, PROMPT + K, PROMPT + K)


def test_blocks_may_begin_where_compressions_come() -> None:
    whole, fine = maps(), by_blocks(1)
    starts = (0, 3, 20)
    for b, each in enumerate(fine):
        parts = [each.maxima[low:high].amax(0) for low, high in ((0, 3), (3, 20), (20, K))]
        maxima = AttentionMaxima(torch.stack(parts), starts)
        for generated, first in ((0, 0), (3, 3), (4, 20), (20, 20), (21, K)):
            want = torch.tensor(reference.largest(whole[b], G, PROMPT, range(first, K)))
            torch.testing.assert_close(maxima.after(generated), want, rtol=1e-3, atol=1e-6)
        late = maxima.delayed(2)
        for token in range(K):
            first = next((start for start in starts if start >= token + 2), K)
            torch.testing.assert_close(late[:, token], maxima.after(first)[:, token])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: largest_attention(torch.zeros(1, 3, 2, 4), torch.zeros(1, 2, 5, 4), 1.0),
            "query heads that KV heads divide",
        ),
        (lambda: largest_attention(torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 5, 4), 1.0), "a slot for every query"),
        (lambda: AttentionMaxima(torch.zeros(2, 1, 40), (0, 16, 32)), "a block for each of starts"),
        (lambda: AttentionMaxima(torch.zeros(2, 1, 40), (1, 16)), "ascending numbers from 0"),
        (lambda: AttentionMaxima(torch.zeros(3, 1, 40), (0, 16, 16)), "ascending numbers from 0"),
        (lambda: even_starts(40, 0), "block is 0"),
        (lambda: AttentionMaxima(torch.zeros(2, 1, 40), (0, 16)).after(-1), "generated is -1"),
        (lambda: AttentionMaxima(torch.zeros(2, 1, 40), (0, 16)).delayed(0), "delay is 0"),
    ],
)
def test_bad_input_is_one_sentence(call, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        call()
