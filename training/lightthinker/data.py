"""Traces split at thoughts, and what each of their tokens may see.

A thought of the bundled reasoner ends with the sentence that says which step comes next (`then h h>n .`), once it has at least
`shortest` tokens: the draft, a step with all that was muttered over it, a check. After it come the splitter, the cache tokens
and the continue token. What follows the last such sentence, the answer, is not split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laconic.compress.thoughts import ThoughtTokens
from training.reasoner.data import KEYED_WEIGHT, WEIGHTS, Mixture, training_trace
from training.reasoner.traces import Habits, Trace
from training.reasoner.vocabulary import IDS, PARTS

END_OF_SENTENCE = IDS["."]
SPLITTER_WEIGHT = KEYED_WEIGHT


@dataclass(frozen=True, slots=True)
class SplitTrace:
    """A trace with its thoughts split: ids, and the weight of each in the loss."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Padded on the right. ids: long [B, L]; weights: [B, L]; visible: bool [B, L, L], query before key."""

    ids: Tensor
    weights: Tensor
    visible: Tensor


def ends_of_thoughts(ids: Sequence[int], start: int, shortest: int) -> list[int]:
    """Where thoughts end, as indices behind their last token; start: of the first generated token."""
    ends, begin = [], start
    for i in range(start + 1, len(ids)):
        after_arrow = ids[i] == END_OF_SENTENCE and PARTS[ids[i - 1]].kind == ">"
        if after_arrow and i + 1 - begin >= shortest:
            ends.append(i + 1)
            begin = i + 1
    return ends


def split_trace(trace: Trace, tokens: ThoughtTokens, shortest: int) -> SplitTrace:
    """The trace with splitter, cache and continue tokens after each thought; the last two have no weight in the loss."""
    ids: list[int] = []
    weights: list[float] = []
    begin = 0
    for end in (*ends_of_thoughts(trace.ids, trace.prompt_length, shortest), len(trace.ids)):
        ids += trace.ids[begin:end]
        weights += [WEIGHTS.get(tag, KEYED_WEIGHT) for tag in trace.tags[begin:end]]
        if end < len(trace.ids):
            ids += [tokens.splitter, *tokens.fed]
            weights += [SPLITTER_WEIGHT, *[0.0] * len(tokens.fed)]
        begin = end
    return SplitTrace(tuple(ids), tuple(weights), trace.prompt_length)


def visible(ids: Sequence[int], prompt: int, tokens: ThoughtTokens, width: int | None = None) -> Tensor:
    """bool [width, width], query before key: causal, and what comes after a cache block does not see that block's thought and
    splitter. It sees the prompt, the cache blocks and the continue tokens. Rows beyond the trace's end see as its last token.

    prompt: its length; splitters in there mean nothing. width: None is the trace's length.
    """
    width = len(ids) if width is None else width
    seen = torch.ones(width, width, dtype=torch.bool).tril_()
    begin = i = prompt
    while i < len(ids):
        if ids[i] == tokens.splitter:
            seen[i + 1 + len(tokens.cache) :, begin : i + 1] = False
            i += len(tokens.fed)
            begin = i + 1
        i += 1
    seen[len(ids) :, len(ids) :] = False
    return seen


def batch(traces: Sequence[SplitTrace], tokens: ThoughtTokens) -> MaskedBatch:
    """Traces as the rows of one batch."""
    width = max(len(trace.ids) for trace in traces)
    ids = torch.zeros(len(traces), width, dtype=torch.long)
    weights = torch.zeros(len(traces), width)
    for row, trace in enumerate(traces):
        ids[row, : len(trace.ids)] = torch.tensor(trace.ids)
        weights[row, : len(trace.ids)] = torch.tensor(trace.weights)
    masks = [visible(trace.ids, trace.prompt_length, tokens, width) for trace in traces]
    return MaskedBatch(ids, weights, torch.stack(masks))


def chunk(
    seed: int,
    index: int,
    mixture: Mixture,
    habits: Habits,
    tokens: ThoughtTokens,
    *,
    size: int,
    longest: int,
    most: int,
    shortest: int,
) -> list[list[SplitTrace]]:
    """The batches of one chunk of `size` traces, in order: a function of its arguments. Those of like length stand together.

    longest: tokens of a trace; longer ones are left out. most: tokens of a batch, padding included. shortest: of a thought.
    """
    rng = random.Random(f"laconic.lightthinker/{seed}/{index}")
    drawn = [split_trace(training_trace(rng, mixture, habits), tokens, shortest) for _ in range(size)]
    fitting = sorted((trace for trace in drawn if len(trace.ids) <= longest), key=lambda trace: len(trace.ids))
    batches: list[list[SplitTrace]] = []
    for trace in fitting:
        if batches and (len(batches[-1]) + 1) * len(trace.ids) <= most:
            batches[-1].append(trace)
        else:
            batches.append([trace])
    rng.shuffle(batches)
    return batches
