"""One pass over recorded traces under full KV in which somebody looks on, and what later tokens attend to, written down.

Shapes: n traces, K generated tokens of a trace; see `AttentionCall` and `AttentionMaxima`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic import checks
from laconic.compress.future import BLOCK, AttentionMaxima, even_starts, largest_attention
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.observing import AttentionCall, Observer
from laconic.engines.hf.scoring import FutureLookup

TraceMaxima = Mapping[int, AttentionMaxima]
"""By layer, of one trace."""


def observe_traces(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    observer: Observer,
    numbers: Sequence[int] | None = None,
) -> None:
    """Feed n traces to a model under full KV, all as rows of one batch; `observer` sees every attention call.

    Prompts go by unseen, except as keys and values of what attends later. tokens: generated ones. A trace that ends before the
    longest is filled up with its last token, which an observer has to leave out. Calls are for pieces of bounded size, the same
    tokens of every row. Raises InputError as `ForcedTraces`.
    """
    with AttentionBinding(model):
        observe(ForcedTraces(model, prompts, tokens, numbers), observer)


def observe(traces: ForcedTraces, observer: Observer) -> None:
    """Feed all that is left of the traces while `observer` looks on. The caller binds the model."""
    traces.cache.set_observer(observer)
    while traces.fed < traces.longest:
        traces.feed(traces.piece(traces.longest))


def record_future(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    block: int = BLOCK,
) -> list[dict[int, AttentionMaxima]]:
    """What each trace's tokens attend to under full KV: by layer, on the CPU. One pass of `observe_traces`.

    They take 2 bytes * KV heads * K * K / block a trace and layer. Raises InputError as `ForcedTraces`.
    """
    recorder = FutureRecorder([len(trace) for trace in tokens], even_starts(max(map(len, tokens), default=0), block))
    observe_traces(model, prompts, tokens, recorder)
    return recorder.maxima()


class QueryBlock(NamedTuple):
    """Some queries of one attention call, all of one block, and what they see; shapes as of `AttentionCall`."""

    low: int
    high: int
    """They are those of the generated tokens low to high - 1."""
    going: list[int]
    """Rows whose traces have not ended before `high`; what others hold there fills them up."""
    query: Tensor
    """[B, H, high - low, D]"""
    key: Tensor
    """[B, G, T, D]; the last `high` slots are the generated tokens up to the last query."""
    valid: Tensor | None
    """bool [B, T]"""


def query_blocks(call: AttentionCall, lengths: Sequence[int], starts: Sequence[int]) -> Iterator[QueryBlock]:
    """A call's queries in pieces of at most BLOCK, each of one block, or of a part where a pass begins, or a trace ends, in its
    middle. Nothing of a prompt. lengths: of the rows' traces, of which nothing has been evicted; starts: of the blocks."""
    q, T, end = call.query.shape[2], call.key.shape[2], call.generated[0]
    if not end:  # a prompt
        return
    cuts = {*range(end - q, end, BLOCK), *starts, *lengths, end}
    cuts = {cut for cut in cuts if end - q <= cut <= end}
    for low, high in pairwise(sorted(cuts)):
        going = [row for row, length in enumerate(lengths) if length >= high]
        if not going:
            return
        seen = T - (end - high)  # slots up to the last of these queries
        queries = call.query[:, :, q - (end - low) : q - (end - high)]
        valid = None if call.valid is None else call.valid[:, :seen]
        yield QueryBlock(low, high, going, queries, call.key[:, :, :seen], valid)


class FutureRecorder:
    """An `Observer` that keeps, by layer and trace, the largest attention of each block of queries to each generated token.

    lengths: K of each row, in the rows' order; nothing of them may be evicted. starts: of the blocks, as in `AttentionMaxima`:
    where only certain counts will be asked for, such as a schedule's compression points, fewer blocks take less memory.
    """

    def __init__(self, lengths: Sequence[int], starts: Sequence[int]) -> None:
        self.lengths = checks.wholes("lengths", lengths, 1, meaning="generated tokens")
        self.starts = tuple(checks.wholes("starts", starts, 0, meaning="first tokens of the blocks"))
        self._found: dict[int, list[Tensor]] = {}  # by layer, of each row: AttentionMaxima.maxima

    def __call__(self, call: AttentionCall) -> None:
        """See Observer."""
        if call.generated[0] and call.layer not in self._found:
            self._found[call.layer] = self._zeros(call.key.shape[1])
        for part in query_blocks(call, self.lengths, self.starts):
            largest = largest_attention(part.query, part.key, call.scaling, part.valid)
            largest = largest[:, :, -part.high :].to(torch.float16).cpu()  # generated tokens only
            block = bisect_right(self.starts, part.low) - 1
            for row in part.going:
                mine = self._found[call.layer][row][block, :, : part.high]
                torch.maximum(mine, largest[row], out=mine)

    def maxima(self) -> list[dict[int, AttentionMaxima]]:
        """What has been seen, by layer, of each row."""
        layers = {
            layer: [AttentionMaxima(t, self.starts[: len(t)]) for t in rows] for layer, rows in self._found.items()
        }
        return [{layer: rows[row] for layer, rows in layers.items()} for row in range(len(self.lengths))]

    def _zeros(self, heads: int) -> list[Tensor]:
        blocks = [bisect_left(self.starts, K) for K in self.lengths]
        return [torch.zeros(N, heads, K, dtype=torch.float16) for N, K in zip(blocks, self.lengths, strict=True)]


def future_lookup(recorded: Mapping[int, TraceMaxima]) -> FutureLookup:
    """For `CompressedCache.set_future_lookup`. recorded: by the traces' numbers, as `record_future` gives them."""

    def look_up(layer: int, numbers: list[int], generated: Sequence[int], positions: Tensor) -> Tensor:
        rows = []
        for number, count, at in zip(numbers, generated, positions, strict=True):
            maxima = recorded[number][layer]
            future = maxima.after(count).to(at.device)  # [G, K]
            # A trace that has ended is filled up to the longest: of what fills it nothing is known, and nobody asks.
            index = at.clamp(max=maxima.tokens - 1).expand(future.shape[0], -1)
            rows.append(future.gather(-1, index))
        return torch.stack(rows)

    return look_up
