"""How much a trace repeats itself, by its n-grams: Shannon entropy of token ids, as RPC's paper measures semantic
sparsity.

(arXiv 2505.13866, section 2: H_n = -sum p log2 p over the n-grams of a generation's token ids.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from laconic.errors import LaconicError

ORDERS = (1, 2, 3)
LENGTHS = (1024, 2048, 4096, 8192)
SHORT_LENGTHS = (64, 128, 256, 512)


def ngram_entropy(token_ids: Sequence[int], n: int) -> float:
    """Entropy in bits of the n-grams of a sequence, all of them, overlapping; 0 where there is none.

    Raises LaconicError for n < 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise LaconicError(f"n is {n!r}; expected a whole number of at least 1 for n-grams.")
    counts = Counter(zip(*(token_ids[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    # log2(total) - mean log2(count) is -sum p log2 p with one division.
    return math.log2(total) - sum(c * math.log2(c) for c in counts.values()) / total if total else 0.0


@dataclass(frozen=True)
class EntropyPoint:
    """Mean entropy at one length. traces: how many were that long. bits: n -> mean over them, in bits.

    bound: n -> the most it could be at this length, log2 of the number of n-grams. least, most: n -> over traces.
    """

    length: int
    traces: int
    bits: dict[int, float]
    least: dict[int, float]
    most: dict[int, float]
    bound: dict[int, float]


def entropy_by_length(
    traces: Sequence[Sequence[int]], lengths: Sequence[int] = LENGTHS, orders: Sequence[int] = ORDERS
) -> list[EntropyPoint]:
    """Entropy of the first `length` tokens of each trace that has as many, averaged over those traces.

    Entropy grows with length, so traces are only compared at equal ones; a length that no trace reaches is left out.

    Raises LaconicError for a length below 1 or an order below 1.
    """
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise LaconicError(f"A length is {length!r}; expected whole numbers of at least 1 token.")
    points = []
    for length in sorted(set(lengths)):
        long_enough = [trace[:length] for trace in traces if len(trace) >= length]
        if not long_enough:
            continue
        found = {n: [ngram_entropy(trace, n) for trace in long_enough] for n in orders}
        points.append(
            EntropyPoint(
                length=length,
                traces=len(long_enough),
                bits={n: math.fsum(values) / len(values) for n, values in found.items()},
                least={n: min(values) for n, values in found.items()},
                most={n: max(values) for n, values in found.items()},
                bound={n: math.log2(length - n + 1) if length >= n else 0.0 for n in orders},
            )
        )
    return points


def default_lengths(traces: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The published lengths; shorter ones where no trace reaches the first of those."""
    longest = max((len(trace) for trace in traces), default=0)
    return LENGTHS if longest >= LENGTHS[0] else SHORT_LENGTHS
