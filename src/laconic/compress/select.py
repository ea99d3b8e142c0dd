"""Which candidates stay, given their scores: one function for every engine and policy."""

from __future__ import annotations

import torch
from torch import Tensor

from laconic import checks
from laconic.errors import InputError


def select(scores: Tensor, keep: int | Tensor, valid: Tensor | None = None, *, check: bool = True) -> Tensor:
    """Indices of the best-scored candidates, in ascending (chronological) order.

    scores: [B, g, M], any float dtype; compared as fp32. keep: how many stay, one number or a long [B] (a CPU tensor
    spares the device a synchronisation). valid: bool [B, M], False where a row has no candidate; None: all are real.
    Returns long [B, g, K], K = the largest keep. A row that keeps fewer is right-aligned; its leading entries are 0
    and mean nothing.

    Deterministic on every device: of equal scores the LATER token stays (+0 equals -0); NaN ranks below every number,
    -inf included, but above a slot that holds no candidate. `check=False` skips the test that keep doesn't exceed a
    row's valid candidates, for a caller whose counts come from the schedule (the test waits for the device).

    Raises InputError for wrong shapes, a negative keep, or more to keep than there are candidates.
    """
    checks.instance("scores", scores, Tensor, "a tensor [rows, groups, candidates]")
    if scores.dim() != 3:
        raise InputError(f"scores have shape {tuple(scores.shape)}; expected [rows, groups, candidates]")
    B, g, M = scores.shape
    if valid is not None and (not isinstance(valid, Tensor) or valid.dtype != torch.bool):
        raise checks.input_error("valid", valid, f"a tensor of bools, {(B, M)}, one flag a row and candidate")
    if valid is not None and tuple(valid.shape) != (B, M):
        raise InputError(f"valid has shape {tuple(valid.shape)}; expected {(B, M)}, one flag a row and candidate")
    if isinstance(keep, Tensor) and (keep.is_floating_point() or keep.dtype == torch.bool):
        raise InputError(f"keep is of {keep.dtype}; expected whole numbers, one count a row")
    if not isinstance(keep, Tensor):
        keep = checks.whole("keep", keep, -checks.MOST)  # below 0 is refused with the other counts
    if isinstance(keep, Tensor) and tuple(keep.shape) != (B,):
        raise InputError(f"keep has shape {tuple(keep.shape)}; expected {(B,)}, one count a row")
    K = int(keep.max()) if isinstance(keep, Tensor) and B else 0 if isinstance(keep, Tensor) else keep
    if check:
        _check_counts(keep, valid, B, M)
    if K == 0 or B == 0:
        return torch.zeros(B, g, K, dtype=torch.long, device=scores.device)

    best = rank_keys(scores, valid).topk(K, dim=-1).indices
    if isinstance(keep, Tensor):
        spare = torch.arange(K, device=scores.device) >= keep.to(scores.device).view(B, 1, 1)
        best = best.masked_fill(spare, -1)
    return best.sort(dim=-1).values.clamp_(min=0)


def least(scores: Tensor, positions: Tensor, may_go: Tensor) -> Tensor:
    """Index of the one candidate that `select` would leave out if all but one were kept. Candidates may be in any order.

    scores: [B, g, M], any float dtype; positions: long [B, 1 or g, M], of the tokens, by which equal scores are told apart: the
    earlier goes. may_go: bool, as positions; False: stays, whatever its score; one of each row at least may go. Returns long
    [B, g].
    """
    key = _in_order(scores) * (1 << 31) + positions
    return key.masked_fill(~may_go, torch.iinfo(torch.int64).max).argmin(-1)


def rounded(scores: Tensor, bits: int = 10) -> Tensor:
    """Scores with `bits` bits behind the first: fp32.

    What equal tokens have in common (in the first layer keys before RoPE, their norms and values) comes out a little otherwise
    in a batch of another size, or when a trace is computed again in other pieces. Without rounding that would say which of
    them stay; with it the later do, everywhere (`rank_keys`).
    """
    mantissa, exponent = scores.float().frexp()
    return torch.ldexp((mantissa * 2**bits).round(), exponent - bits)


def rank_keys(scores: Tensor, valid: Tensor | None) -> Tensor:
    """A distinct int64 for each candidate of a row that orders them: validity, then NaN, then score, then lateness.

    Distinct keys make `topk` deterministic, so no stable sort of all candidates is needed.
    """
    M = scores.shape[-1]
    order = _in_order(scores)
    if valid is not None:
        order = order.masked_fill(~valid.unsqueeze(1), -(2**31) - 1)
    return order * M + torch.arange(M, device=scores.device)


def _in_order(scores: Tensor) -> Tensor:
    """int64 of 32 bits that order as the scores do in fp32; NaN before all numbers."""
    score = scores.to(torch.float32)
    bits = score.contiguous().view(torch.int32).to(torch.int64)
    # IEEE floats order like sign-magnitude integers: mirror the negative half; -0 and +0 both become 0.
    order = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return order.masked_fill(score.isnan(), -(2**31))


def _check_counts(keep: int | Tensor, valid: Tensor | None, B: int, M: int) -> None:
    if isinstance(keep, int) and valid is None:  # no tensor to wait for
        if keep > M and B:
            raise InputError(f"keep is {keep}, of {M} candidates; expected at most that")
        if keep < 0:
            raise InputError(f"keep is {keep}; expected at least 0")
        return
    least = int(keep.min()) if isinstance(keep, Tensor) and B else 0 if isinstance(keep, Tensor) else keep
    if least < 0:
        raise InputError(f"keep is {least}; expected at least 0")
    have = torch.tensor([M] * B) if valid is None else valid.sum(dim=-1)
    want = keep.to(have.device) if isinstance(keep, Tensor) else torch.full_like(have, keep)
    over = (want > have).nonzero()
    if len(over):
        row = int(over[0])
        raise InputError(
            f"keep is {int(want[row])} in row {row}, which has {int(have[row])} candidates; expected at most that"
        )
