"""Every scorer against loops over Python numbers, ragged rows included: a row scores as it would alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from laconic.compress import attention
from laconic.compress.evidence import Aggregation, Evidence, Scorer
from laconic.compress.hindsight import FutureAttention
from laconic.compress.redundancy import Redundancy, mean_similarity
from laconic.compress.scorers import (
    AccumulatedAttention,
    NewestQuery,
    OracleScore,
    RandomScore,
    Recency,
    ShortKeys,
    WindowAttention,
)
from laconic.compress.select import select
from laconic.compress.vase import WeightedDraw
from laconic.errors import LaconicError
from tests.reference import scorers as reference

B, G, D, W, M, PROMPT = 3, 2, 8, 5, 23, 6
REAL = [23, 1, 14]  # candidates of each row
KEEP = [9, 1, 8]  # how many of them stay
PROMPT_REAL = [4, 6, 1]
SCALING = 0.37


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def evidence(heads: int = 6, queries: int = 4, junk: float = torch.nan, per_head: bool = False) -> Evidence:
    """Three rows of unlike lengths. Whatever isn't a real token holds `junk`, so a leak shows."""
    source = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    keys, context, mass = noise(B, G, M + W, D) * 2, noise(B, G, PROMPT, D), noise(B, 1, M).abs()
    keys[:, :, 9] = keys[:, :, 20] * 1.5  # near-copies, for R-KV
    groups = G if per_head else 1
    valid = torch.zeros(B, M, dtype=torch.bool)
    context_valid = torch.zeros(B, PROMPT, dtype=torch.bool)
    positions = torch.zeros(B, groups, M, dtype=torch.long)
    for b in range(B):
        valid[b, M - REAL[b] :] = True
        context_valid[b, PROMPT - PROMPT_REAL[b] :] = True
        for g in range(groups):
            # Ascending with gaps, as after an eviction; the last candidate is the token before the window.
            gaps = torch.randint(1, 3, (REAL[b],), generator=source)
            places = gaps.cumsum(0)
            positions[b, g, M - REAL[b] :] = places - places[-1] + 60
    keys[:, :, :M].masked_fill_(~valid[:, None, :, None], junk)
    context.masked_fill_(~context_valid[:, None, :, None], junk)
    mass.masked_fill_(~valid[:, None, :], junk)
    values = noise(B, G, M + W, D)
    values[:, :, :M].masked_fill_(~valid[:, None, :, None], junk)
    future = noise(B, G, M).abs().masked_fill_(~valid[:, None, :], junk)
    return Evidence(
        queries=noise(B, heads, queries, D),
        keys=keys,
        scaling=SCALING,
        valid=valid,
        positions=positions,
        token_ids=positions * 7 % 11,
        mass=mass,
        context_keys=context,
        context_valid=context_valid,
        layer=2,
        rows=torch.tensor([5, 0, 123456789012]),
        values=values,
        keep=torch.tensor(KEEP),
        future=future,
    )


def alone(all_rows: Evidence, b: int) -> Evidence:
    """Row b without padding and without masks."""
    start = M - REAL[b]
    assert all_rows.queries is not None
    assert all_rows.context_keys is not None
    assert all_rows.mass is not None
    assert all_rows.token_ids is not None
    assert all_rows.rows is not None
    assert all_rows.values is not None
    assert all_rows.keep is not None
    assert all_rows.future is not None
    return Evidence(
        queries=all_rows.queries[b : b + 1],
        keys=all_rows.keys[b : b + 1, :, start:],
        scaling=SCALING,
        valid=None,
        positions=all_rows.positions[b : b + 1, :, start:],
        token_ids=all_rows.token_ids[b : b + 1, :, start:],
        mass=all_rows.mass[b : b + 1, :, start:],
        context_keys=all_rows.context_keys[b : b + 1, :, PROMPT - PROMPT_REAL[b] :],
        context_valid=None,
        layer=all_rows.layer,
        rows=all_rows.rows[b : b + 1],
        values=all_rows.values[b : b + 1, :, start:],
        keep=all_rows.keep[b : b + 1],
        starts=None if all_rows.starts is None else all_rows.starts[b : b + 1],
        future=all_rows.future[b : b + 1, :, start:],
    )


def check(scorer: Scorer, given: Evidence, slow: Callable[[Evidence], list[list[float]]], atol: float = 1e-7) -> None:
    """Batched equals alone equals loops; junk is finite and harmless."""
    scores = scorer.score(given)
    groups = G if scorer.aggregation == "group" else given.positions.shape[1]
    assert scores.shape == (B, groups, M)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    for b in range(B):
        single = alone(given, b)
        mine = scores[b, :, M - REAL[b] :]
        torch.testing.assert_close(mine, scorer.score(single)[0], rtol=1e-5, atol=atol)
        torch.testing.assert_close(mine, torch.tensor(slow(single)), rtol=1e-4, atol=1e-6)


def lists(single: Evidence) -> tuple[list, list, list]:
    """queries, keys and each KV head's positions of a row, as nested lists."""
    assert single.queries is not None
    positions = single.positions.expand(1, G, -1)
    return single.queries[0].tolist(), single.keys[0].tolist(), positions[0].tolist()


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize(("pooling", "kernel"), [("avg", 7), ("max", 7), ("avg", 1), ("avg", 31), ("max", 3)])
@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("queries", [1, 5, 12])  # 12 reach back beyond the window
def test_window_attention(aggregation: str, pooling: str, kernel: int, heads: int, queries: int) -> None:
    scorer = WindowAttention(queries, pooling, kernel, aggregation)  # type: ignore[arg-type]

    def slow(row: Evidence) -> list[list[float]]:
        q, k, where = lists(row)
        return reference.window_attention(q, k, row.candidates, SCALING, where, pooling, kernel, aggregation)

    check(scorer, evidence(heads, queries, per_head=aggregation == "group"), slow)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_short_keys(aggregation: Aggregation, junk: float) -> None:
    def slow(e: Evidence) -> list[list[float]]:
        return reference.short_keys(e.keys[0].tolist(), e.candidates, aggregation)

    check(ShortKeys(aggregation), evidence(junk=junk), slow)


def test_window_attention_of_a_query_that_sees_no_candidate() -> None:
    """Queries that are older than every candidate add nothing, and no NaN."""
    given = evidence(queries=12)
    given = dataclasses.replace(given, positions=given.positions.clamp(min=58))
    assert WindowAttention(12).score(given).isfinite().all()


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize("heads", [2, 6])
def test_newest_query(aggregation: str, heads: int) -> None:
    def slow(row: Evidence) -> list[list[float]]:
        q, k, _ = lists(row)
        assert row.context_keys is not None
        return reference.newest_query(q, row.context_keys[0].tolist(), k, row.candidates, SCALING, aggregation)

    check(NewestQuery(aggregation), evidence(heads), slow)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize("queries", [8, 3])
def test_redundancy(aggregation: str, queries: int) -> None:
    scorer = Redundancy(queries=queries, lam=0.3, kernel=5, threshold=0.2, aggregation=aggregation)  # type: ignore[arg-type]

    def slow(row: Evidence) -> list[list[float]]:
        q, k, where = lists(row)
        return reference.redundancy(q, k, row.candidates, SCALING, where, 0.3, 5, 0.2, aggregation)

    check(scorer, evidence(6, queries, per_head=aggregation == "group"), slow)


def test_redundancy_spares_the_latest_copy() -> None:
    keys = torch.randn(1, 1, 30, D, generator=torch.Generator().manual_seed(0))
    keys[0, 0, [3, 12, 25]] = keys[0, 0, 3].clone()
    similar = mean_similarity(keys, None, 0.99)[0, 0]
    assert similar[25] < similar[12] < similar[3]


def test_a_token_is_no_near_copy_of_itself_below_a_threshold_of_0() -> None:
    rest = 0.1**0.5
    keys = torch.zeros(1, 1, 3, 4)
    keys[..., 0] = 0.9**0.5
    keys[0, 0, range(3), range(1, 4)] = rest  # unit keys, 0.9 between any two
    similar = mean_similarity(keys, None, -0.5)[0, 0]
    torch.testing.assert_close(similar, torch.tensor([1.8, 0.9, 0.0]) / 3)


@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_accumulated_attention_scores_are_the_mass(aggregation: str) -> None:
    def slow(row: Evidence) -> list[list[float]]:
        assert row.mass is not None
        return row.mass[0].tolist()

    given = evidence()
    if aggregation == "group":
        assert given.mass is not None
        given = dataclasses.replace(given, mass=given.mass.repeat(1, G, 1) * torch.tensor([[[1.0], [2.0]]]))
    check(AccumulatedAttention(aggregation), given, slow)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize("mask", ["none", "random", "blind"])
@pytest.mark.parametrize("q", [1, 4])
def test_observe(aggregation: str, mask: str, q: int) -> None:
    source = torch.Generator().manual_seed(1)
    query, keys = torch.randn(B, 6, q, D, generator=source), torch.randn(B, G, 9, D, generator=source)
    flags = None
    if mask != "none":
        flags = torch.rand(B, 1, q, 9, generator=source) < 0.6
        if mask == "blind":
            flags[1] = False
        keys.masked_fill_(~flags.any(dim=2).unsqueeze(-1), torch.nan)  # what nobody sees may hold anything
    mass = AccumulatedAttention(aggregation).observe(query, keys, flags, SCALING)  # type: ignore[arg-type]
    for b in range(B):
        seen = None if flags is None else flags[b, 0].tolist()
        want = reference.observed(query[b].tolist(), keys[b].tolist(), SCALING, aggregation, seen)
        torch.testing.assert_close(mass[b], torch.tensor(want), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_observe_with_a_mask_for_each_head(aggregation: str) -> None:
    """Each head by itself, under its own mask, then the mean that the aggregation asks for."""
    query, keys = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 7, 8)
    mask = torch.rand(2, 4, 3, 7) > 0.4
    mask[..., 0] = True
    got = AccumulatedAttention(aggregation).observe(query, keys, mask, SCALING)  # type: ignore[arg-type]
    single = AccumulatedAttention()
    heads = [
        single.observe(query[:, h : h + 1], keys[:, h // 2 : h // 2 + 1], mask[:, h : h + 1], SCALING) for h in range(4)
    ]
    each = torch.cat(heads, dim=1)  # [B, H, T]
    want = each.mean(1, keepdim=True) if aggregation == "layer" else each.unflatten(1, (2, 2)).mean(2)
    torch.testing.assert_close(got, want)


def test_observed_token_by_token_equals_at_once() -> None:
    source = torch.Generator().manual_seed(1)
    query, keys = torch.randn(B, 6, 7, D, generator=source), torch.randn(B, G, 7, D, generator=source)
    scorer = AccumulatedAttention()
    mass = torch.zeros(B, 1, 7)
    for t in range(7):
        mass[..., : t + 1] += scorer.observe(query[:, :, t : t + 1], keys[:, :, : t + 1], None, SCALING)
    torch.testing.assert_close(mass, scorer.observe(query, keys, None, SCALING))


def test_recency_orders_sinks_first_then_the_latest() -> None:
    given = dataclasses.replace(evidence(), positions=torch.arange(M).expand(B, 1, M))
    for sinks in (0, 4, 23):
        scores = Recency(sinks).score(given)
        assert scores.shape == (B, 1, M)
        want = reference.recency(list(range(M)), sinks)
        assert scores[0, 0].argsort().tolist() == torch.tensor(want).argsort().tolist()


def test_recency_far_out() -> None:
    positions = torch.tensor([0, 3, 4, 5_000_000, 5_000_001]).view(1, 1, 5)
    scores = Recency(4).score(dataclasses.replace(evidence(), positions=positions))
    assert scores.argsort().flatten().tolist() == [2, 3, 4, 1, 0]


@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_future_attention(aggregation: Aggregation) -> None:
    def slow(row: Evidence) -> list[list[float]]:
        assert row.future is not None
        return reference.future_attention(row.future[0].tolist(), aggregation)

    check(FutureAttention(aggregation), evidence(per_head=aggregation == "group"), slow)


def test_random_is_the_hash_of_its_four_numbers() -> None:
    def slow(row: Evidence) -> list[list[float]]:
        assert row.rows is not None
        return [
            [(reference.random_bits(11, int(row.rows[0]), 2, p) >> 8) / 2**24 for p in row.positions[0, 0].tolist()]
        ]

    check(RandomScore(11), evidence(), slow)


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize("aggregation", ["layer", "group"])
def test_random_of_each_head_and_each_compression(aggregation: Aggregation, redraw: bool) -> None:
    def slow(row: Evidence) -> list[list[float]]:
        assert row.rows is not None
        where = row.positions.expand(1, G, -1)[0].tolist()
        return reference.random_scores(11, int(row.rows[0]), 2, where, aggregation, redraw)

    check(RandomScore(11, aggregation, redraw), evidence(per_head=aggregation == "group"), slow)


def test_random_numbers_of_before_stay() -> None:
    """Recorded results rest on them."""
    positions = torch.tensor([0, 1, 2, 77]).view(1, 1, 4)
    given = Evidence(None, torch.zeros(1, G, 4, D), 1.0, None, positions, layer=3, rows=torch.tensor([6]))
    assert RandomScore(5).score(given).flatten().mul(2**24).long().tolist() == [489732, 7352323, 15009355, 10784455]


def test_random_of_heads_on_other_devices() -> None:
    given = evidence(per_head=True)
    whole = RandomScore(1, "group").score(given)
    second = dataclasses.replace(given, keys=given.keys[:, 1:], positions=given.positions[:, 1:], first_head=1)
    assert torch.equal(RandomScore(1, "group").score(second), whole[:, 1:])


def test_random_is_drawn_once_or_anew() -> None:
    """The same tokens at two compressions: the same numbers, or others that say nothing of the first."""
    early = Evidence(None, torch.zeros(1, 1, 4000, 1), 1.0, None, torch.arange(4000).view(1, 1, -1))
    late = Evidence(None, torch.zeros(1, 1, 5000, 1), 1.0, None, torch.arange(5000).view(1, 1, -1))
    assert torch.equal(RandomScore(1).score(early), RandomScore(1).score(late)[..., :4000])
    pair = [RandomScore(1, redraw=True).score(one)[..., :4000].flatten() for one in (early, late)]
    assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.07
    heads = RandomScore(1, "group").score(dataclasses.replace(early, keys=torch.zeros(1, 2, 4000, 1)))[0]
    assert abs(torch.corrcoef(heads)[0, 1]) < 0.07


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize(("protected", "kernel", "queries"), [(0.25, 5, 4), (0.0, 1, 12), (1.0, 3, 1), (0.5, 7, 5)])
def test_weighted_draw(aggregation: Aggregation, protected: float, kernel: int, queries: int) -> None:
    scorer = WeightedDraw(queries, 9, protected, kernel, aggregation)
    given = evidence(queries=queries, per_head=aggregation == "group")

    def slow(row: Evidence) -> list[list[float]]:
        assert row.values is not None
        assert row.keep is not None
        assert row.rows is not None
        q, k, where = lists(row)
        weights = reference.window_attention(q, k, row.candidates, SCALING, where, "avg", kernel, aggregation)
        values = row.values[0, :, : row.candidates].tolist()
        sure = int(int(row.keep[0]) * protected)
        return reference.weighted_draw(weights, values, where, sure, 9, int(row.rows[0]), 2, aggregation)

    check(scorer, given, slow, atol=1e-6)  # logarithms of what is right to 1e-7


def test_the_widest_values_stay_and_the_draw_follows_attention() -> None:
    """4,000 traces draw 1 of 4 tokens besides the widest: as often as attention says, within 4 standard errors."""
    n, weights = 4000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    keys = torch.zeros(n, 1, 6, 1)
    keys[:, 0, :4, 0] = weights.log()
    keys[:, 0, 4, 0] = -20.0  # nobody attends to the token with the widest value
    values = torch.zeros(n, 1, 6, 2)
    values[:, 0, 4] = torch.tensor([-3.0, 3.0])
    values[:, 0, 0] = 5.0  # large, and not wide
    given = Evidence(
        torch.ones(n, 1, 1, 1),
        keys,
        1.0,
        None,
        torch.arange(5).expand(n, 1, 5),
        values=values,
        keep=torch.full((n,), 2),
        rows=torch.arange(n),
    )
    kept = select(WeightedDraw(1, protected=0.5, kernel=1).score(given), 2)[:, 0]
    assert (kept[:, 1] == 4).all()
    share = torch.bincount(kept[:, 0], minlength=4) / n
    assert ((share - weights).abs() < 4 * (weights * (1 - weights) / n).sqrt()).all()


def test_weighted_draw_refuses_values_of_other_heads() -> None:
    """Latent attention caches something else beside its latents."""
    given = evidence()
    assert given.values is not None
    with pytest.raises(LaconicError, match="latent attention doesn't cache: use another, such as rpc"):
        WeightedDraw(4).score(dataclasses.replace(given, values=given.values[:, :1]))


def test_random_depends_on_seed_row_layer_and_position_and_is_spread_evenly() -> None:
    positions = torch.arange(4000).view(1, 1, -1)
    base = dataclasses.replace(evidence(), positions=positions, rows=torch.tensor([1]), layer=0)
    scores = RandomScore(0).score(base)
    assert 0 <= scores.min() < 0.01
    assert 0.99 < scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.02  # 4 standard errors
    for other in (
        RandomScore(1).score(base),
        RandomScore(0).score(dataclasses.replace(base, rows=torch.tensor([2]))),
        RandomScore(0).score(dataclasses.replace(base, layer=1)),
    ):
        assert abs(torch.corrcoef(torch.stack([scores.flatten(), other.flatten()]))[0, 1]) < 0.07
    none = RandomScore(0).score(dataclasses.replace(base, rows=None))
    assert torch.equal(none, RandomScore(0).score(dataclasses.replace(base, rows=torch.tensor([0]))))


def test_oracle_asks_its_function() -> None:
    def slow(row: Evidence) -> list[list[float]]:
        assert row.token_ids is not None
        return [[float(t in (3, 5)) for t in row.token_ids[0, 0].tolist()]]

    check(OracleScore(lambda ids: (ids == 3) | (ids == 5)), evidence(), slow)
    check(
        OracleScore(lambda ids: torch.where(ids == 0, torch.nan, (ids == 3) | (ids == 5))),
        dataclasses.replace(evidence(), token_ids=evidence().positions.clamp(min=1)),
        lambda row: [[float(t in (3, 5)) for t in row.positions[0, 0].tolist()]],
    )


@pytest.mark.parametrize("limit", [1, 100, 3000])
def test_blocks_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = evidence(queries=8)
    whole = [s.score(given) for s in (WindowAttention(8), NewestQuery(), Redundancy())]
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", limit)
    for before, scorer in zip(whole, (WindowAttention(8), NewestQuery(), Redundancy()), strict=True):
        torch.testing.assert_close(scorer.score(given), before, rtol=1e-5, atol=1e-7)


def test_bfloat16_is_scored_in_fp32() -> None:
    given = evidence(junk=0.0)
    assert given.queries is not None
    half = dataclasses.replace(given, queries=given.queries.bfloat16(), keys=given.keys.bfloat16())
    assert half.queries is not None
    again = dataclasses.replace(half, queries=half.queries.float(), keys=half.keys.float())
    assert torch.equal(WindowAttention(4).score(half), WindowAttention(4).score(again))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowAttention(queries=0), "queries is 0; expected a whole number of at least 1"),
        (lambda: WindowAttention(pooling="median"), "pooling is 'median'; expected one of avg, max"),  # type: ignore[arg-type]
        (lambda: WindowAttention(kernel=4), "kernel is 4; expected an odd width.*3 or 5"),
        (lambda: WindowAttention(kernel=0), "kernel is 0;"),
        (lambda: ShortKeys("head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: WindowAttention(aggregation="head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: Redundancy(lam=1.5), "lam is 1.5; expected a number from 0 to 1"),
        (lambda: Redundancy(threshold=-2), "threshold is -2; expected a number from -1 to 1"),
        (lambda: Redundancy(kernel=2), "kernel is 2;"),
        (lambda: Recency(-1), "sinks is -1;"),
        (lambda: RandomScore(-1), "seed is -1;"),
        (lambda: RandomScore(aggregation="head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: RandomScore(redraw=1), "redraw is 1;"),  # type: ignore[arg-type]
        (lambda: WeightedDraw(queries=0), "queries is 0; expected a whole number of at least 1"),
        (lambda: WeightedDraw(seed=-1), "seed is -1;"),
        (lambda: WeightedDraw(protected=1.5), "protected is 1.5; expected a number from 0 to 1"),
        (lambda: WeightedDraw(kernel=2), "kernel is 2;"),
        (lambda: WeightedDraw(aggregation="head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: WeightedDraw().score(dataclasses.replace(evidence(), values=None)), "values is missing"),
        (lambda: WeightedDraw().score(dataclasses.replace(evidence(), keep=None)), "keep is missing"),
        (lambda: FutureAttention("head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: FutureAttention().score(dataclasses.replace(evidence(), future=None)), "future is missing"),
        (lambda: OracleScore(3), "keep is 3; expected a function"),  # type: ignore[arg-type]
        (lambda: OracleScore(lambda ids: ids.sum()).score(evidence()), "keep returned \\(\\); expected a tensor"),
        (lambda: OracleScore(lambda ids: 1.0).score(evidence()), "keep returned float"),  # type: ignore[arg-type, return-value]
        (lambda: AccumulatedAttention().score(dataclasses.replace(evidence(), mass=None)), "mass is missing"),
        (lambda: WindowAttention().score(dataclasses.replace(evidence(), queries=None)), "queries is missing"),
        (lambda: NewestQuery().score(dataclasses.replace(evidence(), context_keys=None)), "context_keys is missing"),
        (
            lambda: OracleScore(lambda i: i).score(dataclasses.replace(evidence(), token_ids=None)),
            "token_ids is missing",
        ),
        (lambda: Recency().observe(torch.rand(1, 1, 1, 1), torch.rand(1, 1, 1, 1), None, 1.0), "Recency accumulates"),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        make()
