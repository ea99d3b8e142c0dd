"""Servers that fail, lie, or are of another kind: scripted ones, so that every fault is there on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from laconic.engines.base import Sampling
from laconic.engines.openai import OpenAIEngine, asking
from laconic.engines.openai.endpoints import Endpoints, base_url
from laconic.engines.openai.protocol import Conversation, Events, Reader
from laconic.errors import EngineError, InputError, LaconicWarning

WORDS = [f"w{i} " for i in range(12)]
SAMPLING = Sampling(max_new_tokens=50, temperature=1.0, seed=1)


class Upstream:
    """A server of one model that says WORDS, in the manner of `behave(body, request number)`.

    behave returns a dict: status, retry_after, words to send, cut (end without an end), half (end in the middle of a line),
    usage, kind (content type), logprobs, ids, error (in mid-stream), whole (an answer that is no stream), odd (fields of each
    choice). serves: the records of its list of models.
    """

    serves: tuple[dict[str, Any], ...] = ({"id": "m"},)

    def __init__(self, behave: Callable[[dict[str, Any], int], dict[str, Any]]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.closed = 0
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                upstream.keys.append(self.headers.get("authorization"))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps({"object": "list", "data": upstream.serves}).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.bodies.append(body)
                how = behave(body, len(upstream.bodies))
                status = how.get("status", 200)
                self.send_response(status)
                if "retry_after" in how:
                    self.send_header("retry-after", str(how["retry_after"]))
                self.send_header(
                    "content-type", how.get("kind", "text/event-stream" if status == 200 else "application/json")
                )
                self.end_headers()
                if status != 200:
                    self.wfile.write(json.dumps({"error": {"message": how.get("message", "no")}}).encode())
                    return
                if "whole" in how:
                    self.wfile.write(json.dumps(how["whole"]).encode())
                    return
                try:
                    self._stream(how)
                except (BrokenPipeError, ConnectionResetError):
                    upstream.closed += 1

            def _stream(self, how: dict[str, Any]) -> None:
                for place, word in enumerate(how.get("words", WORDS)):
                    choice: dict[str, Any] = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                    if how.get("ids"):
                        choice["token_ids"] = [1000 + place]
                    if how.get("logprobs"):
                        one = {"token": word, "logprob": -0.5, "top_logprobs": [{"token": word, "logprob": -0.5}]}
                        choice["logprobs"] = {"content": [one]}
                    choice |= how.get("odd", {})
                    self._send({"choices": [choice]})
                    time.sleep(how.get("pause", 0))
                if how.get("error"):
                    self._send({"error": {"message": how["error"]}})
                    return
                if how.get("half"):
                    self.wfile.write(b'data: {"choices": [{"index": 0, "del')
                    return
                if how.get("cut"):
                    return
                self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": how.get("finish", "stop")}]})
                if "usage" in how:
                    self._send({"choices": [], "usage": how["usage"]})
                self.wfile.write(b"data: [DONE]\n\n")

            def _send(self, record: dict[str, Any]) -> None:
                self.wfile.write(f"data: {json.dumps(record)}\n\n".encode())
                self.wfile.flush()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def upstreams(*behaviours: Callable[[dict[str, Any], int], dict[str, Any]]) -> Iterator[list[Upstream]]:
    made = [Upstream(behave) for behave in behaviours]
    threads = [threading.Thread(target=each.http.serve_forever, args=(0.05,), daemon=True) for each in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for each in made:
            each.http.shutdown()
            each.http.server_close()


def one(engine: OpenAIEngine, sampling: Sampling = SAMPLING) -> Any:
    return engine.generate(["2 + 2?"], sampling)[0][0]


def test_a_plain_server_is_asked_as_openais_api_has_it() -> None:
    with upstreams(lambda body, number: {}) as (up,), OpenAIEngine(up.url, key="k", max_batch=2) as engine:
        traces = engine.generate(["2 + 2?"], SAMPLING, n=2)[0]
    assert [trace.text for trace in traces] == ["".join(WORDS)] * 2
    assert [len(trace.token_ids) for trace in traces] == [12, 12]
    assert up.keys == ["Bearer k"]
    body = up.bodies[0]
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert body["stream"] is True
    assert (body["max_tokens"], body["temperature"]) == (50, 1.0)
    assert len({each["seed"] for each in up.bodies}) == 2
    assert "logprobs" not in body


def test_pieces_without_ids_are_counted_by_usage() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 30}
    with upstreams(lambda body, number: {"usage": usage}) as (up,), OpenAIEngine(up.url) as engine:
        trace = one(engine)
        assert engine.stats.generated_tokens == 30
        assert engine.stats.prompt_tokens == 9
        assert engine.decode(trace.token_ids) == trace.text


def test_a_server_that_lies_about_usage_is_told_once() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    with upstreams(lambda body, number: {"usage": usage, "ids": True}) as (up,), OpenAIEngine(up.url) as engine:
        with pytest.warns(LaconicWarning, match="says that it generated 3 tokens, and 12 came") as told:
            engine.generate(["a", "b"], SAMPLING)
        assert len([each for each in told if each.category is LaconicWarning]) == 1
        assert engine.stats.generated_tokens == 24


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"words": WORDS[:5], "cut": True}, "ended the stream"),
        ({"words": WORDS[:5], "half": True}, "ended the stream"),
        ({"words": WORDS[:5], "error": "out of memory"}, "out of memory"),
    ],
)
def test_a_trace_goes_on_at_another_server_by_its_prefix(how: dict[str, Any], says: str) -> None:
    rest = {"words": WORDS[5:]}

    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return rest if body["messages"][-1]["role"] == "assistant" else how

    with upstreams(behave, behave) as both, OpenAIEngine(",".join(up.url for up in both)) as engine:
        trace = one(engine)
    assert trace.text == "".join(WORDS)
    assert trace.finish_reason == "stop"
    asked = [body for up in both for body in up.bodies]
    assert len(asked) == 2
    assert [len(up.bodies) for up in both] == [1, 1]  # the one that failed was not asked again
    continued = next(body for body in asked if body["messages"][-1]["role"] == "assistant")
    assert continued["messages"][-1]["content"] == "".join(WORDS[:5])
    assert continued["continue_final_message"] is True
    assert continued["max_tokens"] == 45


def test_where_no_server_continues_a_text_the_trace_begins_anew() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        if body["messages"][-1]["role"] == "assistant":
            return {"status": 400, "message": "continue_final_message is unknown"}
        return {"words": WORDS[:5], "cut": True} if number == 1 else {}

    with upstreams(behave) as (up,), OpenAIEngine(up.url) as engine:
        trace = one(engine)
        assert engine.stats.generated_tokens == 17  # both beginnings were paid for
    assert trace.text == "".join(WORDS)
    assert len(trace.token_ids) == 12


@pytest.mark.parametrize("chunk_tokens", [1, 3, 64])
def test_a_chunk_says_that_its_trace_began_anew(chunk_tokens: int) -> None:
    """What chunks told before it is no part of the trace, and tokens that none has told are dropped."""

    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        if body["messages"][-1]["role"] == "assistant":
            return {"status": 400}
        return {"words": ["x "] * 5, "cut": True} if number == 1 else {}

    with upstreams(behave) as (up,), OpenAIEngine(up.url, chunk_tokens=chunk_tokens) as engine:
        (name,) = engine.submit("a", SAMPLING)
        chunks = list(engine.stream())
        assert engine.generated_length(name) == 17
    assert sum(chunk.restarted for chunk in chunks) == 1
    first = next(place for place, chunk in enumerate(chunks) if chunk.restarted)
    assert "".join(chunk.text for chunk in chunks[first:]) == "".join(WORDS)
    assert sum(len(chunk.token_ids) for chunk in chunks[first:]) == 12
    assert all("x" in chunk.text for chunk in chunks[:first])


def test_a_text_that_a_content_filter_ends_is_given_up_at_once() -> None:
    with upstreams(lambda body, number: {"finish": "content_filter"}) as (up,), OpenAIEngine(up.url) as engine:
        (name,) = engine.submit("a", SAMPLING)
        with pytest.raises(EngineError, match="content filter"):
            list(engine.stream())
        assert engine.trace(name).error_status == 400
    assert len(up.bodies) == 1


@pytest.mark.parametrize("status", [400, 422, 429, 401, 503])
def test_a_trace_that_is_given_up_has_the_status_of_the_refusal(status: int) -> None:
    with upstreams(lambda body, number: {"status": status}) as (up,), OpenAIEngine(up.url, retries=1) as engine:
        (name,) = engine.submit("a", SAMPLING)
        with pytest.raises(EngineError, match=f"answers {status}"):
            list(engine.stream())
        assert engine.trace(name).error_status == status


def test_whoever_is_waited_for_asks_twice_at_most() -> None:
    with upstreams(lambda body, number: {"status": 503}) as (up,):
        asker = asking.Asker(Endpoints(up.url), {})
        asker.hurry = True
        with pytest.raises(EngineError, match="503"):
            asker.ask("/completions", {})
        asker.close()
    assert len(up.bodies) == 2


def test_a_text_to_go_on_with_that_is_refused_is_asked_for_once() -> None:
    """The text is the client's: there is nothing to begin anew from, and asking for ever would stop everybody else."""
    asked = Conversation(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    with upstreams(lambda body, number: {"status": 400, "message": "no"}) as (up,), OpenAIEngine(up.url) as engine:
        engine.submit(asked, SAMPLING)
        with pytest.raises(EngineError, match="400: no"):
            list(engine.stream())
    assert len(up.bodies) == 1


def test_a_trace_begins_anew_no_more_often_than_it_is_tried() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return {"status": 400} if body["messages"][-1]["role"] == "assistant" else {"words": WORDS[:5], "cut": True}

    with upstreams(behave) as (up,), OpenAIEngine(up.url, retries=3) as engine:
        engine.submit("a", SAMPLING)
        with pytest.raises(EngineError, match="answers 400"):
            list(engine.stream())
    assert len(up.bodies) == 4


def test_a_trace_that_is_whole_when_its_stream_breaks_is_not_asked_for_again() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return {"words": WORDS[:5], "ids": True, "cut": True} if number == 1 else {"status": 400}

    with upstreams(behave) as (up,), OpenAIEngine(up.url) as engine:
        trace = one(engine, Sampling(max_new_tokens=5, temperature=1.0))
    assert (trace.finish_reason, trace.text, len(trace.token_ids)) == ("length", "".join(WORDS[:5]), 5)
    assert len(up.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_alone_refuses_takes_nothing_from_the_others(status: int) -> None:
    """It answers at once, so it is always the least busy one."""
    with (
        upstreams(lambda body, number: {"status": status}, lambda body, number: {}) as (bad, good),
        OpenAIEngine(f"{bad.url},{good.url}") as engine,
    ):
        traces = engine.generate(["a"] * 12, SAMPLING)
    assert [each[0].text for each in traces] == ["".join(WORDS)] * 12
    assert len(good.bodies) == 12
    refused = lambda body, number: {"status": status}  # noqa: E731
    with upstreams(refused, refused) as both, OpenAIEngine(",".join(up.url for up in both)) as engine:
        engine.submit("a", SAMPLING)
        with pytest.raises(EngineError, match=f"answers {status}"):
            list(engine.stream())
    assert [len(up.bodies) for up in both] == [1, 1]


def test_a_whole_answer_is_asked_of_the_others_too() -> None:
    answer = {"whole": {"ok": 1}, "kind": "application/json"}
    with upstreams(lambda body, number: {"status": 404}, lambda body, number: answer) as both:
        asker = asking.Asker(Endpoints([up.url for up in both]), {})
        assert [asker.ask("/completions", {}) for _ in range(3)] == [{"ok": 1}] * 3
        asker.close()
    with upstreams(lambda body, number: {"status": 404}) as (up,):
        asker = asking.Asker(Endpoints(up.url), {})
        with pytest.raises(asking.RefusedError):
            asker.ask("/completions", {})
        asker.close()


def test_a_request_that_the_server_dropped_goes_on() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return {"words": WORDS[:3], "finish": "abort"} if number == 1 else {"words": WORDS[3:]}

    with upstreams(behave) as (up,), OpenAIEngine(up.url) as engine:
        trace = one(engine)
    assert (trace.text, trace.finish_reason) == ("".join(WORDS), "stop")
    assert len(up.bodies) == 2


def test_a_password_in_an_address_is_not_told() -> None:
    with upstreams(lambda body, number: {"status": 400}) as (up,):
        url = up.url.replace("http://", "http://me:secret@")
        with OpenAIEngine(url) as engine:
            engine.submit("a", SAMPLING)
            with pytest.raises(EngineError, match="answers 400") as error:
                list(engine.stream())
    assert "secret" not in str(error.value)
    assert up.url in str(error.value)


def test_a_server_that_never_comes_to_an_end_is_given_up() -> None:
    with (
        upstreams(lambda body, number: {"words": WORDS[:1], "cut": True}) as (up,),
        OpenAIEngine(up.url, retries=2) as engine,
        pytest.raises(EngineError, match=r"can't go on.*ended the stream"),
    ):
        one(engine)
    assert len(up.bodies) == 3


def test_busy_servers_are_asked_again_when_they_say() -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return {"status": 429, "retry_after": 1, "message": "slow down"} if number == 1 else {}

    with upstreams(behave) as (up,), OpenAIEngine(up.url) as engine:
        start = time.monotonic()
        assert one(engine).text == "".join(WORDS)
        assert time.monotonic() - start >= 1
    assert len(up.bodies) == 2


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"status": 400, "message": "too long"}, "400: too long"),
        ({"status": 404, "message": "no such model"}, "404: no such model"),
        ({"status": 500, "message": "on fire"}, "500: on fire"),
        ({"kind": "application/json"}, "instead of a stream"),
    ],
)
def test_what_a_server_refuses_is_told_when_the_others_have_ended(how: dict[str, Any], says: str) -> None:
    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        return how if body["messages"][-1]["content"] == "bad" else {}

    with upstreams(behave) as (up,), OpenAIEngine(up.url, retries=1) as engine:
        good = engine.submit("good", SAMPLING)[0]
        bad = engine.submit("bad", SAMPLING)[0]
        with pytest.raises(EngineError, match=says):
            list(engine.stream())
        assert engine.trace(good).text == "".join(WORDS)
        assert engine.trace(bad).state == "stopped"


def test_a_server_without_log_probabilities() -> None:
    silent = pytest.raises(EngineError, match=r"tells no log-probabilities.*ties=index")
    with upstreams(lambda body, number: {}) as (up,), OpenAIEngine(up.url) as engine, silent:
        one(engine, Sampling(max_new_tokens=5, confidence_top_k=20))
    assert up.bodies[0]["top_logprobs"] == 20
    with upstreams(lambda body, number: {"logprobs": True}) as (up,), OpenAIEngine(up.url) as engine:
        trace = one(engine, Sampling(max_new_tokens=50, confidence_top_k=20, logprobs=1))
    assert trace.confidences == [0.5] * 12
    assert [each.logprob for each in trace.logprobs] == [-0.5] * 12


def test_stopping_closes_the_stream() -> None:
    with upstreams(lambda body, number: {"words": WORDS * 50, "pause": 0.01}) as (up,), OpenAIEngine(up.url) as engine:
        name = engine.submit("a", SAMPLING)[0]
        for _ in engine.stream():
            if len(engine.trace(name).token_ids) == 3:
                engine.stop(name)
        assert engine.trace(name).finish_reason == "stopped"
        end = time.monotonic() + 10
        while not up.closed:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_the_least_busy_server_is_asked() -> None:
    slow = [lambda body, number: {"pause": 0.01}] * 2
    with upstreams(*slow) as both, OpenAIEngine([up.url for up in both], max_batch=8) as engine:
        engine.generate(["a"], SAMPLING, n=8)
    assert [len(up.bodies) for up in both] == [4, 4]


def test_servers_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match="can't be reached"):
        OpenAIEngine("http://127.0.0.1:9")
    with (
        upstreams(lambda body, number: {}) as (up,),
        pytest.raises(InputError, match="doesn't serve 'x'; expected one of m"),
    ):
        OpenAIEngine(up.url, "x")
    with upstreams(lambda body, number: {}) as (up,), OpenAIEngine(f"http://127.0.0.1:9,{up.url}") as engine:
        assert one(engine).text == "".join(WORDS)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:99999", " , "])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="address"):
        Endpoints(url)


def test_addresses() -> None:
    assert base_url("http://x:1") == base_url("http://x:1/v1/") == "http://x:1/v1"
    assert base_url("https://a.b/openai/v1") == "https://a.b/openai/v1"
    with pytest.raises(InputError, match="given twice"):
        Endpoints("http://x,http://x/v1")


def test_events_however_they_are_cut() -> None:
    text = ': hello\r\n\r\ndata: {"a": 1}\r\n\r\ndata: one\ndata: two\n\nevent: x\ndata:3\n\n'
    for size in (1, 2, 7, 1000):
        events = Events()
        found = [each for i in range(0, len(text), size) for each in events.feed(text[i : i + size])]
        assert found == ['{"a": 1}', "one\ntwo", "3"]


@pytest.mark.parametrize("record", [{}, {"choices": None}, {"choices": [5]}, {"choices": {}}])
def test_what_is_no_chunk(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a ch"):
        Reader().read(record)


@pytest.mark.parametrize(
    "odd",
    [
        {"logprobs": {"content": [{"token": "a"}]}},
        {"logprobs": {"content": [{"token": "a", "logprob": None}]}},
        {"logprobs": {"content": [5]}},
        {"token_ids": ["x"]},
        {"token_ids": [[1]]},
        {"logprobs": {"tokens": ["a"], "token_logprobs": ["x"]}},
    ],
)
def test_chunks_that_are_odd_end_in_a_sentence(odd: dict[str, Any]) -> None:
    """And not in a stream that waits for ever."""
    with (
        upstreams(lambda body, number: {"odd": odd}) as (up,),
        OpenAIEngine(up.url, retries=0) as engine,
        pytest.raises(
            EngineError, match=r"a chunk that isn't as OpenAI's API has it|invalid literal|could not convert"
        ),
    ):
        one(engine)


def test_a_fault_of_our_own_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Reader, record: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Reader, "read", broken)
    with (
        upstreams(lambda body, number: {}) as (up,),
        OpenAIEngine(up.url) as engine,
        pytest.raises(EngineError, match=r"failed inside laconic \(ZeroDivisionError: oh\)"),
    ):
        one(engine)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_what_can_be_left_out(status: int) -> None:
    """As OpenAI's own does: it is asked without, then and later."""

    def behave(body: dict[str, Any], number: int) -> dict[str, Any]:
        if "return_token_ids" in body:
            return {"status": status, "message": "Unrecognized request argument supplied: return_token_ids"}
        return {}

    with upstreams(behave) as (up,), OpenAIEngine(up.url) as engine:
        assert one(engine).text == "".join(WORDS)
        assert one(engine).text == "".join(WORDS)
    assert ["return_token_ids" in body for body in up.bodies] == [True, False, False]


def test_a_closed_engine() -> None:
    with upstreams(lambda body, number: {}) as (up,):
        engine = OpenAIEngine(up.url)
        engine.close()
        engine.close()
        assert engine._sender._loop.is_closed()
        with pytest.raises(InputError, match="this engine is closed"):
            engine.submit("a", SAMPLING)
        with pytest.raises(InputError, match="this engine is closed"):
            next(engine.stream())


def test_all_servers_are_asked_for_the_model() -> None:
    quick: list[Any] = [lambda body, number: {}] * 2
    with upstreams(*quick) as both:
        urls = [up.url for up in both]
        both[0].serves = ({"id": "m", "max_model_len": 900},)
        both[1].serves = ({"id": "other"}, {"id": "m", "max_model_len": 500})
        with OpenAIEngine(urls) as engine:
            assert (engine.model, engine.context) == ("m", 500)
        both[1].serves = ({"id": "other"},)
        with pytest.raises(InputError, match=f"{urls[1]} doesn't serve 'm'; expected one of other"):
            OpenAIEngine(urls)


def test_servers_are_taken_and_given_back_from_many_threads() -> None:
    endpoints = Endpoints("http://a,http://b")

    def work() -> None:
        for _ in range(2000):
            endpoints.give_back(endpoints.take())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.busy for each in endpoints.all] == [0, 0]


def test_whole_answers_that_fail_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TRIES", 1)
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:9/v1: .+"):
        asking.Asker(Endpoints("http://127.0.0.1:9"), {}).ask("/completions", {})
