"""How much memory a run will take, before it: a model's sizes times what a policy's schedule holds. Arithmetic only."""

from __future__ import annotations

import dataclasses
import os
import warnings
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from laconic.checks import input_error, instance, whole
from laconic.compress import Policy, parse
from laconic.compress.schedule import Schedule
from laconic.engines.hf.checkpoint import WeightsSize
from laconic.engines.hf.sizes import DTYPES, LayerGroup, ModelSizes, sizes_of, total_bytes
from laconic.errors import InputError, LaconicWarning


@dataclass(frozen=True, slots=True)
class PolicyMemory:
    """What a batch takes under one policy. Bytes are of the whole batch, tokens of one trace in one compressible layer."""

    policy: str
    """Its spec."""
    end_tokens: int
    """Held when the last token is drawn."""
    peak_tokens: int
    """Held at most."""
    mean_tokens: float
    """Held on average over the steps."""
    end: int
    """Bytes of KV over all layers, when the last token is drawn."""
    peak: int
    """Bytes of KV over all layers, at most."""
    mean: float
    """Bytes of KV over all layers, on average over the steps."""
    compressed_end: int
    """The part of `end` in compressible layers, which `EngineStats.live_kv_bytes` counts."""
    compressed_peak: int
    """The part of `peak` in compressible layers, which `EngineStats.peak_kv_bytes` counts."""
    scoring: int
    """Bytes of latest queries and accumulated attention, which the HF engine keeps for the policy."""
    a_trace: int
    """Peak and scoring of one trace, in bytes."""
    fits: int | None
    """Traces for which memory is left beside the weights; None where no memory was given."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`plan`'s result."""

    model: str
    dtype: str
    """Of keys and values."""
    weights: WeightsSize
    layers: tuple[LayerGroup, ...]
    context: int | None
    """Tokens that the model was made for; None: unknown."""
    prompt: int
    """Tokens of a trace's prompt."""
    length: int
    """Tokens that a trace generates."""
    batch: int
    """Traces."""
    block_size: int
    """A trace takes whole blocks of so many tokens in every layer."""
    memory: int | None
    """Bytes; None: not given."""
    policies: tuple[PolicyMemory, ...]

    @property
    def bytes_per_token(self) -> int:
        """Of KV of one trace over all layers, while no window is full."""
        return sum(group.bytes_per_token for group in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; bytes as whole numbers."""
        return dataclasses.asdict(self) | {"bytes_per_token": self.bytes_per_token}


def plan(
    model: str | os.PathLike[str] | PretrainedConfig,
    policies: Policy | str | Iterable[Policy | str] = ("full", "rpc"),
    *,
    prompt: int = 128,
    length: int = 32768,
    batch: int = 1,
    dtype: str = "auto",
    memory: int | None = None,
    block_size: int = 1,
) -> MemoryPlan:
    """Bytes of weights and of KV that a run takes; no weights are loaded.

    model: a directory, a name on the Hub, a config.json, or a config. policies: or their specs. prompt, length: tokens of
    the prompt and generated ones of each trace; the newest token's KV is never computed. batch: traces that run at once,
    each with a copy of the prompt. dtype: of the KV (`sizes_of`). memory: bytes for weights and KV. block_size: a trace
    takes whole blocks of so many tokens in every layer, as in vLLM (16 there).

    Not counted: activations, what the allocator and the CUDA context keep, buffers that are larger than what is held.
    A LaconicWarning tells where the model's context is shorter. Raises InputError for arguments out of range, an unknown
    policy, one that would find nothing to compress, and as `sizes_of`.
    """
    prompt = whole("prompt", prompt, 1, meaning="tokens")
    length = whole("length", length, 1, meaning="generated tokens")
    batch = whole("batch", batch, 1, meaning="traces")
    block_size = whole("block_size", block_size, 1, meaning="tokens")
    if memory is not None:
        memory = whole("memory", memory, 1, meaning="bytes")
    asked = [policies] if isinstance(policies, (Policy, str)) else policies
    if not isinstance(asked, Iterable) or not (asked := list(asked)):
        raise input_error("policies", policies, "at least one policy, or its spec")
    for number, policy in enumerate(asked):
        instance(f"policies[{number}]", policy, (Policy, str), "a policy, or its spec")
    chosen = [policy if isinstance(policy, Policy) else parse(policy) for policy in asked]
    sizes = sizes_of(model, dtype)
    if sizes.context is not None and prompt + length > sizes.context:
        warnings.warn(
            f"{prompt} + {length} tokens are more than the context of {sizes.model}, {sizes.context}: traces would end there",
            LaconicWarning,
            stacklevel=2,
        )
    return MemoryPlan(
        model=sizes.model,
        dtype=sizes.dtype,
        weights=sizes.weights,
        layers=sizes.layers,
        context=sizes.context,
        prompt=prompt,
        length=length,
        batch=batch,
        block_size=block_size,
        memory=memory,
        policies=tuple(_plan_policy(sizes, policy, prompt, length - 1, batch, memory, block_size) for policy in chosen),
    )


def _plan_policy(
    sizes: ModelSizes, policy: Policy, prompt: int, computed: int, batch: int, memory: int | None, block: int
) -> PolicyMemory:
    """computed: generated tokens whose KV is computed."""
    schedule, evicting = policy.schedule, sizes.compressible
    if not evicting and schedule.next_boundary(0) is not None:
        kinds = ", ".join(group.kind for group in sizes.layers)
        raise InputError(f"{sizes.model} has no layer that {policy.name} could compress ({kinds}); plan with full")
    fixed = [group for group in sizes.layers if not group.compressible]
    per_token = sum(group.bytes_per_token for group in evicting)
    state = sum(group.state_bytes for group in evicting)
    end_tokens, peak_tokens = schedule.physical(computed, prompt), schedule.peak(computed, prompt)
    mean_tokens = schedule.mean(computed, prompt)

    def held(tokens: int) -> int:
        return _whole_blocks(tokens, block) * per_token

    def at(tokens: int) -> int:
        return state + total_bytes([_in_blocks(group, block) for group in fixed], _whole_blocks(tokens, block))

    peak = _peak(schedule, computed, prompt, held, at)
    scoring = _scoring(sizes, policy, peak_tokens)
    a_trace = peak + scoring
    return PolicyMemory(
        policy=policy.spec(),
        end_tokens=end_tokens,
        peak_tokens=peak_tokens,
        mean_tokens=mean_tokens,
        end=batch * (held(end_tokens) + at(prompt + computed)),
        peak=batch * peak,
        mean=batch * (mean_tokens * per_token + state + sum(_mean(group, prompt, computed) for group in fixed)),
        compressed_end=batch * held(end_tokens),
        compressed_peak=batch * held(peak_tokens),
        scoring=batch * scoring,
        a_trace=a_trace,
        fits=None if memory is None else max(0, memory - sizes.weights.bytes) // a_trace,
    )


def _peak(schedule: Schedule, computed: int, prompt: int, held: Any, at: Any) -> int:
    """The most bytes of one trace at any step: layers left alone only grow, and what a compression first holds rarely shrinks,
    so the last compression's step or the last step has the most."""
    times, rounds = [computed], schedule.rounds(computed)
    if rounds:
        times.append(bisect_left(range(computed + 1), rounds, key=schedule.rounds))
    before = {t: prompt + t - (schedule.evicted(t - 1) if t else 0) for t in times}
    most = schedule.peak(computed, prompt)
    if most > max(before.values()):  # a schedule of somebody's own: what its layers can't exceed
        return int(held(most) + at(prompt + computed))
    return int(max(held(tokens) + at(prompt + t) for t, tokens in before.items()))


def _scoring(sizes: ModelSizes, policy: Policy, peak_tokens: int) -> int:
    """Of one trace and all layers, as the HF engine keeps it: queries [H, S, D], and fp32 [g, tokens]: accumulated attention,
    or what a score made of a token when it was written."""
    scorer = policy.scorer
    if scorer is None:
        return 0
    item = max(2, DTYPES[sizes.dtype])
    total = 0
    for group in sizes.compressible:
        total += group.count * scorer.queries * sizes.query_heads * group.query_width * item
        if scorer.accumulates or scorer.reads_inputs:
            own = scorer.reads_inputs or scorer.aggregation == "group"
            total += group.count * peak_tokens * 4 * (group.kv_heads if own else 1)
    return total


def _mean(group: LayerGroup, prompt: int, computed: int) -> float:
    """Bytes of one trace in layers that are left alone, on average over the steps that attend."""
    if not computed:
        return group.bytes_at(prompt)
    below = computed if group.window is None else min(max(group.window - prompt, 0), computed)
    tokens = below * prompt + below * (below + 1) // 2 + (computed - below) * (group.window or 0)
    return tokens / computed * group.bytes_per_token + group.state_bytes


def _whole_blocks(tokens: int, block: int) -> int:
    """Tokens of the whole blocks that so many take."""
    return -(-tokens // block) * block


def _in_blocks(group: LayerGroup, block: int) -> LayerGroup:
    return group if group.window is None else dataclasses.replace(group, window=_whole_blocks(group.window, block))
