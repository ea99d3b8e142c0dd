"""When waiting traces are let in, and which together. The rest of KeepingEngine is what the conformance tests look at."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import pytest

from laconic.answers import answer_of
from laconic.assets import reasoner_path
from laconic.compress import FullKV
from laconic.engines.base import Chunk, EngineStats, Prompt, Sampling, Trace
from laconic.engines.hf import HFEngine, load
from laconic.engines.keeping import KeepingEngine
from laconic.engines.replay import ReplayEngine
from laconic.errors import LaconicError
from laconic.problems import generate
from laconic.traces import TraceRecord


@dataclass
class Row:
    trace: Trace
    number: int

    @property
    def computed(self) -> int:
        return max(0, len(self.trace.token_ids) - 1)


class Idle(KeepingEngine[Row]):
    """It keeps traces and computes nothing."""

    name = "idle"

    def __init__(self, max_batch: int, chunk_tokens: int = 1) -> None:
        self._open(max_batch, chunk_tokens)
        self.policy = FullKV()

    def render(self, question: str) -> str:
        return question

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        assert not isinstance(prompt, str)
        return self._enter(tuple(prompt), sampling, n, ids, Row)

    def stream(self) -> Generator[Chunk, None, None]:
        with self._alone():
            yield from ()

    @property
    def stats(self) -> EngineStats:
        return EngineStats()

    def groups(self, most: int) -> list[list[str]]:
        found = []
        while self._waiting:
            found.append([row.trace.id for row in self._next_group(most)])
        return found


@pytest.mark.parametrize(("max_batch", "chunk_tokens", "says"), [(0, 1, "max_batch is 0"), (1, 0, "chunk_tokens is 0")])
def test_settings_below_one_are_refused(max_batch: int, chunk_tokens: int, says: str) -> None:
    with pytest.raises(LaconicError, match=says):
        Idle(max_batch, chunk_tokens)


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
    engine = Idle(max_batch=32)
    if waiting:
        engine.submit([1], Sampling(), n=waiting)
    assert engine._to_admit(running) is admits


def test_fresh_traces_of_one_prompt_join_together_and_those_with_tokens_alone() -> None:
    engine = Idle(max_batch=8)
    engine.submit([1, 2], Sampling(), n=5, ids=list("abcde"))
    engine.submit([3], Sampling(), n=2, ids=list("fg"))
    engine.submit([1, 2], Sampling(), ids=["h"])
    engine._run("d").trace.token_ids.append(9)
    assert engine.groups(most=2) == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"], ["h"]]


def test_a_trace_that_waits_leaves_at_once_and_comes_back_last() -> None:
    engine = Idle(max_batch=8)
    engine.submit([1], Sampling(), n=3, ids=list("abc"))
    engine.stop("a")
    assert (engine.trace("a").state, engine.trace("a").finish_reason) == ("stopped", "stopped")
    with pytest.raises(LaconicError, match="only a stopped trace can be resumed"):
        engine.resume("b")
    engine.resume("a")
    assert (engine.trace("a").state, engine.trace("a").finish_reason) == ("waiting", None)
    assert engine.groups(most=1) == [["b"], ["c"], ["a"]]


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
