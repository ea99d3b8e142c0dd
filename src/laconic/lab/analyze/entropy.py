"""How much a trace repeats itself, by its n-grams: Shannon entropy of token ids, as RPC's paper measures semantic
sparsity.

(arXiv 2505.13866, section 2: H_n = -sum p log2 p over the n-grams of a generation's token ids.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from laconic import checks

ORDERS = (1, 2, 3)
LENGTHS = (1024, 2048, 4096, 8192)
SHORT_LENGTHS = (64, 128, 256, 512)


def ngram_entropy(token_ids: Sequence[int], n: int) -> float:
    """Entropy in bits of the n-grams of a sequence, all of them, overlapping; 0 where there is none.

    Raises InputError for n < 1.
    """
    n = checks.whole("n", n, 1, meaning="of n-grams")
    checks.instance("token_ids", token_ids, Sequence, "a sequence of token ids")
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

    Raises InputError for a length below 1 or an order below 1.
    """
    lengths = checks.wholes("lengths", lengths, 1, meaning="tokens")
    orders = checks.wholes("orders", orders, 1, meaning="n of n-grams")
    traces = checks.instances("traces", traces, object, "the token ids of a trace")
    for trace in traces:
        checks.instance("a trace", trace, Sequence, "a sequence of token ids")
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
