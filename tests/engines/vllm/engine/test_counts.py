"""What traces hold by arithmetic, against adding it up step by step. Needs no vLLM."""

from __future__ import annotations

import pytest

from laconic.compress import RPC, FullKV, Policy, StreamingLLM
from laconic.engines.vllm.engine.counts import Counts

POLICIES = [FullKV(), RPC(interval=16, ratio=4, window=8), StreamingLLM(budget=24, buffer=4, sinks=4)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
def test_traces_together_hold_what_each_holds(policy: Policy) -> None:
    schedule = policy.schedule
    counts = Counts(schedule, bytes_per_token=10)
    prompts, lengths = [5, 9, 3], [70, 41, 90]
    held = [counts.enter(prompt, 0) for prompt in prompts]
    attended, peak = 0, sum(prompts)
    for step in range(1, 91):
        for one, prompt, length in zip(held, prompts, lengths, strict=True):
            if step == length + 1:
                counts.leave(one)
            elif step <= length:
                counts.step(one)
                attended += schedule.physical(step - 1, prompt) + 1
        rows = [(p, step) for p, n in zip(prompts, lengths, strict=True) if step <= n]
        assert counts.stats.live_kv_tokens == sum(schedule.physical(n, p) for p, n in rows)
        assert counts.stats.live_kv_bytes == 10 * counts.stats.live_kv_tokens
        peak = max(peak, sum(schedule.physical(n - 1, p) + 1 for p, n in rows))
    stats = counts.stats
    assert stats.kv_token_steps == attended
    assert peak <= stats.peak_kv_tokens <= peak + 3  # rows are noted one after another
    assert stats.peak_kv_bytes == 10 * stats.peak_kv_tokens
    assert stats.evicted == sum(schedule.evicted(n) for n in lengths)
    assert stats.compressions == sum(schedule.rounds(n) for n in lengths)
    if policy.name == "full":
        assert stats.compressions == 0
    else:
        assert stats.kept == sum(
            schedule.kept(r) + schedule.window for n in lengths for r in range(1, schedule.rounds(n) + 1)
        )


def test_what_evicts_nothing_is_no_compression() -> None:
    counts = Counts(RPC(interval=16, ratio=1, window=8).schedule, bytes_per_token=1)
    one = counts.enter(5, 0)
    for _ in range(90):
        counts.step(one)
    assert (counts.stats.compressions, counts.stats.evicted, counts.stats.kept) == (0, 0, 0)


def test_a_trace_that_is_rebuilt_compresses_again() -> None:
    policy = RPC(interval=16, ratio=4, window=8)
    counts = Counts(policy.schedule, bytes_per_token=1)
    first = counts.enter(5, 0)
    for _ in range(50):
        counts.step(first)
    once = counts.stats.compressions
    assert once == policy.schedule.rounds(50) == 2
    counts.leave(first)
    again = counts.enter(5, 50)
    assert counts.stats.compressions == 2 * once
    assert again.held == counts.stats.live_kv_tokens == policy.schedule.physical(50, 5)
