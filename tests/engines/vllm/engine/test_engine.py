"""VLLMEngine over a client that is made up: what becomes of a trace that vLLM gives up. Needs no vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from laconic.compress import RPC, FullKV, Policy
from laconic.engines.base import Chunk, Sampling
from laconic.engines.vllm.engine.engine import VLLMEngine
from laconic.engines.vllm.engine.messages import Request, RequestOutput, StepOutput
from laconic.engines.vllm.engine.model_facts import ModelFacts
from laconic.engines.vllm.engine.starting import RunningVLLM
from laconic.engines.vllm.plugin.settings import KEY, policy_mapping
from laconic.errors import EngineError, InputError
from tests.engines.vllm.tiny import tiny_tokenizer


class Client:
    """Every request gets token 20 at every step; what is due to end a request of itself is in `ends`, by its number."""

    closed = dead = False

    def __init__(self, ends: dict[int, tuple[int, str]]) -> None:
        self.ends = ends  # number of the request -> (after how many tokens, why)
        self.sent: list[Request] = []
        self.made: dict[str, int] = {}
        self.users: set[Any] = set()

    def unique_prefix(self) -> str:
        return "made-up"

    def add_requests(self, requests: Sequence[Request]) -> None:
        self.sent += requests
        self.made |= {request.id: 0 for request in requests}

    def abort(self, ids: Iterable[str]) -> None:
        for name in ids:
            self.made.pop(name, None)

    abort_soon = abort

    def set_reading(self, reading: bool) -> None:
        pass

    def last_error(self) -> str:
        return "its block was lost"

    def next_step(self) -> StepOutput:
        outputs = []
        for number, request in enumerate(self.sent):
            if request.id not in self.made:
                continue
            self.made[request.id] += 1
            after, why = self.ends.get(number, (request.max_tokens, "length"))
            ended = why if self.made[request.id] == after else None
            outputs.append(RequestOutput(request.id, (20,), (), (), 0, ended))
            if ended:
                del self.made[request.id]
        return StepOutput(tuple(outputs), 0, 0.01)


def engine_over(client: Client, **settings: int) -> VLLMEngine:
    facts = ModelFacts(context=100, vocabulary=1000, bytes_per_token=8, reserved_bytes=0)
    started = SimpleNamespace(
        policy=FullKV(),
        client=client,
        tokenizer=tiny_tokenizer(),
        generation_config=None,
        facts=facts,
        end_ids=frozenset(),
    )
    return VLLMEngine.over(started, **settings)  # type: ignore[arg-type]


def test_a_trace_that_vllm_gives_up_takes_nothing_from_the_others() -> None:
    engine = engine_over(Client({1: (3, "error")}), chunk_tokens=4)
    ids = engine.submit([5, 6], Sampling(max_new_tokens=6, temperature=0), n=3)
    chunks: list[Chunk] = []
    with pytest.raises(
        EngineError, match=rf"^vLLM gave trace '{ids[1]}' up \(error\): its block was lost; it is stopped"
    ) as error:
        chunks.extend(engine.stream())
    assert str(error.value).endswith("with 3 tokens")
    for name, tokens in zip(ids, (6, 3, 6), strict=True):
        trace = engine.trace(name)
        assert [t for c in chunks if c.trace_id == name for t in c.token_ids] == trace.token_ids == [20] * tokens
    assert [engine.trace(name).finish_reason for name in ids] == ["length", "stopped", "length"]
    assert engine.stats.live_kv_tokens == 0
    # It goes on where it was, and the error was told once.
    engine.resume(ids[1])
    assert [chunk.finish_reason for chunk in engine.stream()][-1] == "length"
    assert engine.trace(ids[1]).token_ids == [20] * 6


def test_traces_may_have_a_policy_each() -> None:
    """They run in one batch; requests say theirs where it isn't the launch's, and each is counted by its own schedule."""
    client = Client({})
    engine = engine_over(client, chunk_tokens=4)
    engine._started.check_served = lambda policy: None  # type: ignore[method-assign]
    policy = RPC(interval=4, ratio=4, window=2)
    sampling = Sampling(max_new_tokens=16, temperature=0)
    (plain,) = engine.submit([5, 6], sampling)
    (own,) = engine.submit([5, 6], sampling, policy=policy)
    (same,) = engine.submit([5, 6], sampling, policy=FullKV())
    stream = engine.stream()
    for _ in range(7):
        next(stream)
    engine.stop(own)
    rest = list(stream)
    assert [KEY in request.extra_args for request in client.sent] == [False, True, False]
    assert client.sent[1].extra_args[KEY] == policy_mapping(policy)
    assert engine.trace(own).state == "stopped"
    assert rest
    engine.resume(own)
    list(engine.stream())
    assert client.sent[-1].extra_args[KEY] == {**policy_mapping(policy), "prompt_tokens": 2}
    assert engine.trace(own).peak_kv_tokens == policy.schedule.peak(15, 2) < engine.trace(plain).peak_kv_tokens
    assert engine.trace(same).peak_kv_tokens == engine.trace(plain).peak_kv_tokens
    assert engine.stats.live_kv_tokens == 0
    assert engine.stats.compressions > 0


@pytest.mark.parametrize(
    ("launch", "queries", "asked", "says"),
    [
        (FullKV(), None, RPC(), "its launch compresses nothing.*start it with a policy"),
        (RPC(window=8), 8, RPC(window=32), "reads the latest 32 queries, and 8 are kept; expected a shorter window"),
        (RPC(window=8), 8, RPC(interval=64, window=8), None),
        (RPC(window=8), 8, FullKV(), None),
        (FullKV(), None, FullKV(), None),
    ],
)
def test_a_policy_that_the_launch_cannot_serve(launch: Policy, queries: int | None, asked: Policy, says: str) -> None:
    none: Any = None
    started = RunningVLLM("m", launch, none, none, none, none, queries)
    if says is None:
        started.check_served(asked)
        return
    with pytest.raises(InputError, match=says):
        started.check_served(asked)
