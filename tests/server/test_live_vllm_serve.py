"""A server on vLLM: the same verdicts as on the HF engine, many clients at once, and what it can't do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from laconic.cli.common import choose_policy
from laconic.cli.engines import choose_engine
from laconic.cli.served_model import ServingModel
from laconic.server.asks import Method

from .conftest import Running
from .test_server import body, solved


@pytest.fixture(scope="module")
def live(serve_with: Callable[..., AbstractContextManager[Running]]) -> Iterator[Running]:
    choice = choose_engine("vllm:bundled", None)
    model = ServingModel(choice, "bundled", choose_policy("rpc", True), Method(n=8), 16)
    with serve_with(model=model) as running:
        yield running


def same_traces(told: Any, verdict: Any) -> None:
    """Those that ended are equal. One that is stopped when the vote is decided may be some steps behind or ahead of where it
    was alone: beside others vLLM prefills a request's traces in other steps."""
    for mine, alone in zip(told["traces"], verdict.traces, strict=True):
        assert mine["fate"] == alone.fate
        if alone.fate == "finished":
            assert (mine["tokens"], mine["answer"]) == (alone.tokens, alone.answer)
        else:
            assert abs(mine["tokens"] - alone.tokens) <= 4


def test_votes_side_by_side_are_those_of_solve(live: Running, questions: list[str]) -> None:
    found: dict[int, Any] = {}

    def ask(place: int) -> None:
        asked = {"strategy": ("self-consistency", "priced-vote")[place % 2], "n": 5}
        found[place] = live.post("/v1/chat/completions", body(questions[place], seed=place, laconic=asked)).json()[
            "laconic"
        ]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, told in found.items():
        verdict = solved(questions[place], ("self-consistency", "priced-vote")[place % 2], 5, place, "rpc")
        assert told["answer"] == verdict.answer
        same_traces(told, verdict)
    live.wait_idle()


def test_a_client_that_goes_away_frees_its_requests(live: Running, questions: list[str]) -> None:
    import httpx

    given = {**body(questions[0], stream=True), "model": "bundled:self-consistency-16"}
    with httpx.stream("POST", live.url + "/v1/chat/completions", json=given, timeout=60) as response:
        next(response.iter_lines())
    live.wait_idle(10)
    engine: Any = next(iter(live.driver._engines.values())).engine
    assert not engine._live


def test_each_request_may_have_a_policy_of_its_own(live: Running, questions: list[str]) -> None:
    """Side by side in one vLLM, each the verdict of `solve` under that policy."""
    policies = ("none", "rpc", "streamingllm:budget=64", "none")
    found: dict[int, Any] = {}

    def ask(place: int) -> None:
        asked = {"strategy": "self-consistency", "n": 4, "compress": policies[place]}
        found[place] = live.post("/v1/chat/completions", body(questions[0], seed=7, laconic=asked)).json()["laconic"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(policies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, policy in enumerate(policies):
        verdict = solved(questions[0], "self-consistency", 4, 7, policy)
        told = found[place]
        assert told["compress"] == choose_policy(policy, True).spec()
        same_traces(told, verdict)
    ended = [
        [(t["tokens"], t["answer"]) for t in told["traces"] if t["fate"] == "finished"]
        for _, told in sorted(found.items())
    ]
    assert ended[0] == ended[3] != ended[2]
    assert len(live.driver._engines) == 1
    live.wait_idle()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"compress": "h2o"}, "can't run inside vLLM"),
        ({"compress": "rpc:window=64"}, "reads the latest 64 queries, and 32 are kept"),
        ({"strategy": "deepprune", "judge": "probe"}, "can't probe"),
    ],
)
def test_what_it_cannot_do(live: Running, questions: list[str], asked: dict[str, Any], says: str) -> None:
    found = live.post("/v1/chat/completions", body(questions[0], laconic=asked))
    assert found.status_code == 400, found.text
    assert says in found.json()["error"]["message"]
    live.wait_idle()
