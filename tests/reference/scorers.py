"""Scorers for one row, in loops over plain Python numbers.

Shapes of the nested lists: queries [H][S][D], keys [G][T][D], context [G][Pr][D]; query head h reads KV head
h // (H / G). Every function returns [g][M], g = 1 for aggregation "layer" and G for "group".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Vector = Sequence[float]
Heads = Sequence[Sequence[Vector]]
Scores = list[list[float]]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(logits: Sequence[float]) -> list[float]:
    """By hand; a slot at -inf gets 0, and where nothing is visible all get 0."""
    top = max(logits, default=-math.inf)
    if top == -math.inf:
        return [0.0 for _ in logits]
    powers = [math.exp(x - top) for x in logits]
    total = sum(powers)
    return [x / total for x in powers]


def over_heads(per_head: list[list[float]], G: int, aggregation: str) -> Scores:
    """Mean over all heads, or over each KV head's."""
    H, M = len(per_head), len(per_head[0])
    sets = [range(H)] if aggregation == "layer" else [range(g * H // G, (g + 1) * H // G) for g in range(G)]
    return [[sum(per_head[h][i] for h in heads) / len(heads) for i in range(M)] for heads in sets]


def head_attention(
    queries: Heads, keys: Heads, scaling: float, sees: Callable[[int, int], bool] = lambda s, i: True
) -> list[list[list[float]]]:
    """Probabilities [H][S][T]; sees(s, i): whether query s sees slot i."""
    H, G = len(queries), len(keys)
    out = []
    for h in range(H):
        head = keys[h // (H // G)]
        rows = []
        for s, q in enumerate(queries[h]):
            rows.append(softmax([dot(q, k) * scaling if sees(s, i) else -math.inf for i, k in enumerate(head)]))
        out.append(rows)
    return out


def summed(probabilities: list[list[list[float]]]) -> list[list[float]]:
    """Over the queries: [H][T]."""
    return [[sum(column) for column in zip(*rows, strict=True)] for rows in probabilities]


def pooled(scores: list[float], kernel: int, kind: str) -> list[float]:
    """Average (beyond the ends there are zeros) or maximum over kernel neighbours."""
    half, n, out = kernel // 2, len(scores), []
    for i in range(n):
        near = [scores[j] for j in range(i - half, i + half + 1) if 0 <= j < n]
        out.append(max(near) if kind == "max" else sum(near) / kernel)
    return out


def recent_attention(
    queries: Heads, keys: Heads, M: int, scaling: float, aggregation: str, positions: Sequence[Sequence[int]]
) -> Scores:
    """Attention of the queries to the first M keys alone; positions [G][M]. Later tokens are invisible to a query."""
    G, W, S, H = len(keys), len(keys[0]) - M, len(queries[0]), len(queries)
    per_head = []
    for h in range(H):
        where = positions[h // (H // G)]
        now = where[M - 1] + W  # the newest token's position: the window follows the last candidate
        group = [list(keys[h // (H // G)][:M])]

        def sees(s: int, i: int, where: Sequence[int] = where, now: int = now) -> bool:
            return where[i] <= now - (S - 1 - s)

        per_head += summed(head_attention([queries[h]], group, scaling, sees))
    return over_heads(per_head, G, aggregation)


def window_attention(
    queries: Heads,
    keys: Heads,
    M: int,
    scaling: float,
    positions: Sequence[Sequence[int]],
    pooling: str,
    kernel: int,
    aggregation: str,
) -> Scores:
    scores = recent_attention(queries, keys, M, scaling, aggregation, positions)
    return [pooled(row, kernel, pooling) for row in scores]


def observed(
    queries: Heads, keys: Heads, scaling: float, aggregation: str, mask: Sequence[Sequence[bool]] | None
) -> Scores:
    """H2O: attention that each slot is paid, summed over the queries. mask [q][T]; None: causal, last at last."""
    q, T = len(queries[0]), len(keys[0])

    def sees(s: int, i: int) -> bool:
        return mask[s][i] if mask is not None else i <= T - q + s

    return over_heads(summed(head_attention(queries, keys, scaling, sees)), len(keys), aggregation)


def newest_query(queries: Heads, context: Heads, keys: Heads, M: int, scaling: float, aggregation: str) -> Scores:
    """TOVA: the newest query over prompt, candidates and window; the candidates' share."""
    everything = [list(c) + list(k) for c, k in zip(context, keys, strict=True)]
    start = len(context[0])
    newest = [[head[-1]] for head in queries]
    per_head = summed(head_attention(newest, everything, scaling))
    return over_heads([row[start : start + M] for row in per_head], len(keys), aggregation)


def rounded(value: float, bits: int = 10) -> float:
    """To so many bits behind the first: what equal tokens have in common is equal however it was computed."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 2.0 ** (math.floor(math.log2(value)) + 1 - bits)
    return round(value / step) * step


def short_keys(keys: Heads, M: int, aggregation: str) -> Scores:
    """KNorm: minus the length of each candidate's key."""
    lengths = [[rounded(math.sqrt(dot(k, k))) for k in head[:M]] for head in keys]
    if aggregation == "layer":
        lengths = [[sum(column) / len(keys) for column in zip(*lengths, strict=True)]]
    return [[-length for length in head] for head in lengths]


def redundancy(
    queries: Heads,
    keys: Heads,
    M: int,
    scaling: float,
    positions: Sequence[Sequence[int]],
    lam: float,
    kernel: int,
    threshold: float,
    aggregation: str,
) -> Scores:
    """R-KV."""
    S = len(queries[0])
    attention = recent_attention(queries, keys, M, scaling, aggregation, positions)
    important = [pooled([x / S for x in row], kernel, "max") for row in attention]
    redundant = []
    for head in keys:
        T = len(head)
        size = [max(math.sqrt(dot(k, k)), 1e-8) for k in head]
        column = [0.0] * T
        for i in range(T):
            cos = [0.0 if i == j else dot(head[i], head[j]) / size[i] / size[j] for j in range(T)]
            copies = [j for j in range(T) if j != i and cos[j] > threshold]
            if copies:
                cos[copies[-1]] = 0.0
            for j in range(T):
                column[j] += cos[j]
        redundant.append(softmax([x / T for x in column[:M]]))
    if aggregation == "layer":
        redundant = [[sum(column) / len(keys) for column in zip(*redundant, strict=True)]]
    return [
        [lam * a - (1 - lam) * b for a, b in zip(x, y, strict=True)] for x, y in zip(important, redundant, strict=True)
    ]


def unrotated(key: Vector, position: int, frequencies: Sequence[float], halves: bool) -> list[float]:
    """A key before RoPE: each pair of its numbers is turned back by position x frequency; the rest stays."""
    out, R = list(key), len(frequencies)
    for i, frequency in enumerate(frequencies):
        a, b = (i, i + R) if halves else (2 * i, 2 * i + 1)
        cos, sin = math.cos(position * frequency), math.sin(position * frequency)
        out[a], out[b] = key[a] * cos + key[b] * sin, key[b] * cos - key[a] * sin
    return out


def features(
    names: Sequence[str], keys: Sequence[Vector], values: Sequence[Vector], undo: Callable[[Vector], Vector]
) -> list[float]:
    """Of one token: for each name, the numbers of each head in turn. keys, values: the token's, of each head that is read."""
    out: list[float] = []
    for name in names:
        for key, value in zip(keys, values, strict=True):
            sizes = [math.log(max(math.sqrt(dot(v, v)), 1e-6)) for v in (key, value)]
            out += undo(key) if name == "key" else value if name == "value" else sizes
    return out


def network(x: Sequence[float], weights: dict[str, Any]) -> float:
    """weight_out . relu(weight_in . (x - mean) * scale + bias_in) + bias_out; weight_in [F][N]."""
    x = [(a - m) * s for a, m, s in zip(x, weights["mean"], weights["scale"], strict=True)]
    score = weights["bias_out"]
    for n, (bias, out) in enumerate(zip(weights["bias_in"], weights["weight_out"], strict=True)):
        score += out * max(0.0, bias + sum(a * row[n] for a, row in zip(x, weights["weight_in"], strict=True)))
    return score


def learned(
    keys: Heads, values: Heads, M: int, at: Sequence[Sequence[int]], selector: Any, layer: int, per_head: bool
) -> Scores:
    """In steps of 1/256. at [G][M]: each candidate's position in the whole sequence, prompt included."""
    where, turn = selector.layers.index(layer), selector.rotation
    sets = [[g] for g in range(len(keys))] if per_head else [list(range(len(keys)))]
    scores: Scores = []
    for number, heads in enumerate(sets):
        weights = {name: tensor[where, number].tolist() for name, tensor in selector.weights.items()}
        row = []
        for i in range(M):

            def undo(key: Vector, position: int = at[heads[0]][i]) -> Vector:
                return key if turn is None else unrotated(key, position, turn.frequencies.tolist(), turn.halves)

            mine, theirs = [keys[g][i] for g in heads], [values[g][i] for g in heads]
            row.append(round(network(features(selector.features, mine, theirs, undo), weights) * 256) / 256)
        scores.append(row)
    return scores


def future_attention(future: Sequence[Sequence[float]], aggregation: str) -> Scores:
    """Hindsight: future [G][M]; layer: the largest of any head."""
    if aggregation == "group":
        return [list(row) for row in future]
    return [[max(column) for column in zip(*future, strict=True)]]


def recency(positions: Sequence[int], sinks: int) -> list[int]:
    """StreamingLLM: the order of keeping, as ranks (higher stays longer): sinks on top, then the later the better."""
    order = sorted(positions, key=lambda p: (p < sinks, -p if p < sinks else p))
    return [order.index(p) for p in positions]


def kvzap(state: Vector, parts: Sequence[Any]) -> list[float]:
    """KVzap's network of one layer on one hidden state, on a grid of 1/256: [G].

    parts: weight, bias; twice, with GELU between, or once.
    """

    def linear(weight: Any, bias: Any, x: Vector) -> list[float]:
        return [dot(w, x) + float(b) for w, b in zip(weight.tolist(), bias.tolist(), strict=True)]

    out = linear(parts[0], parts[1], state)
    if len(parts) == 4:
        hidden = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in out]
        out = linear(parts[2], parts[3], hidden)
    return [round(x * 256) / 256 for x in out]


def rotation_matrix(frequencies: Sequence[float], halves: bool, D: int, position: int) -> list[list[float]]:
    """[D][D], which turns a vector by RoPE."""
    R = len(frequencies)
    matrix = [[float(i == j) for j in range(D)] for i in range(D)]
    for i, frequency in enumerate(frequencies):
        a, b = (i, i + R) if halves else (2 * i, 2 * i + 1)
        cos, sin = math.cos(position * frequency), math.sin(position * frequency)
        matrix[a][a], matrix[a][b], matrix[b][a], matrix[b][b] = cos, -sin, sin, cos
    return matrix


def expected_attention(
    queries: Heads,
    keys: Heads,
    values: Heads,
    M: int,
    scaling: float,
    asked: Sequence[int],
    future: int,
    frequencies: Sequence[float],
    halves: bool,
    aggregation: str,
) -> Scores:
    """asked: the positions of the S queries, from the sequence's first token on. With matrices, and the covariance as one."""
    D = len(keys[0][0])

    def times(matrix: list[list[float]], x: Vector) -> list[float]:
        return [dot(row, x) for row in matrix]

    def transposed(matrix: list[list[float]]) -> list[list[float]]:
        return [list(column) for column in zip(*matrix, strict=True)]

    coming = [rotation_matrix(frequencies, halves, D, asked[-1] + 1 + n) for n in range(future)]
    turn = [[sum(m[i][j] for m in coming) / future for j in range(D)] for i in range(D)]
    per_head = []
    for h, rotated in enumerate(queries):
        # A rotation's transpose undoes it.
        back = [
            times(transposed(rotation_matrix(frequencies, halves, D, p)), q)
            for p, q in zip(asked, rotated, strict=True)
        ]
        mean = [sum(column) / len(back) for column in zip(*back, strict=True)]
        cov = [[sum((q[i] - mean[i]) * (q[j] - mean[j]) for q in back) / len(back) for j in range(D)] for i in range(D)]
        cov = transposed([times(turn, row) for row in transposed([times(turn, row) for row in transposed(cov)])])
        mean = times(turn, mean)
        head = keys[h // (len(queries) // len(keys))][:M]
        per_head.append(softmax([scaling * dot(mean, k) + scaling**2 * dot(k, times(cov, k)) / 2 for k in head]))
    groups = over_heads(per_head, len(keys), "group")
    scores = [
        [p * math.sqrt(dot(v, v)) for p, v in zip(row, head, strict=False)]
        for row, head in zip(groups, values, strict=True)
    ]
    return scores if aggregation == "group" else [[sum(c) / len(scores) for c in zip(*scores, strict=True)]]


def random_bits(seed: int, row: int, layer: int, position: int, *also: int) -> int:
    """A 32-bit hash chain over plain ints; `also` goes between layer and position."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B9) % 2**32
        x ^= x >> 16
        x = x * 0x85EBCA6B % 2**32
        x ^= x >> 13
        x = x * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    state = mix(seed % 2**32)
    for part in (row % 2**32, layer, *also, position % 2**32):
        state = mix(state ^ part)
    return state


def random_scores(
    seed: int, row: int, layer: int, positions: Sequence[Sequence[int]], aggregation: str, redraw: bool = False
) -> Scores:
    """positions [G][M]. redraw: the compression, told by the newest candidate's position, is part of the hash."""
    sets = [positions[0]] if aggregation == "layer" else positions
    out = []
    for g, where in enumerate(sets):
        also = [g] if aggregation == "group" else []
        also += [where[-1]] if redraw else []
        out.append([(random_bits(seed, row, layer, p, *also) >> 8) / 2**24 for p in where])
    return out


def weighted_draw(
    weights: Scores,
    values: Heads,
    positions: Sequence[Sequence[int]],
    sure: int,
    seed: int,
    row: int,
    layer: int,
    aggregation: str,
) -> Scores:
    """VaSE: the `sure` widest values get a million, the others log(weight) + Gumbel noise. values [G][M][D]."""
    widths = [[rounded(max(v) - min(v)) for v in head] for head in values]
    if aggregation == "layer":
        widths = [[sum(column) / len(widths) for column in zip(*widths, strict=True)]]
    out = []
    for g, (row_weights, row_widths) in enumerate(zip(weights, widths, strict=True)):
        widest = sorted(range(len(row_widths)), key=lambda i: (row_widths[i], i), reverse=True)[:sure]
        also = [g] if aggregation == "group" else []
        scores = []
        for i, weight in enumerate(row_weights):
            bits = random_bits(seed, row, layer, positions[g][i], *also, positions[g][-1])
            noise = -math.log(-math.log(((bits >> 9) + 0.5) / 2**23))
            scores.append(1e6 if i in widest else math.log(max(weight, 1e-30)) + noise)
        out.append(scores)
    return out
