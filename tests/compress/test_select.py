"""`select` against sorting in Python."""

from __future__ import annotations

import math
import random

import pytest
import torch

from laconic.compress.select import least, select
from laconic.errors import LaconicError


def slow(scores: list[float], keep: int, valid: list[bool]) -> list[int]:
    """Best first, ties to the later, NaN after every number; then in order."""
    real = [i for i, ok in enumerate(valid) if ok]
    real.sort(key=lambda i: (not math.isnan(scores[i]), 0.0 if math.isnan(scores[i]) else scores[i], i), reverse=True)
    return sorted(real[:keep])


def test_equals_sorting_in_python() -> None:
    draw = random.Random(0)
    odd = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38]
    for _ in range(400):
        B, g, M = draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 20)
        values = [
            [[draw.choice(odd) if draw.random() < 0.5 else draw.uniform(-2, 2) for _ in range(M)] for _ in range(g)]
            for _ in range(B)
        ]
        scores = torch.tensor(values, dtype=torch.float32)
        real = [draw.randint(1, M) for _ in range(B)]
        flags = [[i >= M - n for i in range(M)] for n in real]
        keep = [draw.randint(0, n) for n in real]
        out = select(scores, torch.tensor(keep), torch.tensor(flags))
        K = max(keep)
        assert out.shape == (B, g, K)
        assert out.dtype == torch.long
        for b in range(B):
            for h in range(g):
                want = slow(scores[b, h].tolist(), keep[b], flags[b])
                assert out[b, h].tolist() == [0] * (K - keep[b]) + want


def test_the_least_is_the_one_that_select_leaves_out() -> None:
    draw = random.Random(1)
    odd = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0, -1.0]
    for _ in range(300):
        B, g, M = draw.randint(1, 3), draw.randint(1, 3), draw.randint(1, 12)
        scores = torch.tensor([[[draw.choice(odd) for _ in range(M)] for _ in range(g)] for _ in range(B)])
        window = draw.randint(0, M - 1)  # the latest stay
        places = torch.tensor(
            [[draw.sample(range(M), M) for _ in range(g)] for _ in range(B)]
        )  # positions, in no order
        at = least(scores.gather(-1, places), places, places < M - window)
        found = places.gather(-1, at[..., None]).squeeze(-1)
        kept = select(scores[..., : M - window], M - window - 1)
        for b in range(B):
            for h in range(g):
                (gone,) = set(range(M - window)) - set(kept[b, h].tolist())
                assert found[b, h] == gone


def test_one_number_for_all_rows_and_no_junk() -> None:
    scores = torch.tensor([[[3.0, 1.0, 2.0, 5.0]], [[0.0, 9.0, 8.0, 7.0]]])
    assert select(scores, 2).tolist() == [[[0, 3]], [[1, 2]]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    scores = torch.tensor([[[0.5, 2.0, -1.0, 2.0]]], dtype=dtype)
    assert select(scores, 2).tolist() == [[[1, 3]]]


def test_ties_go_to_the_later_token() -> None:
    assert select(torch.zeros(1, 1, 1000), 3).tolist() == [[[997, 998, 999]]]
    assert select(torch.tensor([[[0.0, -0.0, 0.0, -1.0]]]), 2).tolist() == [[[1, 2]]]


def test_nan_is_last_of_the_candidates_but_before_junk() -> None:
    scores = torch.tensor([[[99.0, math.nan, -math.inf, 1.0]]])
    valid = torch.tensor([[False, True, True, True]])
    assert select(scores, 2, valid).tolist() == [[[2, 3]]]
    assert select(scores, 3, valid).tolist() == [[[1, 2, 3]]]


def test_keep_none_or_all() -> None:
    scores = torch.rand(2, 3, 5)
    assert select(scores, 0).shape == (2, 3, 0)
    assert select(scores, 5).tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2
    assert select(scores, torch.tensor([0, 0])).shape == (2, 3, 0)
    assert select(torch.rand(0, 1, 4), torch.zeros(0, dtype=torch.long)).shape == (0, 1, 0)


def test_non_contiguous_scores() -> None:
    scores = torch.rand(4, 6, 2).transpose(1, 2)
    assert torch.equal(select(scores, 3), select(scores.contiguous(), 3))


def test_large_row_is_exact() -> None:
    """Rank keys carry score and position in 64 bits: no candidate is lost at lengths that models reach."""
    scores = torch.rand(1, 1, 70_000, generator=torch.Generator().manual_seed(0))
    out = select(scores, 20_000)[0, 0]
    want = torch.sort(scores[0, 0].flip(0), descending=True, stable=True).indices[:20_000]
    assert torch.equal(out, (69_999 - want).sort().values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: select(s, 5), "keep is 5, of 4 candidates; expected at most that"),
        (lambda s: select(s, -1), "keep is -1; expected at least 0"),
        (
            lambda s: select(s, torch.tensor([1, 3]), torch.tensor([[True] * 4, [False] * 2 + [True] * 2])),
            "keep is 3 in row 1",
        ),
        (
            lambda s: select(s, 3, torch.tensor([[True] * 4, [False] * 2 + [True] * 2])),
            "keep is 3 in row 1, which has 2 candidates",
        ),
        (lambda s: select(s, torch.tensor([1, -1])), "keep is -1; expected at least 0"),
        (lambda s: select(s[0], 1), "expected \\[rows, groups, candidates\\]"),
        (lambda s: select(s, torch.tensor([1])), "keep has shape \\(1,\\)"),
        (lambda s: select(s, 1, torch.ones(2, 3, dtype=torch.bool)), "valid has shape \\(2, 3\\)"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        call(torch.rand(2, 1, 4))
