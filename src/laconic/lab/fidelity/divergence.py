"""How far policies move next-token distributions on recorded traces: full KV and all of them are fed the same tokens in step.

Shapes: n traces, q tokens a trace and pass, V vocabulary, K generated tokens of the longest trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laconic.compress import FullKV, Policy, Schedule
from laconic.engines.hf.attention import AttentionBinding
from laconic.engines.hf.forced import ForcedTraces
from laconic.engines.hf.recording import FutureRecorder, future_lookup, observe

LOGITS_BYTES = 200_000_000
"""Of full KV's logits and a policy's, which are held at once."""
SLICE_ELEMENTS = 1 << 21
"""Logits that are compared at once, in fp32: a handful of tensors of 8 MiB."""
BLOCK = 64
"""The most tokens of a trace that go through the model at once."""
STEPWISE = 8
"""A policy that compresses more often than every so many tokens is fed by itself; others all stop where one compresses."""


class Divergence(NamedTuple):
    """Entry i of a row is of the distribution that the trace's generated token i was drawn from. fp32 [n, K]."""

    kl: Tensor
    """KL(full KV || policy), in nats."""
    agreement: Tensor
    """1 where the likeliest token is the same, else 0."""
    change: Tensor
    """Of the log-likelihood of the trace's own token: the policy's minus full KV's."""


Watch = Callable[[int, int], None]
"""Told after each pass: which policy it was of (-1: full KV) and how many tokens of traces it fed."""


def compare(full: Tensor, likeliest: Tensor, other: Tensor, targets: Tensor) -> Divergence:
    """Entries [n, q] of each; in fp32, slice by slice.

    full, other: logits [n, q, V]; likeliest: long [n, q], full's; targets: long [n, q], the tokens that came next.
    """
    n, q, V = full.shape
    found = Divergence(*(torch.empty(n, q, dtype=torch.float32, device=full.device) for _ in range(3)))
    for part in _slices(n, q, V):
        ours, theirs = (logits[part].float().log_softmax(-1) for logits in (full, other))
        at, top = targets[part][..., None], likeliest[part][..., None]
        # Where the policy has several likeliest tokens, as half precision may, full KV's is one of them or it isn't.
        found.agreement[part] = (theirs.gather(-1, top).squeeze(-1) == theirs.amax(-1)).float()
        found.change[part] = (theirs.gather(-1, at) - ours.gather(-1, at)).squeeze(-1)
        probabilities = ours.exp()
        kl = (probabilities * (ours - theirs)).sum(-1)
        if kl.isnan().any():  # tokens that a model rules out: 0 x infinity counts as 0
            kl = torch.where(probabilities > 0, probabilities * (ours - theirs), 0.0).sum(-1)
        found.kl[part] = kl.clamp(min=0)  # below 0 by rounding alone
    return found


def likeliest_of(logits: Tensor) -> Tensor:
    """The likeliest token of each of [n, q, V], long [n, q]; slice by slice, as half precision is slow at it."""
    n, q, V = logits.shape
    found = torch.empty(n, q, dtype=torch.long, device=logits.device)
    for part in _slices(n, q, V):
        found[part] = logits[part].float().argmax(-1)
    return found


def _slices(n: int, q: int, V: int) -> Iterator[tuple[slice, slice]]:
    """Parts of [n, q] of at most SLICE_ELEMENTS logits each, or one token."""
    width = max(1, min(q, SLICE_ELEMENTS // V))
    rows = max(1, SLICE_ELEMENTS // (V * width))
    for top in range(0, n, rows):
        for left in range(0, q, width):
            yield slice(top, top + rows), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class FedPolicy:
    """A policy with the traces that are fed under it."""

    traces: ForcedTraces
    found: Divergence


def is_stepwise(schedule: Schedule, tokens: int) -> bool:
    """Whether a policy compresses so often over so many tokens that it is fed step by step, or nearly so."""
    points = schedule.compression_points(tokens)
    return len(points) > 1 and (points[-1] - points[0]) < STEPWISE * (len(points) - 1)


@torch.inference_mode()
def measure(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    policies: Sequence[Policy],
    numbers: Sequence[int],
    watch: Watch | None = None,
) -> list[Divergence]:
    """Of each policy (fitted to the model), for n traces as rows of one batch; entries beyond a trace's end mean nothing.

    The prompts are computed once. Then full KV and all policies are fed the same tokens, a few at a time, so that full KV's
    logits are computed once and no more than LOGITS_BYTES of logits exist. Raises InputError as `ForcedTraces`.
    """
    watch = watch or (lambda policy, fed: None)
    # One binding for all policies: it shows what any of them reads.
    reading = (policy for policy in policies if policy.scorer is not None and policy.scorer.reads_inputs)
    with AttentionBinding(model, next(reading, None)):
        rows = ForcedTraces(model, prompts, tokens, numbers)
        end = rows.longest - 1  # the last token is told by the one before it
        full = rows.under(FullKV())
        runs = [FedPolicy(rows.under(policy), _nothing_yet(rows)) for policy in policies]
        _tell_the_future(rows, policies, runs, watch)
        cuts = _cuts(policies, rows.longest)
        logits = rows.logits
        most = max(1, min(BLOCK, LOGITS_BYTES // (2 * logits.element_size() * logits.shape[1] * len(tokens))))
        while full.fed < end:
            start = full.fed
            stop = min(cut for cut in (*cuts, end) if cut > start)
            reference = full.feed_for_logits(full.piece(stop, most))
            likeliest = likeliest_of(reference)
            watch(-1, len(tokens) * (full.fed - start))
            for number, run in enumerate(runs):
                _follow(run, full, start, reference, likeliest)
                watch(number, len(tokens) * (full.fed - start))
        return [run.found for run in runs]


def _follow(run: FedPolicy, full: ForcedTraces, start: int, reference: Tensor, likeliest: Tensor) -> None:
    """Feed what full KV has been fed since `start`, and compare with full KV's logits after each of those tokens."""
    traces = run.traces
    targets = traces.tokens.to(reference.device)
    while traces.fed < full.fed:
        begin = traces.fed
        logits = traces.feed_for_logits(traces.piece(full.fed, full.fed - begin))
        here = slice(begin - start, traces.fed - start)
        ahead = slice(begin + 1, traces.fed + 1)  # the logits after a token are of the one that comes next
        new = compare(reference[:, here], likeliest[:, here], logits, targets[:, ahead])
        for whole, part in zip(run.found, new, strict=True):
            whole[:, ahead] = part


def _nothing_yet(rows: ForcedTraces) -> Divergence:
    """The first token is drawn from the prompt's logits, which are the same under every policy."""
    kl, agreement, change = (torch.zeros(len(rows.lengths), rows.longest, device=rows.runner.device) for _ in range(3))
    agreement[:, 0] = 1.0
    return Divergence(kl, agreement, change)


def _cuts(policies: Sequence[Policy], tokens: int) -> list[int]:
    """Where any policy compresses, but for those that do so all the time. So passes are of the same shapes for all of them:
    kernels for other shapes may round otherwise."""
    often = [policy.schedule for policy in policies if not is_stepwise(policy.schedule, tokens)]
    return sorted({point for schedule in often for point in schedule.compression_points(tokens)})


def _tell_the_future(rows: ForcedTraces, policies: Sequence[Policy], runs: Sequence[FedPolicy], watch: Watch) -> None:
    """Let policies that read it know what later tokens will attend to, which takes a pass of its own."""
    asking = [i for i, policy in enumerate(policies) if policy.scorer is not None and policy.scorer.reads_future]
    if not asking:
        return
    watch(-1, 0)
    points = {point for i in asking for point in policies[i].schedule.compression_points(rows.longest)}
    recorder = FutureRecorder(rows.lengths, sorted({0, *points}))
    observe(rows.under(FullKV()), recorder)
    lookup = future_lookup(dict(zip(rows.numbers, recorder.maxima(), strict=True)))
    for i in asking:
        runs[i].traces.cache.set_future_lookup(lookup)
