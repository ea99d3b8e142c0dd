"""Names and states of traces, who waits, who was asked to stop, and when waiting ones join."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laconic.answers import answer_of
from laconic.assets import reasoner_path
from laconic.compress import RPC, FullKV
from laconic.engines.base import Sampling, Trace
from laconic.engines.hf import HFEngine, load
from laconic.engines.replay import ReplayEngine
from laconic.engines.scheduler import ScheduledTrace, Scheduler
from laconic.engines.text import Detokenizer
from laconic.errors import LaconicError
from laconic.problems import generate
from laconic.traces import TraceRecord


def make(trace: Trace, number: int) -> ScheduledTrace:
    return ScheduledTrace(trace=trace, number=number, limit=4, stop_ids=frozenset({0}), text=Detokenizer(None))


def scheduler(max_batch: int = 8, chunk_tokens: int = 1, policy=None) -> Scheduler[ScheduledTrace]:
    return Scheduler((policy or FullKV()).schedule, max_batch, chunk_tokens)


def submit(into: Scheduler[ScheduledTrace], prompt: list[int], ids: str) -> list[str]:
    return into.submit(tuple(prompt), Sampling(), len(ids), list(ids), False, make)


def groups(of: Scheduler[ScheduledTrace], most: int) -> list[list[str]]:
    found = []
    while of.waiting:
        found.append([entry.trace.id for entry in of.next_group(most)])
    return found


@pytest.mark.parametrize(("max_batch", "chunk_tokens", "says"), [(0, 1, "max_batch is 0"), (1, 0, "chunk_tokens is 0")])
def test_settings_below_one_are_refused(max_batch: int, chunk_tokens: int, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        scheduler(max_batch, chunk_tokens)


@pytest.mark.parametrize(
    ("running", "waiting", "admits"),
    [
        (0, 0, False),  # nobody waits
        (0, 1, True),
        (32, 1, False),  # nothing is free
        (31, 1, True),  # one is free for the one that waits
        (31, 9, False),  # each prompt is a forward pass: an eighth of the rows comes free first
        (29, 9, False),
        (28, 9, True),
        (0, 99, True),  # an idle engine waits for nothing
    ],
)
def test_an_eighth_of_the_rows_is_free_before_others_join(running: int, waiting: int, admits: bool) -> None:
    made = scheduler(max_batch=32)
    if waiting:
        made.submit((1,), Sampling(), waiting, None, False, make)
    assert made.admits(running) is admits


def test_fresh_traces_of_one_prompt_join_together_and_those_with_tokens_alone() -> None:
    made = scheduler()
    submit(made, [1, 2], "abcde")
    submit(made, [3], "fg")
    submit(made, [1, 2], "h")
    made.entry("d").trace.token_ids.append(9)
    assert groups(made, most=2) == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"], ["h"]]


def test_a_trace_that_waits_leaves_at_once_and_comes_back_last() -> None:
    made = scheduler()
    submit(made, [1], "abc")
    made.stop("a")
    assert (made.trace("a").state, made.trace("a").finish_reason) == ("stopped", "stopped")
    with pytest.raises(LaconicError, match="only a stopped trace can be resumed"):
        made.resume("b")
    made.resume("a")
    assert (made.trace("a").state, made.trace("a").finish_reason) == ("waiting", None)
    assert groups(made, most=1) == [["b"], ["c"], ["a"]]


def test_a_running_trace_is_about_to_leave_until_it_is_resumed_or_ends() -> None:
    made = scheduler()
    submit(made, [1], "ab")
    first, second = made.next_group(2)
    first.trace.state = second.trace.state = "running"
    made.stop("a")
    assert list(made.leaving) == ["a"]
    made.resume("a")
    assert not made.leaving
    made.stop("b")
    second.add(5, None)
    chunk = made.end(second, "length")  # it ended before it was stopped
    assert (chunk.trace_id, chunk.token_ids, chunk.finish_reason) == ("b", (5,), "length")
    assert (made.trace("b").state, made.trace("b").finish_reason) == ("finished", "length")
    assert not made.leaving
    made.stop("b")
    assert made.trace("b").state == "finished"


def test_those_put_back_are_first_in_line_and_in_order() -> None:
    made = scheduler()
    submit(made, [1], "abc")
    group = made.next_group(2)
    for entry in group:
        entry.trace.state = "running"
    made.put_back(group)
    assert [made.trace(i).state for i in "abc"] == ["waiting"] * 3
    assert groups(made, most=1) == [["a"], ["b"], ["c"]]


def test_names_are_unique_until_forgotten() -> None:
    made = scheduler()
    submit(made, [1], "a")
    with pytest.raises(LaconicError, match="'a' is in use"):
        submit(made, [1], "a")
    with pytest.raises(LaconicError, match="'a' is waiting: stop it before"):
        made.forget(["a"])
    made.stop("a")
    made.forget(["a"])
    with pytest.raises(KeyError, match="no trace 'a'"):
        made.trace("a")
    submit(made, [1], "a")
    assert made.entry("a").number == 1  # numbers go on


def test_one_stream_at_a_time() -> None:
    made = scheduler()
    with made.streaming(), pytest.raises(LaconicError, match="streaming already"), made.streaming():
        pass
    with made.streaming():
        pass


def test_what_a_trace_holds_follows_the_schedule() -> None:
    policy = RPC(interval=8, ratio=4, window=4)
    made = scheduler(policy=policy)
    submit(made, [1, 2, 3], "a")
    (entry,) = made.next_group(1)
    entry.trace.state = "running"
    for token in range(1, 40):
        entry.add(token, None)
    trace = made.trace("a")
    assert trace.kv_tokens == policy.schedule.physical(38, 3) < trace.peak_kv_tokens == policy.schedule.peak(38, 3)
    assert trace.mean_kv_tokens == policy.schedule.mean(38, 3)
    made.end(entry, "stopped")
    assert (made.trace("a").kv_tokens, made.trace("a").peak_kv_tokens) == (0, policy.schedule.peak(38, 3))


def test_a_trace_ends_at_an_end_token_or_its_limit() -> None:
    entry = make(Trace("a", 0, (1,), Sampling(confidence_top_k=2)), 0)
    reasons = []
    for token in (5, 6, 7, 8):
        entry.add(token, -0.5)
        reasons.append(entry.end_reason())
    assert reasons == [None, None, None, "length"]
    assert entry.flush().confidences == (-0.5,) * 4
    entry.add(0, -1.0)
    assert entry.end_reason() == "stop"
    assert (entry.flush("stop").token_ids, entry.computed, entry.length) == ((0,), 4, 5)


def test_a_prompt_that_opens_the_thinking_makes_a_draft_of_a_text_that_was_cut_off() -> None:
    """As the bundled reasoner's chat template does, and DeepSeek-R1's."""
    model, tokenizer = load(reasoner_path())
    engine = HFEngine(model, tokenizer)
    question = generate(1, level=2)[0].question
    sampling = Sampling(max_new_tokens=8, temperature=0)
    cut, plain = (engine.generate([prompt], sampling)[0][0] for prompt in (engine.render(question), question))
    assert (cut.thinking, plain.thinking) == (True, False)
    for trace in (cut, plain):
        trace.text += " so \\boxed{5}"
    assert (answer_of(cut), answer_of(plain)) == (None, "5")
    # A replay reads the prompt, and where it can't, goes by what was recorded.
    record = TraceRecord(
        problem="p",
        question=question,
        gold="5",
        level=2,
        index=0,
        seed=0,
        settings={"policy": "full", "temperature": 0, "top_p": 0.95, "top_k": 0, "max_new_tokens": 8},
        prompt_ids=cut.prompt_ids,
        token_ids=tuple(cut.token_ids),
        text=cut.text,
        answer=None,
        correct=False,
        finish_reason="length",
    )
    for given in (tokenizer, None):
        replay = ReplayEngine([record], tokenizer=given)
        trace = replay.generate([question], sampling)[0][0]
        assert trace.thinking
        assert answer_of(trace) is None
    assert not ReplayEngine([replace(record, answer="5")]).generate([question], sampling)[0][0].thinking
