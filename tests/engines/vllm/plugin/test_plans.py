"""A plan against a list that tokens are put into and taken out of, one at a time. Needs no vLLM."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.compress import RKV, RPC, FullKV, Policy, StreamingLLM
from laconic.engines.vllm.plugin.plans import CompressionPlan
from laconic.errors import LaconicError
from tests.reference import schedule as slow


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    kind = draw(st.sampled_from(["full", "rpc", "streamingllm", "rkv"]))
    if kind == "rpc":
        ratio = draw(st.sampled_from([1, 2, 4, 2.5]))
        share = draw(st.integers(1, 8))
        interval = share * (5 if ratio == 2.5 else int(ratio))
        return RPC(interval=interval, ratio=ratio, window=draw(st.integers(1, interval)))
    if kind == "streamingllm":
        budget = draw(st.integers(2, 30))
        return StreamingLLM(budget=budget, buffer=draw(st.integers(1, 20)), sinks=draw(st.integers(0, budget - 1)))
    if kind == "rkv":
        budget = draw(st.integers(1, 30))
        return RKV(budget=budget, buffer=draw(st.integers(1, 20)), window=draw(st.integers(1, budget)))
    return FullKV()


def simulated(policy: Policy, steps: int) -> slow.History:
    if isinstance(policy, RPC):
        return slow.proportional(policy.interval, Fraction(str(policy.ratio)), policy.window, steps)
    if isinstance(policy, FullKV):
        return slow.fixed(steps + 1, 1, 1, steps)  # a budget that is never full
    assert isinstance(policy, (StreamingLLM, RKV))
    return slow.fixed(policy.budget, policy.buffer, policy.schedule.window, steps)


@settings(deadline=None)
@given(policies(), st.integers(1, 40), st.integers(0, 200), st.randoms(use_true_random=False))
def test_every_count_is_the_simulations(policy: Policy, prompt: int, generated: int, draw: object) -> None:
    """Counts are asked in any order: a plan remembers where it looked last."""
    history, end = simulated(policy, generated + 1), prompt + generated
    plan = CompressionPlan(policy, prompt, end)
    held = [*range(prompt), *(prompt + n for n in history.held)]  # by tokens computed
    slots = [*range(prompt + 1), *(prompt + n for n in history.attended[1:])]
    due = [prompt + t for t in history.boundaries]
    counts = list(range(end + 1))
    draw.shuffle(counts)  # type: ignore[attr-defined]
    for c in counts:
        assert plan.held(c) == held[c]
        assert plan.evicted(c) == c - held[c]
        assert plan.rounds(c) == sum(t <= c for t in due)
        ahead = [t for t in due if t > c]
        if ahead:
            assert plan.next_boundary(c) == ahead[0]
        else:
            later = plan.next_boundary(c)
            assert later is None or later > end + 1
        if c:
            assert plan.slots_needed(c) == slots[c]
        assert plan.peak(c) == max(slots[: c + 1])
        if c < end:
            if isinstance(policy, FullKV):
                assert plan.peak_until_boundary(c) == c + 1
            else:
                assert plan.peak_until_boundary(c) == max(slots[c + 1 : min([*ahead, end]) + 1])


@settings(deadline=None)
@given(policies(), st.integers(1, 40), st.integers(1, 200), st.randoms(use_true_random=False))
def test_clipped_chunks_stop_at_every_compression(policy: Policy, prompt: int, generated: int, draw: object) -> None:
    """However a text comes in chunks: none passes a compression, each compression is some chunk's end, each chunk gets on."""
    plan, end = CompressionPlan(policy, prompt, prompt + generated), prompt + generated
    due = {prompt + t for t in simulated(policy, generated).boundaries}
    computed, ends = 0, set()
    while computed < end:
        wanted = draw.randint(1, 60)  # type: ignore[attr-defined]
        new = plan.clip_step(computed, min(wanted, end - computed))
        assert 1 <= new <= wanted
        assert not due & set(range(computed + 1, computed + new))
        # What the chunk needs is what is held before it and its own tokens.
        assert plan.slots_needed(computed + new) == plan.held(computed) + new
        computed += new
        ends.add(computed)
    assert due <= ends


def test_a_plan_by_hand() -> None:
    """RPC of 8 with a window of 2, of which a quarter stays: compressions at 10 and 18 generated tokens; 3 of prompt."""
    plan = CompressionPlan(RPC(interval=8, ratio=4, window=2), 3, 100)
    assert [plan.next_boundary(c) for c in (0, 3, 12, 13, 20, 21)] == [13, 13, 13, 21, 21, 29]
    assert [plan.held(c) for c in (3, 12, 13, 20, 21)] == [3, 12, 7, 14, 9]
    assert [plan.slots_needed(c) for c in (13, 14, 21)] == [13, 8, 15]
    assert [plan.peak(c) for c in (2, 13, 14, 21, 22)] == [2, 13, 13, 15, 15]
    assert [plan.peak_until_boundary(c) for c in (0, 13)] == [13, 15]
    assert plan.clip_step(5, 100) == 8


def test_two_plans_of_one_request_are_equal_whatever_was_asked() -> None:
    one, other = (CompressionPlan(RPC(interval=8, ratio=4, window=2), 3, 100) for _ in range(2))
    one.held(50)
    assert one == other


@pytest.mark.parametrize(
    ("prompt", "end", "says"),
    [(0, 5, "prompt is 0; expected at least 1"), (4, 3, "end is 3; expected at least the prompt's 4")],
)
def test_plans_that_cannot_be(prompt: int, end: int, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        CompressionPlan(FullKV(), prompt, end)
