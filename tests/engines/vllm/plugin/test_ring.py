"""The query ring, and how a worker steers it, against a list of every query there was. Needs no vLLM."""

from __future__ import annotations

import random
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from laconic.engines.vllm.plugin.compressor import Compressor
from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.engines.vllm.plugin.ring import QueryRing
from laconic.engines.vllm.plugin.settings import parse_launch, parse_request

HEADS, SIZE = 3, 4
CPU = torch.device("cpu")


def ring_of(requests: int, queries: int, tokens: int, dtype: torch.dtype = torch.float32) -> QueryRing:
    return QueryRing({"a": (HEADS, SIZE), "b": (HEADS + 1, SIZE)}, requests, queries, tokens, dtype, CPU)


def longs(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)


def test_memory() -> None:
    """Two layers, three slots and one for nobody, five queries each, of bfloat16."""
    assert ring_of(3, 5, 10, torch.bfloat16).bytes == (HEADS + HEADS + 1) * 4 * 5 * SIZE * 2


def test_what_is_steered_is_found_again() -> None:
    ring = ring_of(2, 4, 6)
    made = torch.Generator().manual_seed(0)
    query_a, query_b = torch.randn(6, HEADS, SIZE, generator=made), torch.randn(6, HEADS + 1, SIZE, generator=made)
    places = ring.place_of(longs(1, 1, 0), longs(7, 8, 3))
    assert places.tolist() == [4 + 3, 4 + 0, 3]
    ring.set_places(longs(1, 2, 5), places)
    assert ring.active
    assert (ring.places[longs(0, 3, 4)] == 8).all()  # the place of nobody
    ring.write("a", query_a)
    ring.write("b", query_b)
    found = ring.read("a", places[None])  # [1, H, 3, D]
    assert torch.equal(found[0].transpose(0, 1), query_a[[1, 2, 5]])
    assert torch.equal(ring.read("b", places[:, None])[:, :, 0], query_b[[1, 2, 5]])


def test_a_step_that_keeps_fewer_leaves_no_trace_of_the_one_before() -> None:
    ring = ring_of(2, 4, 6)
    ring.set_places(longs(0, 4), ring.place_of(longs(0, 1), longs(0, 0)))
    ring.write("a", torch.ones(6, HEADS, SIZE))
    ring.set_places(longs(1), ring.place_of(longs(0), longs(1)))
    assert ring.places.tolist() == [8, 1, 8, 8, 8, 8]
    ring.write("a", torch.full((6, HEADS, SIZE), 2.0))
    assert ring.read("a", longs(0, 4, 1)[None])[0, 0, :, 0].tolist() == [1, 1, 2]
    ring.clear_places()
    assert not ring.active
    assert ring.places.tolist() == [8] * 6
    ring.write("a", torch.full((6, HEADS, SIZE), 3.0))
    assert ring.read("a", longs(0, 4, 1)[None])[0, 0, :, 0].tolist() == [1, 1, 2]


def test_the_tensor_that_a_graph_holds_stays_the_same() -> None:
    ring = ring_of(2, 4, 6)
    before = ring.places.data_ptr()
    ring.set_places(longs(0), longs(3))
    ring.set_places(longs(2), longs(1))
    assert ring.places.data_ptr() == before


# ---- the worker's side ------------------------------------------------------------------------------------------------

LAUNCH = parse_launch({"policy": "rpc", "interval": 12, "ratio": 4, "window": 5, "queries": 8})
SETTINGS: list[Any] = [
    None,
    {"window": 8},
    {"policy": "rkv", "budget": 10, "buffer": 3, "window": 3},
    {"policy": "streamingllm", "budget": 10, "buffer": 4},
    {"policy": "none"},
]


def output(new: Any = (), finished: Any = (), preempted: Any = None) -> Any:
    """What the compressor reads of vLLM's SchedulerOutput."""
    news = [
        SimpleNamespace(req_id=name, prompt_len=sent, sampling_params=SimpleNamespace(extra_args={"laconic": laconic}))
        for name, sent, laconic in new
    ]
    return SimpleNamespace(scheduled_new_reqs=news, finished_req_ids=set(finished), preempted_req_ids=preempted)


def query_of(name: str, position: int) -> Tensor:
    """[H, D] that tells whose it is."""
    return torch.full((HEADS, SIZE), float(zlib.crc32(f"{name} {position}".encode()) % (1 << 24)))  # exact in float32


def test_the_worker_keeps_the_queries_that_a_compression_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of all settings come, go, are preempted and start anew, in chunks of any size; at each compression the ring
    holds the latest queries, all of them and in order, and it is told of each compression once."""
    from laconic.engines.vllm.plugin import compressor as module

    seen: list[tuple[str, int]] = []

    def compact(layers: Any, policy: Any, due: Any, size: int, ring: QueryRing, across: Any) -> None:
        for d in due:
            name, plan = owner[d.slot]
            assert plan.next_boundary(d.computed - 1) == d.computed
            assert (d.prompt, d.held, d.round) == (plan.prompt, plan.slots_needed(d.computed), plan.rounds(d.computed))
            assert policy == plan.policy
            assert d.blocks.tolist() == [d.held]
            positions = torch.arange(d.computed - policy.scorer.queries, d.computed)
            found = ring.read("a", ring.place_of(torch.tensor([d.slot]), positions)[None])[0].transpose(0, 1)
            assert torch.equal(
                found, torch.stack([query_of(name, int(p)) for p in positions]) if len(positions) else found
            )
            seen.append((name, d.computed))

    monkeypatch.setattr(module, "compact", compact)
    draw, slots = random.Random(0), 6
    compressor = Compressor(LAUNCH, slots, 1000, ring_of(slots, LAUNCH.queries, 400))
    plans: dict[str, CompressionPlan] = {}
    alive: dict[str, int] = {}  # name -> tokens computed
    owner: dict[int, tuple[str, CompressionPlan]] = {}
    expected: list[tuple[str, int]] = []
    for step in range(400):
        gone = [name for name in alive if draw.random() < 0.02]
        preempted = {name for name in alive if name not in gone and draw.random() < 0.02}
        for name in gone:
            del alive[name]
        for name in preempted:
            alive[name] = 0
        new = []
        while len(alive) < slots and draw.random() < 0.5:
            name, sent, laconic = f"r{step}-{len(alive)}", draw.randint(1, 30), draw.choice(SETTINGS)
            new.append((name, sent, laconic))
            plans[name] = CompressionPlan(parse_request(laconic, LAUNCH).policy, sent, 1000)
            alive[name] = draw.choice([0, sent // 2])  # a prompt that was found in the cache
        compressor.begin_step(output(new, gone, preempted))
        batch = [name for name in alive if draw.random() < 0.9]
        draw.shuffle(batch)
        if not batch:
            continue
        computed = np.array([alive[name] for name in batch])
        wanted = [draw.choice([1, 1, 1, draw.randint(1, 40)]) for _ in batch]
        chunk = np.array([plans[name].clip_step(alive[name], n) for name, n in zip(batch, wanted, strict=True)])
        evicted = compressor.prepare_step(batch, computed, chunk)
        lost = [plans[name].evicted(alive[name]) for name in batch]
        assert (evicted.tolist() if evicted is not None else [0] * len(batch)) == lost
        owner = {held.slot: (name, plans[name]) for name, held in compressor._requests.items()}
        assert len(owner) == len(compressor._requests)  # no slot is two requests'
        rows = [query_of(name, alive[name] + i) for name, n in zip(batch, chunk, strict=True) for i in range(int(n))]
        padding = [torch.full((HEADS, SIZE), -1.0)] * draw.randint(0, 8)
        assert compressor.ring is not None
        compressor.ring.write("a", torch.stack([*rows, *padding]))
        told = {}
        for name, n in zip(batch, chunk, strict=True):
            alive[name] += int(n)
            if plans[name].next_boundary(alive[name] - 1) == alive[name]:
                told[name] = plans[name].held(alive[name])
                expected.append((name, alive[name]))
        before = len(seen)
        assert compressor.finish_step(lambda name, held: torch.tensor([held])) == told
        assert sorted(seen[before:]) == sorted((name, alive[name]) for name in told)
    assert seen
    assert sorted(seen) == sorted(expected)
    assert len({name for name, _ in seen}) > 20


def test_a_request_that_starts_beyond_a_compression_is_an_error() -> None:
    compressor = Compressor(LAUNCH, 2, 1000, ring_of(2, 8, 50))
    compressor.begin_step(output([("one", 4, None)]))
    with pytest.raises(RuntimeError, match="request one starts at 25 tokens, beyond a compression that nobody did"):
        compressor.prepare_step(["one"], np.array([25]), np.array([1]))
