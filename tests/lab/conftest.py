"""An engine without a model, so that the benchmarks' own logic is tested on what is known exactly."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from tests.cli.conftest import invoke, tiny  # noqa: F401
from tests.judges.conftest import make_record  # noqa: F401

from laconic.compress import FullKV, Policy
from laconic.engines.base import Chunk, Engine, EngineStats, Prompt, Sampling, Trace
from laconic.problems import Problem


class FakeEngine(Engine):
    """Knows the answers. Length and luck of trace i of a prompt are drawn from (seed, i), and what the policy evicts
    makes
    it say the right answer less often; so the same traces come out however they are batched."""

    name = "fake"

    def __init__(self, policy: Policy, problems: Sequence[Problem], chunk: int = 7, batch: int = 5) -> None:
        self.policy = policy
        self.answers = {problem.question: problem.answer for problem in problems}
        self.chunk = chunk
        self.batch = batch
        self.traces: dict[str, Trace] = {}
        self.generated = 0
        self.finished = 0
        self.crash_after: int | None = None

    def submit(self, prompt: Prompt, sampling: Sampling, n: int = 1, ids: Sequence[str] | None = None) -> list[str]:
        assert isinstance(prompt, str)
        made = []
        for index in range(n):
            name = f"{prompt}/{index}"
            self.traces[name] = Trace(name, index, tuple(range(11)), sampling)
            made.append(name)
        return made

    def plan_of(self, trace: Trace) -> tuple[int, str]:
        question = trace.id.rpartition("/")[0]
        rng = random.Random(f"{trace.sampling.seed}/{trace.index}")
        length = rng.randint(150, 450)
        luck = rng.random()
        lost = self.policy.schedule.evicted(length) / length
        if rng.random() < 0.05:
            return length, "no idea </think>"
        right = luck < 0.8 - 0.5 * lost
        answer = self.answers[question]
        return length, f"</think> \\boxed{{{answer if right else 'wrong'}}}"

    def stream(self) -> Generator[Chunk, None, None]:
        while True:
            active = [t for t in self.traces.values() if t.state in ("waiting", "running")][: self.batch]
            if not active:
                return
            for trace in active:
                trace.state = "running"
                length, text = self.plan_of(trace)
                length = min(length, trace.sampling.max_new_tokens)
                step = min(self.chunk, length - len(trace.token_ids))
                trace.token_ids += [5] * step
                self.generated += step
                if len(trace.token_ids) < length:
                    yield Chunk(trace.id, (5,) * step, "x")
                    continue
                cut = length == trace.sampling.max_new_tokens
                trace.text = "" if cut else text
                trace.state, trace.finish_reason = "finished", "length" if cut else "stop"
                schedule, prompt = self.policy.schedule, len(trace.prompt_ids)
                trace.peak_kv_tokens = schedule.peak(length, prompt)
                trace.mean_kv_tokens = schedule.mean(length, prompt)
                self.finished += 1
                yield Chunk(trace.id, (5,) * step, trace.text, None, trace.finish_reason)
                if self.crash_after is not None and self.finished >= self.crash_after:
                    raise KeyboardInterrupt

    def stop(self, trace_id: str) -> None:
        trace = self.trace(trace_id)
        if trace.state != "finished":
            trace.state = "stopped"

    def resume(self, trace_id: str) -> None:
        self.trace(trace_id).state = "running"

    def trace(self, trace_id: str) -> Trace:
        return self.traces[trace_id]

    def forget(self, trace_ids: Sequence[str]) -> None:
        for trace_id in trace_ids:
            assert self.traces.pop(trace_id).state in ("finished", "stopped")

    @property
    def stats(self) -> EngineStats:
        return EngineStats(generated_tokens=self.generated)

    def render(self, question: str) -> str:
        return question


class FakeFactory:
    """Makes fake engines and remembers them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        self.made: list[FakeEngine] = []
        self.crash_after: int | None = None

    def __call__(self, policy: Policy) -> FakeEngine:
        engine = FakeEngine(policy, self.problems)
        engine.crash_after = self.crash_after
        self.made.append(engine)
        return engine

    @property
    def generated(self) -> int:
        return sum(engine.generated for engine in self.made)


@pytest.fixture
def problems() -> list[Problem]:
    return [Problem(f"p{index}", f"question {index}", str(index)) for index in range(40)]


@pytest.fixture
def factory(problems: list[Problem]) -> FakeFactory:
    return FakeFactory(problems)


@pytest.fixture
def full_policy() -> Policy:
    return FullKV()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def is_picture(path: Path) -> bool:
    pixels = imread(path)
    return bool(pixels.ndim == 3 and pixels.std() > 0.01)


def rectangles(axes: Axes) -> list[Rectangle]:
    """The bars and bands of a panel, which has no other patches."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(found) == len(axes.patches)
    return found
