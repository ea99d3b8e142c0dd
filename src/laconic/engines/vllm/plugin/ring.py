"""The latest queries of every request, kept as they pass through attention.

One tensor a layer, `[(requests + 1) * R, H, D]`: R places for each request's slot, a token at position p in place p % R of
its slot; the last R places take what nobody needs. What is written where stands in `places`, one persistent tensor for the
whole step, so that the write (an index_copy_ into a persistent tensor) can be recorded in a CUDA graph and be steered from
outside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laconic.engines.vllm.plugin.device import to_device


class QueryRing:
    """R queries for each of `requests` slots, of each named layer.

    layers: name -> (query heads, head size) on this device. tokens: the most tokens of a step, padding included.
    """

    def __init__(
        self,
        layers: dict[str, tuple[int, int]],
        requests: int,
        queries: int,
        tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.queries = queries
        """R."""
        self._junk_place = requests * queries
        self.places = torch.full((tokens,), self._junk_place, dtype=torch.long, device=device)
        self._staged = torch.full((tokens,), self._junk_place, dtype=torch.long)
        self._tokens_placed = 0  # of the latest `set_places`: up to here `places` isn't junk
        self.active = False
        """Whether anybody's queries are kept in the step to come."""
        self._rings = {
            name: torch.zeros(((requests + 1) * queries, heads, size), dtype=dtype, device=device)
            for name, (heads, size) in layers.items()
        }
        for name, ring in self._rings.items():
            self.write(
                name, torch.zeros_like(ring[:1])
            )  # loads the kernel: a capture that comes first must not have to

    @property
    def bytes(self) -> int:
        """Memory that the rings of all layers take."""
        return sum(ring.numel() * ring.element_size() for ring in self._rings.values())

    def set_places(self, tokens: Tensor, places: Tensor) -> None:
        """Say where the next step's queries go: token i of the batch, for i in `tokens`, to `places`; all others nowhere.

        tokens, places: long on the CPU, of one length.
        """
        self.active = len(tokens) > 0
        if not self.active and not self._tokens_placed:
            return
        staged = self._staged
        staged[: self._tokens_placed] = self._junk_place
        staged[tokens] = places
        upto = max(self._tokens_placed, int(tokens[-1]) + 1 if self.active else 0)
        self.places[:upto].copy_(to_device(staged[:upto], self.places.device))
        self._tokens_placed = upto if self.active else 0

    def clear_places(self) -> None:
        """Nobody's queries are wanted until the next `set_places`: a step without requests (a dummy one) leaves no trace."""
        nobody = torch.empty(0, dtype=torch.long)
        self.set_places(nobody, nobody)

    def place_of(self, slot: Tensor, position: Tensor) -> Tensor:
        """Where the token at `position` of the request in `slot` is kept."""
        return slot * self.queries + position % self.queries

    def write(self, layer: str, query: Tensor) -> None:
        """query: [tokens, H, D] of the whole step, padding included."""
        self._rings[layer].index_copy_(0, self.places[: query.shape[0]], query)

    def read(self, layer: str, places: Tensor) -> Tensor:
        """places: long [B, S] -> queries [B, H, S, D]."""
        return self._rings[layer][places].transpose(1, 2)
