"""The tokens of thoughts, and the schedule that a trace's tokens tell, against a simulation token by token."""

from __future__ import annotations

import random

import pytest
import torch

from laconic.compress import RPC, Evidence, FullKV, LightThinker, ThoughtTokens, parse
from laconic.compress.schedule import spans_of
from laconic.compress.thoughts import AtThoughts
from laconic.errors import LaconicError

TOKENS = ThoughtTokens(1, (20, 21, 22), 23)


class Tuned:
    """A model that was fine-tuned: all that the policy asks for."""

    def thought_tokens(self) -> ThoughtTokens:
        return TOKENS


def random_trace(rng: random.Random, length: int) -> list[int]:
    """Tokens as a model of few tokens would draw them, and what is fed after each splitter."""
    made: list[int] = []
    while len(made) < length:
        fed = TOKENS.next_fed(made)
        made.append(rng.choice((1, 2, 3, 4, 5, 6)) if fed is None else fed)
    return made


def simulated(trace: list[int]) -> tuple[list[list[int]], list[int]]:
    """(which tokens are held after each count, eviction included, counts at which something is due), by lists."""
    held: list[int] = []
    after: list[list[int]] = [[]]
    due: list[int] = []
    for place, token in enumerate(trace):
        held = [*held, place]
        if token == TOKENS.cache[-1]:
            held = [i for i in held if trace[i] in TOKENS.fed]
            due.append(place + 1)
        after.append(held)
    return after, due


@pytest.mark.parametrize("seed", range(20))
def test_the_schedule_equals_a_simulation(seed: int) -> None:
    trace = random_trace(random.Random(seed), 90)
    after, due = simulated(trace)
    schedule = AtThoughts(TOKENS).of(trace)
    assert len(due) > 3
    most = total = 0
    for count in range(1, len(trace) + 1):
        attended = len(after[count - 1]) + 1
        most, total = max(most, attended), total + attended
        assert schedule.rounds(count) == sum(point <= count for point in due)
        assert schedule.physical(count, 7) == 7 + len(after[count])
        assert schedule.peak(count, 7) == 7 + most
        assert schedule.total(count, 7) == 7 * count + total
    assert schedule.compression_points(len(trace)) == due
    for number, point in enumerate(due, start=1):
        assert schedule.candidates(number) == len(after[point - 1]) + 1 - schedule.window
        assert schedule.kept(number) == len(after[point]) - schedule.window


def test_a_list_that_grows_is_read_on() -> None:
    trace = random_trace(random.Random(3), 60)
    growing: list[int] = []
    live = AtThoughts(TOKENS).of(growing)
    for token in trace:
        growing.append(token)
        known = AtThoughts(TOKENS).of(list(growing))
        computed = len(growing) - 1
        assert live.next_boundary(computed) == known.next_boundary(computed)
        assert live.physical(computed) == known.physical(computed)


def test_rows_that_are_fed_together_stop_where_any_of_them_is_due() -> None:
    traces = [random_trace(random.Random(seed), 50) for seed in (5, 6)]
    schedules = [AtThoughts(TOKENS).of(trace) for trace in traces]
    ends = sorted({point for trace in traces for point in simulated(trace)[1] if point <= 50} | {50})
    assert [end for _, end in spans_of(schedules, 50)] == ends
    assert spans_of([RPC(interval=16, window=8).schedule] * 3, 50) == RPC(interval=16, window=8).schedule.spans(50)


def test_what_is_fed_follows_from_the_last_tokens() -> None:
    assert TOKENS.next_fed([]) is None
    assert TOKENS.next_fed([1]) == 20
    assert TOKENS.next_fed([1, 20, 21, 22]) == 23
    assert TOKENS.next_fed([1, 20, 21, 22, 23]) is None
    assert TOKENS.next_fed([4, 1, 20, 21, 22, 23, 1]) == 20


def test_the_scorer_keeps_cache_and_continue_tokens() -> None:
    policy = LightThinker().for_model(Tuned())  # type: ignore[arg-type]
    ids = torch.tensor([[[5, 1, 20, 21, 22, 23, 6]]])
    evidence = Evidence(None, torch.zeros(1, 1, 10, 4), 1.0, None, torch.arange(7)[None, None], token_ids=ids)
    assert policy.scorer is not None
    assert policy.scorer.score(evidence).tolist() == [[[0, 0, 1, 1, 1, 1, 0]]]
    assert policy.never_drawn == TOKENS.fed
    assert policy.spec() == "lightthinker"
    assert parse("lightthinker") == policy


def test_json_and_back() -> None:
    assert ThoughtTokens.of(TOKENS.to_json()) == TOKENS


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ThoughtTokens(1, (2, 1), 3), "expected different ids"),
        (lambda: ThoughtTokens(1, (), 3), "one cache token at least"),
        (lambda: ThoughtTokens(-1, (2,), 3), "splitter is -1"),
        (lambda: ThoughtTokens(1, (2,), "3"), "continue is '3'"),  # type: ignore[arg-type]
        (lambda: ThoughtTokens.of({"splitter": 1}), "expected splitter, cache and continue"),
        (lambda: LightThinker().schedule.of([1, 2]), "has not been given its tokens"),
        (lambda: LightThinker().never_drawn, "has not been given its tokens"),
        (lambda: LightThinker().schedule.physical(9), "no count of tokens tells: only the hf engine runs it"),
        (lambda: AtThoughts(TOKENS).peak(9), "no count of tokens tells"),
        (lambda: AtThoughts(TOKENS).compression_points(9), "no count of tokens tells"),
        (lambda: AtThoughts(TOKENS).kept(1), "no count of tokens tells"),
    ],
)
def test_what_can_not_be_is_refused(make, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        make()


def test_other_policies_feed_nothing_and_go_by_counts() -> None:
    assert FullKV().next_fed([1]) is None
    assert FullKV().never_drawn == ()
    schedule = RPC().schedule
    assert schedule.of([1, 2]) is schedule
    assert (schedule.reads_tokens, schedule.compresses, FullKV().schedule.compresses) == (False, True, False)
    assert AtThoughts().reads_tokens
    assert AtThoughts().compresses
