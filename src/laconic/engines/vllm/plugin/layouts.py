"""Reading keys and values out of vLLM's paged KV cache. (Writing is `impl.do_kv_cache_update`, which every backend has.)

A layer's cache is always seen as `[blocks, KV heads, block size, 2 * head size]`; the strides tell how it lies in memory.
Slot s is place s % block size of block s // block size. What differs is where within a head's page of a block the numbers
are:

- FlashAttention, Triton, FlashInfer: the last dimension is the key, then the value (`InterleavedLayout`).
- CPU: a head's page is its keys, then its values, and the keys lie as the kernels like them, differently for each
  instruction set and type (`ProbedLayout`: found by writing numbers that tell where they went).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from laconic.errors import InputError

WriteTokens = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""(key [n, G, D], value [n, G, D], cache, slots [n]): put n tokens into a cache, as the backend does."""

NOT_READ_BACK = "the KV cache does not give back what was written into it: this attention backend is not supported"


class CacheLayout(ABC):
    """How one layer's cache is read. size: tokens of a block."""

    size: int

    @abstractmethod
    def read(self, cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """slots: long [...] -> keys and values, each [..., G, D]."""


class InterleavedLayout(CacheLayout):
    """`[blocks, G, size, 2 * D]`: each token's key, then its value."""

    def __init__(self, cache: Tensor, head_size: int) -> None:
        if cache.dim() != 4 or cache.shape[-1] != 2 * head_size:
            raise InputError(
                f"the KV cache has shape {tuple(cache.shape)}; expected [blocks, KV heads, block size, {2 * head_size}]: this "
                "attention backend is not supported"
            )
        self.size, self.head_size = cache.shape[2], head_size

    def read(self, cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        found = cache[slots // self.size, :, slots % self.size]  # [..., G, 2 * D]
        return found[..., : self.head_size], found[..., self.head_size :]


class ProbedLayout(CacheLayout):
    """A head's page of a block is `size * 2 * D` numbers in an order that is found out.

    Raises InputError if what is written can't be found again in one page a head.
    """

    def __init__(self, cache: Tensor, head_size: int, write: WriteTokens) -> None:
        _, heads, self.size, width = cache.shape
        if width != 2 * head_size:
            raise InputError(
                f"the KV cache's last dimension is {width}; expected {2 * head_size}: key and value of a token"
            )
        self.width = width
        scratch = torch.zeros((1, heads, self.size, width), dtype=cache.dtype, device=cache.device)
        slots = torch.arange(self.size, device=cache.device)
        token = slots[:, None, None].expand(self.size, heads, head_size)
        within = torch.arange(head_size, device=cache.device).expand(self.size, heads, head_size)

        def seen(keys: Tensor, values: Tensor) -> Tensor:
            # Numbers up to 256 are exact in every type of a KV cache, so a token and a dimension are told one after the other.
            scratch.zero_()
            write(keys.to(cache.dtype).contiguous(), values.to(cache.dtype).contiguous(), scratch, slots)
            return scratch.reshape(heads, -1)[0].long()

        nothing = torch.zeros_like(token)
        self.keys = self._places(seen(token + 1, nothing), seen(within + 1, nothing), head_size)
        self.values = self._places(seen(nothing, token + 1), seen(nothing, within + 1), head_size)

    def _places(self, tokens: Tensor, dims: Tensor, head_size: int) -> Tensor:
        """long [size, D]: where in the page each number went. tokens, dims: what lies there, from 1; 0 is nothing."""
        where = torch.full((self.size, head_size), -1, dtype=torch.long, device=tokens.device)
        written = (tokens > 0).nonzero()[:, 0]
        where[tokens[written] - 1, dims[written] - 1] = written
        if len(written) != self.size * head_size or bool((where < 0).any()):
            raise InputError(NOT_READ_BACK)
        return where

    def read(self, cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        blocks, heads = cache.shape[:2]
        pages = cache.view(blocks, heads, self.size * self.width)
        block, place = slots // self.size, slots % self.size
        head = torch.arange(heads, device=cache.device)[:, None]
        shape = (*slots.shape, 1, 1)

        def numbers(where: Tensor) -> Tensor:
            return pages[block.view(shape), head, where[place][..., None, :]]

        return numbers(self.keys), numbers(self.values)


def layout_of(backend: str, cache: Tensor, head_size: int, write: WriteTokens) -> CacheLayout:
    """The layout of a backend's cache, by the backend's name in vLLM. Raises InputError for one that isn't known."""
    if backend == "CPU_ATTN":
        return ProbedLayout(cache, head_size, write)
    if backend in ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER"):
        return InterleavedLayout(cache, head_size)
    raise InputError(
        f"attention backend {backend} is not supported; expected CPU_ATTN, FLASH_ATTN, TRITON_ATTN or FLASHINFER: choose one "
        "with --attention-backend"
    )


def check_layout(layout: CacheLayout, cache: Tensor, heads: int, head_size: int, write: WriteTokens) -> None:
    """Write random keys and values into a block that nobody has yet and read them again. Raises InputError if they differ."""
    # Block 0 is vLLM's null block, written by padding and read by nobody.
    slots = torch.arange(layout.size, device=cache.device)
    made = torch.Generator().manual_seed(0)
    key, value = (
        torch.randn((layout.size, heads, head_size), generator=made).to(device=cache.device, dtype=cache.dtype)
        for _ in range(2)
    )
    write(key, value, cache, slots)
    keys, values = layout.read(cache, slots)
    if not (torch.equal(keys, key) and torch.equal(values, value)):
        raise InputError(NOT_READ_BACK)
    write(torch.zeros_like(key), torch.zeros_like(value), cache, slots)
