"""What the reader of a VLLMClient is told when something goes wrong. Needs no vLLM: the client is one that never started."""

from __future__ import annotations

import itertools
import queue
import tempfile
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from laconic.engines.vllm.engine import client as module
from laconic.engines.vllm.engine.client import VLLMClient
from laconic.engines.vllm.engine.messages import Request
from laconic.errors import EngineError, InputError


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    made: Any = VLLMClient.__new__(VLLMClient)
    made._inbox, made._collectors, made._closed = queue.SimpleQueue(), {}, False
    made._step_began, made._prefixes = time.perf_counter(), itertools.count()
    made._read_ahead = SimpleNamespace(add=lambda count: None, take=lambda count: None)
    made._thread = SimpleNamespace(call=lambda function, *arguments: function(*arguments))
    made.llm = SimpleNamespace(errored=False)
    with tempfile.TemporaryFile() as made._log:
        yield made


def asked(name: str) -> Request:
    return Request(name, (1,), 9, frozenset(), 0, None, {})


def collector(output: Any) -> Any:
    return SimpleNamespace(get_nowait=lambda: output)


def output(tokens: list[int], finished: bool = False) -> Any:
    one = SimpleNamespace(token_ids=tokens, logprobs=None, finish_reason="length" if finished else None)
    return SimpleNamespace(outputs=[one], num_cached_tokens=None, finished=finished)


def test_steps_come_in_order_and_requests_that_ended_are_forgotten(client: Any) -> None:
    client._collectors = {
        "a": (collector(output([1])), asked("a")),
        "b": (collector(None), asked("b")),
        "c": (collector(output([2], True)), asked("c")),
    }
    client._collect_step(preempted=3)
    client._collect_step(preempted=0)
    first, second = client.next_step(), client.next_step()
    assert [(out.id, out.tokens, out.ended) for out in first.outputs] == [("a", (1,), None), ("c", (2,), "length")]
    assert (first.preempted, second.preempted) == (3, 0)
    assert [out.id for out in second.outputs] == ["a"]


def test_vllms_death_is_no_bad_input(client: Any) -> None:
    client._log.write(b"ERROR ValueError: an illegal memory access\n")
    client.llm.errored = True
    with pytest.raises(EngineError, match="vLLM has died: an illegal memory access; start the engine again") as error:
        client.next_step()
    assert not isinstance(error.value, ValueError)


def test_a_fault_of_ours_is_raised_where_the_steps_are_read(client: Any) -> None:
    """In vLLM's loop it would end vLLM, and pass for vLLM's death."""
    client._collectors = {"a": (collector(SimpleNamespace(outputs=[])), 0)}
    with pytest.raises(ValueError, match="not enough values to unpack"):
        client._collect_step(preempted=0)
    client.llm.errored = True
    with pytest.raises(ValueError, match="not enough values to unpack") as error:
        client.next_step()
    assert not isinstance(error.value, InputError)


def test_only_errors_of_a_living_vllm_are_told_as_they_are(client: Any) -> None:
    client._report_unless_dead(KeyError("a fault"))
    with pytest.raises(KeyError, match="a fault"):
        client.next_step()
    client.llm.errored = True
    client._report_unless_dead(OSError("the socket is closed"))
    with pytest.raises(EngineError, match="vLLM has died: it gave no reason"):
        client.next_step()
