"""That a CUDA graph can hold the ring's write, shown without a GPU.

A captured graph replays kernels on the tensors that they were given, and no Python. `make_fx` records in the same way: the
operators, with the tensors from outside as constants. So a recording made while nobody's queries are wanted, replayed after
`set_places`, has to write where `set_places` says.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from laconic.engines.vllm.plugin import worker
from laconic.engines.vllm.plugin.ring import QueryRing

REQUESTS, QUERIES, HEADS, SIZE, TOKENS = 3, 4, 2, 8, 10


def ring_of() -> QueryRing:
    return QueryRing(
        {"one": (HEADS, SIZE), "two": (HEADS, SIZE)}, REQUESTS, QUERIES, TOKENS, torch.float32, torch.device("cpu")
    )


def recorded(ring: QueryRing, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two layers' attention as a graph would hold it: queries of a padded step in, attention's results out."""
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    layers = [SimpleNamespace(impl=SimpleNamespace(forward=lambda layer, query: query + 1)) for _ in range(2)]
    for name, layer in zip(("one", "two"), layers, strict=True):
        worker._record_queries(layer, name, ring)

    def step(query: Tensor) -> Tensor:
        for layer in layers:
            query = layer.impl.forward(layer, query)
        return query

    capturing[0] = True
    graph = make_fx(step)(torch.zeros(8, HEADS, SIZE))
    capturing[0] = False
    return graph


def queries(seed: int) -> Tensor:
    return torch.randn((8, HEADS, SIZE), generator=torch.Generator().manual_seed(seed))


def test_a_recording_follows_steer(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ring_of()
    graph = recorded(ring, monkeypatch)
    first, second, third = queries(1), queries(2), queries(3)
    slot, position = torch.tensor([0, 2]), torch.tensor([5, 7])

    graph(first)  # nobody's
    assert not any(ring.read(name, torch.arange(REQUESTS * QUERIES)[None]).any() for name in ("one", "two"))

    places = ring.place_of(slot, position)
    ring.set_places(torch.tensor([1, 6]), places)
    assert torch.equal(graph(second), second + 1 + 1)
    for name, expected in (("one", second), ("two", second + 1)):
        assert torch.equal(ring.read(name, places[None])[0].transpose(0, 1), expected[[1, 6]])

    ring.clear_places()
    graph(third)  # a dummy step's: what was kept stays
    assert torch.equal(ring.read("one", places[None])[0].transpose(0, 1), second[[1, 6]])


def test_a_recording_writes_the_same_as_a_step_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed, eager = ring_of(), ring_of()
    graph = recorded(replayed, monkeypatch)
    made = torch.Generator().manual_seed(0)
    everything = torch.arange(REQUESTS * QUERIES)[None]
    for step in range(20):
        tokens = torch.randperm(8, generator=made)[: step % 4].sort().values
        places = torch.randperm(REQUESTS * QUERIES, generator=made)[: len(tokens)]
        for ring in (replayed, eager):
            ring.set_places(tokens, places)
        graph(queries(step))
        if eager.active:
            eager.write("one", queries(step))
        assert torch.equal(replayed.read("one", everything), eager.read("one", everything))


def test_no_tensor_of_the_ring_is_replaced() -> None:
    ring = ring_of()
    storage = {name: held.data_ptr() for name, held in [*ring._rings.items(), ("places", ring.places)]}
    for tokens in ([0, 3], [], [1], []):
        ring.set_places(torch.tensor(tokens, dtype=torch.long), torch.arange(len(tokens)))
        ring.write("one", queries(1))
        ring.clear_places()
    assert storage == {name: held.data_ptr() for name, held in [*ring._rings.items(), ("places", ring.places)]}


def test_outside_a_capture_nothing_is_written_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without graphs a step whose queries nobody wants costs nothing."""
    ring = ring_of()
    written = []
    monkeypatch.setattr(ring, "write", lambda name, query: written.append(name))
    layer = SimpleNamespace(impl=SimpleNamespace(forward=lambda layer, query: query))
    worker._record_queries(layer, "one", ring)
    layer.impl.forward(layer, queries(1))
    assert written == []
    ring.set_places(torch.tensor([0]), torch.tensor([0]))
    layer.impl.forward(layer, queries(1))
    assert written == ["one"]
