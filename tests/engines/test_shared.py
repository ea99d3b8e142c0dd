"""One engine for many: each user's answers are those of an engine of its own, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from laconic.assets import reasoner_path
from laconic.compress import RPC
from laconic.engines.base import Chunk, Sampling
from laconic.engines.hf import HFEngine, load
from laconic.engines.shared import EngineView, SharedEngine
from laconic.errors import InputError
from laconic.problems import generate
from laconic.prune.strategies.base import StrategyRun
from laconic.prune.strategies.registry import parse
from laconic.prune.verdict import Verdict

SAMPLING = Sampling(max_new_tokens=120, temperature=1.0, top_p=0.95, seed=3)
POLICY = RPC(interval=48, ratio=4, window=16)


@pytest.fixture(scope="module")
def model() -> tuple[object, object]:
    torch.manual_seed(0)
    return load(reasoner_path())


def make(model: tuple[object, object], rows: int = 64) -> HFEngine:
    return HFEngine(model[0], model[1], POLICY, max_batch=rows)  # type: ignore[arg-type]


def drive(shared: SharedEngine, runs: dict[EngineView, StrategyRun]) -> dict[EngineView, Verdict]:
    """All of them to their ends, a chunk at a time."""
    steps = {view: iter(run) for view, run in runs.items()}
    over: dict[EngineView, Verdict] = {}

    def advance(view: EngineView) -> None:
        for progress in steps[view]:
            if progress.waits:
                return
        over[view] = runs[view].verdict()

    for view in runs:
        advance(view)
    while len(over) < len(runs):
        assert shared.busy
        for view in shared.step():
            if view not in over:
                advance(view)
    return over


def steps(shared: SharedEngine, count: int) -> None:
    for _ in range(count):
        shared.step()


def told(verdict: Verdict) -> object:
    """All that does not depend on whom the engine served beside, nor on names."""
    record = verdict.to_dict()
    for trace in record["traces"]:
        del trace["id"]
        if trace["confidence"] is not None:  # the last bits of a logit go by what else is in the batch
            trace["confidence"] = round(trace["confidence"], 3)
    return {key: value for key, value in record.items() if key not in ("seconds", "kv")}


@pytest.mark.parametrize("rows", [64, 5])
def test_each_users_verdict_is_that_of_an_engine_of_its_own(model: tuple[object, object], rows: int) -> None:
    specs = (
        "priced-vote:price=0.012,first=4,parallel=4",
        "self-consistency",
        "adaptive-consistency",
        "dynasor:m=1,k=16,tokens=5",
        "parallel-probe:interval=16,warmup=1,patience=2,stable=3,tokens=5",
    )
    questions = [problem.question for problem in generate(5)]
    alone = []
    for spec, question in zip(specs, questions, strict=True):
        engine = make(model, rows)
        alone.append(parse(spec, 6).solve(engine, question, SAMPLING))
    engine = make(model, rows)
    shared = SharedEngine(engine)
    views = [shared.view() for _ in specs]
    runs: dict[EngineView, StrategyRun] = {
        view: parse(spec, 6).begin(view, question, SAMPLING)
        for view, spec, question in zip(views, specs, questions, strict=True)
    }
    together = drive(shared, runs)
    for view, verdict in zip(views, alone, strict=True):
        assert told(together[view]) == told(verdict)
        assert "token_steps" not in together[view].kv  # of all users together: nobody's own
        view.close()
    assert not shared.owners
    assert not shared.busy
    assert engine.stats.live_kv_tokens == 0


def test_a_view_that_is_closed_frees_its_rows_within_a_step(model: tuple[object, object]) -> None:
    engine = make(model)
    shared = SharedEngine(engine)
    gone, stays = shared.view(), shared.view()
    gone.submit(engine.render(generate(1)[0].question), SAMPLING, 3)
    kept = stays.submit(engine.render(generate(2)[1].question), SAMPLING, 2)
    for _ in range(30):
        shared.step()
    gone.close()
    assert gone.trace_ids  # until their last chunks have come
    steps = engine.stats.steps
    while gone.trace_ids:
        shared.step()
    assert engine.stats.steps <= steps + 1
    while shared.busy:
        shared.step()
    alone = make(model).generate([stays.trace(kept[0]).prompt_ids], SAMPLING, 2)[0]
    assert [stays.trace(name).token_ids for name in kept] == [trace.token_ids for trace in alone]
    stays.close()
    assert not shared.owners


def test_a_stream_pauses_where_nothing_has_come(model: tuple[object, object]) -> None:
    engine = make(model)
    shared = SharedEngine(engine)
    view = shared.view(prompt=[5, 6, 7])
    assert view.render("whatever is asked") == [5, 6, 7]
    view.submit(view.render(""), Sampling(max_new_tokens=2, temperature=0), 1)
    stream = view.stream()
    assert next(stream) is None
    chunks: list[Chunk] = []
    while shared.busy:
        shared.step()
        chunk = next(stream)
        assert chunk is not None
        chunks.append(chunk)
    assert [len(chunk.token_ids) for chunk in chunks] == [1, 1]
    assert chunks[-1].finish_reason == "length"
    assert list(stream) == []


def test_waiting_traces_that_are_stopped_send_nothing(model: tuple[object, object]) -> None:
    shared = SharedEngine(make(model))
    view = shared.view()
    first, second = view.submit([5, 6, 7], Sampling(max_new_tokens=3, temperature=0), 2)
    view.stop(second)
    while shared.busy:
        shared.step()
    chunks = list(view.stream())
    assert {chunk.trace_id for chunk in chunks if chunk is not None} == {first}
    view.resume(second)
    while shared.busy:
        shared.step()
    assert view.trace(second).token_ids == view.trace(first).token_ids


def test_a_trace_without_a_distribution_ends_for_its_user_alone(model: tuple[object, object]) -> None:
    """The engine tells of it when its stream ends, which in a server may be never."""
    engine = make(model)
    shared = SharedEngine(engine)
    view, other = shared.view(), shared.view()
    broken = view.submit([5, 6, 7], Sampling(max_new_tokens=50, temperature=0), 1)[0]
    other.submit([5, 6, 8], Sampling(max_new_tokens=400, temperature=1.0, seed=1), 2)
    draw, batch = engine._batch.step, engine._batch
    calls = 0

    def step() -> object:
        nonlocal calls
        calls += 1
        found = list(draw())
        if calls == 3:
            place = next(i for i, entry in enumerate(batch.entries) if entry.trace.id == broken)
            found[place] = found[place]._replace(token=None)
        return found

    engine._batch.step = step  # type: ignore[method-assign, assignment]
    seen = 0
    while broken in view._open:
        shared.step()
        seen += 1
        assert seen < 400
    assert other._open  # it still runs
    last = [chunk for chunk in view.stream() if chunk is not None][-1]
    assert (last.trace_id, last.finish_reason) == (broken, "stopped")
    engine._batch.step = draw  # type: ignore[method-assign]
    while shared.busy:
        shared.step()


@pytest.mark.parametrize("error", [MemoryError("no room"), InputError("this model caches no values")])
def test_an_engine_that_fails_in_a_step_gives_up_what_it_had_and_goes_on(
    model: tuple[object, object], error: BaseException
) -> None:
    engine = make(model)
    shared = SharedEngine(engine)
    view = shared.view()
    view.submit([5, 6, 7], SAMPLING, 2)
    shared.step()
    draw = engine._batch.step

    def fail() -> object:
        raise error

    engine._batch.step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(type(error), match=str(error)):
        steps(shared, 5)
    engine._batch.step = draw  # type: ignore[method-assign]
    assert shared.fail() == [view]
    assert view.closed
    assert not shared.owners
    again = shared.view()
    again.submit([5, 6, 7], Sampling(max_new_tokens=3, temperature=0), 1)
    while shared.busy:
        shared.step()
    assert len([chunk for chunk in again.stream() if chunk is not None]) == 3
