"""Reading the paged KV cache, in every order in which it may lie in memory. Needs no vLLM, and no GPU.

On a GPU the write is vLLM's reshape_and_cache_flash; `write` here does what that does, in a loop.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laconic.engines.vllm.plugin.layouts import InterleavedLayout, ProbedLayout, check_layout, layout_of
from laconic.errors import LaconicError
from tests.engines.vllm.plugin.physical import LAYOUTS, caches

LAYERS, BLOCKS, HEADS, SIZE, D = 3, 7, 2, 16, 8
SLOTS = [0, 15, 16, 37, 111, 64, 65]


def tokens(count: int, dtype: torch.dtype = torch.float32, heads: int = HEADS) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    key, value = torch.randn(2, count, heads, D, generator=made).to(dtype)
    return key, value


def write(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
    keys, values = cache.transpose(1, 2).split(cache.shape[-1] // 2, dim=-1)
    for i, slot in enumerate(slots.tolist()):
        keys[slot // cache.shape[2], slot % cache.shape[2]] = key[i]
        values[slot // cache.shape[2], slot % cache.shape[2]] = value[i]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", LAYOUTS)
def test_tokens_are_read_as_they_were_written(order: str, dtype: torch.dtype) -> None:
    """Of one layer of several, which share memory: the others' stay as they were."""
    all_layers = caches(order, LAYERS, BLOCKS, HEADS, SIZE, 2 * D, dtype)
    cache, others = all_layers[1], [all_layers[0].clone(), all_layers[2].clone()]
    key, value = tokens(len(SLOTS), dtype)
    layout = layout_of("FLASH_ATTN", cache, D, write)
    check_layout(layout, cache, HEADS, D, write)
    write(key, value, cache, torch.tensor(SLOTS))
    keys, values = layout.read(cache, torch.tensor(SLOTS))
    assert torch.equal(keys, key)
    assert torch.equal(values, value)
    assert torch.equal(all_layers[0], others[0])
    assert torch.equal(all_layers[2], others[1])


@pytest.mark.parametrize("order", LAYOUTS)
def test_slots_in_any_shape(order: str) -> None:
    cache = caches(order, LAYERS, BLOCKS, HEADS, SIZE, 2 * D, torch.float32)[2]
    key, value = tokens(6)
    write(key, value, cache, torch.tensor([5, 40, 3, 99, 17, 16]))
    keys, values = InterleavedLayout(cache, D).read(cache, torch.tensor([[5, 40, 3], [99, 17, 16]]))
    assert keys.shape == values.shape == (2, 3, HEADS, D)
    assert torch.equal(keys.flatten(0, 1), key)
    assert torch.equal(values.flatten(0, 1), value)


@pytest.mark.parametrize("backend", ["FLASH_ATTN", "TRITON_ATTN", "FLASHINFER"])
def test_backends_of_gpus_are_interleaved(backend: str) -> None:
    cache = caches("LBHNC", 1, BLOCKS, HEADS, SIZE, 2 * D, torch.float32)[0]
    assert isinstance(layout_of(backend, cache, D, write), InterleavedLayout)


def test_a_backend_that_is_not_known() -> None:
    cache = caches("LBHNC", 1, BLOCKS, HEADS, SIZE, 2 * D, torch.float32)[0]
    with pytest.raises(
        LaconicError, match=r"FLEX_ATTENTION is not supported; expected CPU_ATTN, .* --attention-backend"
    ):
        layout_of("FLEX_ATTENTION", cache, D, write)


@pytest.mark.parametrize("shape", [(2, BLOCKS, SIZE, HEADS, D), (BLOCKS, HEADS, SIZE, D), (BLOCKS, SIZE, 2 * D)])
def test_a_cache_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(LaconicError, match="the KV cache has shape"):
        InterleavedLayout(torch.zeros(shape), D)


# ---- found out --------------------------------------------------------------------------------------------------------


class Scattered:
    """A backend that puts a head's numbers in a page in an order of its own: [token, number] -> place."""

    def __init__(self, seed: int, size: int, same_for_heads: bool = True) -> None:
        made = torch.Generator().manual_seed(seed)
        pages = [torch.randperm(size * 2 * D, generator=made).view(2, size, D) for _ in range(HEADS)]
        self.pages = [pages[0]] * HEADS if same_for_heads else pages
        self.size = size

    def __call__(self, key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
        pages = cache.view(cache.shape[0], cache.shape[1], -1)
        for i, slot in enumerate(slots.tolist()):
            for head in range(cache.shape[1]):
                for numbers, where in zip((key, value), self.pages[head], strict=True):
                    pages[slot // self.size, head, where[slot % self.size]] = numbers[i, head]


@pytest.mark.parametrize(("size", "dtype"), [(16, torch.float32), (32, torch.bfloat16), (256, torch.bfloat16)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_order_is_found_out(seed: int, size: int, dtype: torch.dtype) -> None:
    """256 is the largest whole number up to which bfloat16 has them all."""
    cache = torch.randn(3, HEADS, size, 2 * D, generator=torch.Generator().manual_seed(3)).to(dtype)
    before, scattered = cache.clone(), Scattered(seed, size)
    layout = layout_of("CPU_ATTN", cache, D, scattered)
    assert isinstance(layout, ProbedLayout)
    assert torch.equal(cache, before)  # found out beside it
    check_layout(layout, cache, HEADS, D, scattered)
    assert torch.equal(cache[1:], before[1:])
    slots = torch.tensor([[size, 2 * size - 1], [2 * size + 3, 1]])
    key, value = tokens(4, dtype)
    scattered(key, value, cache, slots.flatten())
    keys, values = layout.read(cache, slots)
    assert torch.equal(keys.flatten(0, 1), key)
    assert torch.equal(values.flatten(0, 1), value)


def test_the_plain_order_is_found_out_too() -> None:
    cache = torch.zeros(3, HEADS, SIZE, 2 * D)
    key, value = tokens(len(SLOTS[:4]))
    write(key, value, cache, torch.tensor(SLOTS[:4]))
    keys, values = ProbedLayout(cache, D, write).read(cache, torch.tensor(SLOTS[:4]))
    assert torch.equal(keys, key)
    assert torch.equal(values, value)


def loses_a_number(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
    write(key, value, cache, slots)
    cache[0, :, 3, 5] = 0


def keeps_values_only(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
    write(value, value, cache, slots)


def halves(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
    """A cache that is quantized in all but name."""
    write(key.mul(0.5).trunc().mul(2), value, cache, slots)


def does_nothing(key: Tensor, value: Tensor, cache: Tensor, slots: Tensor) -> None:
    """As a backend that writes within its forward pass."""


@pytest.mark.parametrize("broken", [loses_a_number, keeps_values_only, halves, does_nothing])
def test_a_write_that_cannot_be_read_again(broken: object) -> None:
    cache = torch.zeros(3, HEADS, SIZE, 2 * D)
    with pytest.raises(LaconicError, match="does not give back what was written into it"):
        ProbedLayout(cache, D, broken)  # type: ignore[arg-type]


def test_a_cache_too_narrow_for_key_and_value() -> None:
    with pytest.raises(LaconicError, match="last dimension is 8; expected 16"):
        ProbedLayout(torch.zeros(3, HEADS, SIZE, D), D, write)


def test_heads_that_differ_are_noticed() -> None:
    """Only one head is looked at when the order is found out; the check writes and reads them all."""
    cache = torch.zeros(3, HEADS, SIZE, 2 * D)
    scattered = Scattered(4, SIZE, same_for_heads=False)
    with pytest.raises(LaconicError, match="does not give back"):
        check_layout(ProbedLayout(cache, D, scattered), cache, HEADS, D, scattered)


def test_interleaved_where_it_is_not_is_noticed() -> None:
    cache = torch.zeros(3, HEADS, SIZE, 2 * D)
    with pytest.raises(LaconicError, match="does not give back"):
        check_layout(InterleavedLayout(cache, D), cache, HEADS, D, Scattered(5, SIZE))


def test_the_check_leaves_zeros() -> None:
    cache = torch.zeros(3, HEADS, SIZE, 2 * D)
    check_layout(InterleavedLayout(cache, D), cache, HEADS, D, write)
    assert not cache.any()
