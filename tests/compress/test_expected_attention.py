"""Expected Attention: its scorer against matrices in loops and against draws, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from laconic.compress import Evidence, ExpectedAttention, ExpectedAttentionScore, Proportional, Rotation, parse
from laconic.compress.evidence import Aggregation
from laconic.errors import LaconicError
from tests.compress.test_scorers import REAL, SCALING, B, G, M, W, alone, check, evidence
from tests.reference import scorers

FREQUENCIES = torch.tensor([1.0, 0.3, 0.01])  # of heads of 8: two numbers are not rotated
STARTS = torch.tensor([7, 0, 100])


def given(queries: int, per_head: bool) -> Evidence:
    return dataclasses.replace(evidence(6, queries, per_head=per_head), starts=STARTS)


@pytest.mark.parametrize("aggregation", ["layer", "group"])
@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize(("queries", "future"), [(4, 9), (1, 1), (12, 3)])
def test_scores_are_those_of_matrices(aggregation: Aggregation, halves: bool, queries: int, future: int) -> None:
    scorer = ExpectedAttentionScore(Rotation(FREQUENCIES, halves), queries, future, aggregation)

    def slow(row: Evidence) -> list[list[float]]:
        assert row.queries is not None
        assert row.values is not None
        assert row.starts is not None
        newest = int(row.starts[0] + row.positions[0, 0, -1]) + W
        asked = range(newest - queries + 1, newest + 1)
        q, k, v = row.queries[0].tolist(), row.keys[0].tolist(), row.values[0].tolist()
        told = SCALING, asked, future, FREQUENCIES.tolist(), halves, aggregation
        return scorers.expected_attention(q, k, v, row.candidates, *told)

    check(scorer, given(queries, aggregation == "group"), slow, atol=1e-6)


def test_it_is_the_mean_over_drawn_queries() -> None:
    """Without rotation: 200,000 normal queries pay on average what is expected of them, up to one factor for all keys."""
    made = torch.Generator().manual_seed(1)
    keys = torch.randn(1, 1, 6, 4, generator=made)
    values = torch.ones(1, 1, 6, 1).expand(-1, -1, -1, 4)
    queries = torch.randn(1, 1, 16, 4, generator=made) + 0.5
    one = Evidence(queries, keys, 0.5, None, torch.arange(5).view(1, 1, 5), values=values, starts=torch.tensor([0]))
    scores = ExpectedAttentionScore(Rotation(torch.zeros(2)), 16, 4).score(one)[0, 0] / 2  # every value has length 2
    centred = queries[0, 0] - queries[0, 0].mean(0)
    spread = torch.linalg.cholesky(centred.T @ centred / 16)
    drawn = torch.randn(200_000, 4, generator=made) @ spread.T + queries[0, 0].mean(0)
    paid = (drawn @ keys[0, 0, :5].T * 0.5).exp().mean(0)
    torch.testing.assert_close(scores, paid / paid.sum(), rtol=0.03, atol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ExpectedAttentionScore(Rotation(FREQUENCIES), 4, 9)
    whole = scorer.score(given(4, True))
    monkeypatch.setattr("laconic.compress.attention.CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(scorer.score(given(4, True)), whole)
    assert whole.shape == (B, G, M)
    assert alone(given(4, True), 1).candidates == REAL[1]


def test_the_policy() -> None:
    policy = ExpectedAttention(interval=64, ratio=2, window=8, queries=16, future=9, aggregation="layer")
    assert policy.schedule == Proportional(64, 2, 8)
    assert policy.scorer == ExpectedAttentionScore(None, 16, 9, "layer")
    assert parse(policy.spec()) == policy
    assert policy.scorer.queries == 16
    assert policy.scorer.reads_values


class Model:
    """An engine's account of a model, of which only the rotation is asked."""

    def __getattr__(self, name: str) -> Any:
        assert name == "find_rotation"
        return lambda: Rotation(FREQUENCIES)


def test_it_is_fitted_to_a_model() -> None:
    policy = ExpectedAttention(queries=16)
    scorer = policy.for_model(Model()).scorer
    assert isinstance(scorer, ExpectedAttentionScore)
    assert scorer.rotation is not None
    assert torch.equal(scorer.rotation.frequencies, FREQUENCIES)
    assert scorer.queries == 16
    assert policy.scorer == ExpectedAttentionScore(None, 16)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ExpectedAttentionScore("x"), "rotation is 'x'; expected a Rotation"),  # type: ignore[arg-type]
        (lambda: ExpectedAttentionScore(queries=0), "queries is 0;"),
        (lambda: ExpectedAttentionScore(future=0), "future is 0;"),
        (lambda: ExpectedAttentionScore(aggregation="head"), "expected one of layer, group"),  # type: ignore[arg-type]
        (lambda: ExpectedAttentionScore().score(given(4, True)), "has not been given the model's rotation"),
        (
            lambda: ExpectedAttention(interval=64, queries=128),
            "reads the latest 128 queries, but the first compression",
        ),
        (
            lambda: ExpectedAttentionScore(Rotation(FREQUENCIES)).score(evidence()),
            "starts is missing; ExpectedAttentionScore can't score without it",
        ),
    ],
)
def test_refusals(make: Any, said: str) -> None:
    with pytest.raises(LaconicError, match=said):
        make()
