"""One compression inside a paged cache against lists of tokens, over several rounds. Needs no vLLM.

The lists share nothing with laconic but the cache: scores come from tests/reference, tokens are picked by sorting, and what
stays is looked for in the blocks one number at a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from laconic.compress import RKV, RPC, Policy, Random, RandomAttention, StreamingLLM, VaSE
from laconic.engines.vllm.plugin import compaction
from laconic.engines.vllm.plugin.compaction import AttentionLayer, DueRequest, compact
from laconic.engines.vllm.plugin.layouts import InterleavedLayout
from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.engines.vllm.plugin.ring import QueryRing
from tests.engines.vllm.plugin.physical import caches
from tests.reference import scorers

LAYERS, HEADS, GROUPS, D, SIZE, BLOCKS = 2, 4, 2, 8, 4, 120
SCALING = 0.35
CPU = torch.device("cpu")


@dataclass
class Token:
    """position: among the generated; -1 - i for the i-th of the prompt."""

    position: int
    key: Tensor
    value: Tensor


@dataclass
class Request:
    """What a request holds by the tests' own account. held: [layer][KV head] -> its tokens in order. queries: [layer] -> all
    of its tokens' [H, D]."""

    plan: CompressionPlan
    slot: int
    blocks: list[int]
    held: list[list[list[Token]]]
    queries: list[list[Tensor]]
    computed: int
    positions: dict[str, Tensor] = field(default_factory=dict)


class World:
    """A cache with requests in it, that tokens are appended to as an engine would."""

    def __init__(
        self, policy: Policy, prompts: list[int], *, order: str = "LBHNC", split: int = 1, seed: int = 0
    ) -> None:
        self.draw, self.made = random.Random(seed), torch.Generator().manual_seed(seed)
        # Kernels may see blocks that are `split` times as small as those that are handed out.
        self.caches = caches(order, LAYERS, BLOCKS * split, GROUPS, SIZE // split, 2 * D, torch.float32)
        self.free = list(range(1, BLOCKS))
        self.draw.shuffle(self.free)
        reads = 0 if policy.scorer is None else policy.scorer.queries
        layers = {f"layer{i}": (HEADS, D) for i in range(LAYERS)}
        self.ring = QueryRing(layers, len(prompts), reads, 1, torch.float32, CPU) if reads else None
        self.layers = [self.layer(i) for i in range(LAYERS)]
        self.policy = policy
        self.requests = []
        for slot, prompt in enumerate(prompts):
            one = Request(
                CompressionPlan(policy, prompt, 10_000),
                slot,
                [],
                [[[] for _ in range(GROUPS)] for _ in range(LAYERS)],
                [[] for _ in range(LAYERS)],
                0,
            )
            self.requests.append(one)
            for i in range(prompt):
                self.append(one, i - prompt)

    def layer(self, index: int) -> AttentionLayer:
        cache = self.caches[index]

        def write(key: Tensor, value: Tensor, into: Tensor, slots: Tensor) -> None:
            assert into is cache
            assert len(set(slots.tolist())) == len(slots) == len(key) == len(value)
            for i, slot in enumerate(slots.tolist()):
                self.put(into, slot, key[i], value[i])

        return AttentionLayer(
            name=f"layer{index}",
            index=index,
            heads=HEADS,
            kv_heads=GROUPS,
            first_head=0,
            head_size=D,
            scaling=SCALING,
            cache=lambda: cache,
            write=write,
            layout=InterleavedLayout(cache, D),
        )

    @staticmethod
    def put(cache: Tensor, slot: int, key: Tensor, value: Tensor) -> None:
        size = cache.shape[2]
        cache[slot // size, :, slot % size, :D] = key
        cache[slot // size, :, slot % size, D:] = value

    def append(self, one: Request, position: int) -> None:
        """The next token's KV in every layer, and its query in the ring."""
        count = len(one.held[0][0])
        if count == len(one.blocks) * SIZE:
            one.blocks.append(self.free.pop())
        slot = one.blocks[count // SIZE] * SIZE + count % SIZE
        for i in range(LAYERS):
            key, value = torch.randn(2, GROUPS, D, generator=self.made)
            query = torch.randn(HEADS, D, generator=self.made)
            self.put(self.caches[i], slot, key, value)
            for g in range(GROUPS):
                one.held[i][g].append(Token(position, key[g], value[g]))
            one.queries[i].append(query)
            if self.ring is not None:
                place = self.ring.place_of(torch.tensor(one.slot), torch.tensor(one.computed))
                self.ring._rings[f"layer{i}"][place] = query
        one.computed += 1

    def run_to_a_compression(self, one: Request) -> None:
        due = one.plan.next_boundary(one.computed)
        assert due is not None
        while one.computed < due:
            self.append(one, one.computed - one.plan.prompt)

    def due(self, one: Request) -> DueRequest:
        return DueRequest(
            prompt=one.plan.prompt,
            held=len(one.held[0][0]),
            round=one.plan.rounds(one.computed),
            computed=one.computed,
            slot=one.slot,
            blocks=torch.tensor(one.blocks),
            positions=one.positions,
        )

    def compact(self, due: list[Request], across: Any = None) -> None:
        compact(self.layers, self.policy, [self.due(one) for one in due], SIZE, self.ring, across)

    # ---- the slow side ------------------------------------------------------------------------------------------------

    def compress(self, one: Request) -> None:
        """What stays, by the tests' own account; blocks that it doesn't need are given back."""
        schedule, prompt = self.policy.schedule, one.plan.prompt
        n = one.plan.rounds(one.computed)
        M, keep = schedule.candidates(n), schedule.kept(n)
        for i in range(LAYERS):
            generated = [tokens[prompt:] for tokens in one.held[i]]
            assert len(generated[0]) == M + schedule.window
            scores = self.scores(i, one, generated, M)
            for g in range(GROUPS):
                row = scores[g if len(scores) > 1 else 0]
                best = sorted(sorted(range(M), key=lambda c: (row[c], c), reverse=True)[:keep])
                one.held[i][g] = one.held[i][g][:prompt] + [generated[g][c] for c in best] + generated[g][M:]
        need = -(-len(one.held[0][0]) // SIZE)
        self.free += one.blocks[need:]
        del one.blocks[need:]

    def scores(self, layer: int, one: Request, generated: list[list[Token]], M: int) -> list[list[float]]:
        policy = self.policy
        keys = [[token.key.tolist() for token in tokens] for tokens in generated]
        where = [[token.position for token in tokens[:M]] for tokens in generated]
        if isinstance(policy, StreamingLLM):
            return [[float(rank) for rank in scorers.recency(where[0], policy.sinks)]]
        if isinstance(policy, (Random, RandomAttention)):
            redraw = isinstance(policy, RandomAttention)
            return scorers.random_scores(policy.seed, 0, layer, where, policy.aggregation, redraw)
        assert isinstance(policy, (RPC, RKV, VaSE))
        queries = torch.stack(one.queries[layer][-policy.window :], dim=1).tolist()
        if isinstance(policy, RPC):
            told = policy.pooling, policy.kernel, policy.aggregation
            return scorers.window_attention(queries, keys, M, SCALING, where, *told)
        if isinstance(policy, VaSE):
            values = [[token.value.tolist() for token in tokens[:M]] for tokens in generated]
            weights = scorers.window_attention(
                queries, keys, M, SCALING, where, "avg", policy.kernel, policy.aggregation
            )
            sure = int(policy.schedule.kept(one.plan.rounds(one.computed)) * policy.protected)
            return scorers.weighted_draw(weights, values, where, sure, policy.seed, 0, layer, policy.aggregation)
        told_rkv = policy.lam, policy.kernel, policy.threshold, policy.aggregation
        return scorers.redundancy(queries, keys, M, SCALING, where, *told_rkv)

    def check(self) -> None:
        """Every request's tokens lie in its blocks, in order; and laconic remembers which they are."""
        for one in self.requests:
            for i, cache in enumerate(self.caches):
                size = cache.shape[2]
                for g in range(GROUPS):
                    for count, token in enumerate(one.held[i][g]):
                        slot = one.blocks[count // SIZE] * SIZE + count % SIZE
                        found = cache[slot // size, g, slot % size]
                        assert torch.equal(found[:D], token.key), (i, g, count)
                        assert torch.equal(found[D:], token.value), (i, g, count)
                    stored = one.positions.get(f"layer{i}")
                    if stored is not None:
                        row = stored[g if len(stored) > 1 else 0].tolist()
                        tokens = one.held[i][g][one.plan.prompt :]
                        assert row == [token.position for token in tokens[: len(row)]]


POLICIES = {
    "rpc-layer": RPC(interval=12, ratio=4, window=5),
    "rpc-group": RPC(interval=12, ratio=2, window=3, aggregation="group", pooling="max", kernel=3),
    "rpc-1": RPC(interval=6, ratio=1, window=2),
    "rpc-1.5": RPC(interval=9, ratio=1.5, window=4, aggregation="group"),
    "rkv": RKV(budget=14, buffer=5, window=3),
    "rkv-layer": RKV(budget=9, buffer=9, window=9, aggregation="layer", lam=0.6),
    "random-group": Random(interval=9, ratio=3, window=2, seed=5, aggregation="group"),
    "randomattention": RandomAttention(interval=12, ratio=2, window=3),
    "vase": VaSE(interval=12, ratio=2, window=3),
    "vase-layer": VaSE(interval=12, ratio=1.5, window=4, protected=0.5, kernel=3, seed=2, aggregation="layer"),
    "streamingllm": StreamingLLM(budget=11, buffer=6, sinks=3),
    "streamingllm-each": StreamingLLM(budget=9, buffer=1, sinks=4),
    "streamingllm-no-sinks": StreamingLLM(budget=7, buffer=3, sinks=0),
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_stays_is_what_the_lists_say(name: str) -> None:
    """Requests at different rounds are compressed in one call, in any order, as many as chance brings together."""
    world = World(POLICIES[name], [1, 4, 7, 12], seed=3)
    for _ in range(14):
        due = [one for one in world.requests if world.draw.random() < 0.6]
        world.draw.shuffle(due)
        if not due:
            continue
        for one in due:
            world.run_to_a_compression(one)
        world.compact(due)
        for one in due:
            world.compress(one)
        world.check()
    rounds = [one.plan.rounds(one.computed) for one in world.requests]
    assert max(rounds) >= 5
    assert len(set(rounds)) > 1


@pytest.mark.parametrize("order", ["LBNHC", "BLHNC", "BLNHC", "BHLNC"])
def test_in_any_order_in_memory(order: str) -> None:
    world = World(POLICIES["rpc-group"], [3, 6], order=order)
    for _ in range(3):
        for one in world.requests:
            world.run_to_a_compression(one)
        world.compact(world.requests)
        for one in world.requests:
            world.compress(one)
        world.check()


def test_where_kernels_split_the_blocks() -> None:
    """A block of four tokens is two of two for the kernel: block b is 2b and 2b + 1."""
    world = World(POLICIES["rpc-layer"], [3, 6], split=2)
    for _ in range(3):
        for one in world.requests:
            world.run_to_a_compression(one)
        world.compact(world.requests)
        for one in world.requests:
            world.compress(one)
        world.check()


def test_streamingllms_positions_over_many_rounds() -> None:
    """By hand: the first three, then the latest eight; what is remembered says so after each round."""
    world = World(POLICIES["streamingllm"], [2])
    one = world.requests[0]
    for n in range(1, 9):
        world.run_to_a_compression(one)
        world.compact([one])
        world.compress(one)
        generated = 11 + 6 * n
        assert one.computed == 2 + generated
        wanted = [0, 1, 2, *range(generated - 8, generated)]
        for stored in one.positions.values():
            assert stored.tolist() == [wanted]


def test_a_few_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory bounds how many are read together; the longest alone exceeds what is allowed here."""
    monkeypatch.setattr(compaction, "CHUNK_ELEMENTS", 34 * GROUPS * D)
    world, calls = World(POLICIES["rpc-layer"], [1, 4, 7, 12]), []
    stock = compaction._compact_batch

    def counted(layers: Any, policy: Any, due: Any, *args: Any) -> None:
        calls.append(len(due))
        stock(layers, policy, due, *args)

    monkeypatch.setattr(compaction, "_compact_batch", counted)
    for one, rounds in zip(world.requests, (0, 6, 0, 0), strict=True):  # 17 tokens, and 35
        for _ in range(rounds):
            world.run_to_a_compression(one)
            world.compact([one])
            world.compress(one)
        world.run_to_a_compression(one)
    calls.clear()
    world.compact(world.requests)
    for one in world.requests:
        world.compress(one)
    world.check()
    assert calls == [2, 1, 1]


@pytest.mark.parametrize("name", ["rpc-layer", "rkv-layer", "rpc-group", "vase", "vase-layer"])
def test_heads_spread_over_two_devices(name: str) -> None:
    """Each has half of the heads and comes to the same tokens as one that has them all ("group" asks nobody)."""
    whole = World(POLICIES[name], [3, 6], seed=7)
    for one in whole.requests:
        whole.run_to_a_compression(one)

    def half(rank: int, across: Any) -> list[dict[str, Tensor]]:
        """One device's share of `whole`, compressed apart; positions of each request."""
        assert whole.ring is not None
        ring = QueryRing(
            {f"layer{i}": (HEADS // 2, D) for i in range(LAYERS)}, 2, whole.ring.queries, 1, torch.float32, CPU
        )
        layers = []
        for i in range(LAYERS):
            mine = slice(rank * HEADS // 2, (rank + 1) * HEADS // 2)
            ring._rings[f"layer{i}"].copy_(whole.ring._rings[f"layer{i}"][:, mine])
            cache = whole.caches[i][:, rank : rank + 1].clone()

            def blocks(held: Tensor = cache) -> Tensor:
                return held

            layers.append(
                AttentionLayer(
                    f"layer{i}",
                    i,
                    HEADS // 2,
                    1,
                    rank,
                    D,
                    SCALING,
                    blocks,
                    lambda *a: None,
                    InterleavedLayout(cache, D),
                )
            )
        due = [whole.due(one) for one in whole.requests]
        for d in due:
            d.positions = {}
        compact(layers, POLICIES[name], due, SIZE, ring, across)
        return [d.positions for d in due]

    given: list[list[Tensor]] = [[], []]  # first both say what they have, then both get the means
    for rank in (0, 1):
        half(rank, lambda mean, said=given[rank]: said.append(mean) or mean)
    means = [(a + b) / 2 for a, b in zip(*given, strict=True)]
    assert bool(means) == (POLICIES[name].scorer.aggregation == "layer")  # type: ignore[union-attr]
    found = []
    for rank in (0, 1):
        queue = list(means)
        found.append(half(rank, lambda mean, queue=queue: queue.pop(0)))
    whole.compact(whole.requests)
    for i, one in enumerate(whole.requests):
        for layer, stored in one.positions.items():
            if len(stored) == 1:
                assert torch.equal(found[0][i][layer], stored)
                assert torch.equal(found[1][i][layer], stored)
            else:
                assert torch.equal(torch.cat([found[0][i][layer], found[1][i][layer]]), stored)


def test_a_count_that_the_schedule_does_not_know() -> None:
    world = World(POLICIES["rpc-layer"], [3])
    (one,) = world.requests
    world.run_to_a_compression(one)
    due = world.due(one)
    due.held -= 1
    with pytest.raises(RuntimeError, match="16 generated tokens are held where the schedule knows 17"):
        compact(world.layers, world.policy, [due], SIZE, world.ring, None)
