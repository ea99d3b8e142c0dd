"""The server from outside: OpenAI's own client, and what the engine alone would have said."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import openai
import pytest

from laconic.assets import reasoner_path
from laconic.cli.common import choose_policy, choose_strategy
from laconic.engines.base import Sampling
from laconic.engines.hf import HFEngine, load
from laconic.errors import InputError
from laconic.judges.registry import open_judge
from laconic.prune.strategies.base import Strategy
from laconic.prune.verdict import Verdict
from laconic.server.app import Server, Settings
from laconic.server.driver import EngineDriver
from laconic.server.guard import Rules
from laconic.server.page_routes import FILES

from .conftest import Running

Serve = Callable[..., AbstractContextManager[Running]]


def client(server: Running, key: str = "none", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60, **more)


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "bundled", "messages": [{"role": "user", "content": question}], **more}


@functools.cache
def loaded() -> tuple[Any, Any]:
    return load(reasoner_path())


def alone(question: str, n: int, seed: int, policy: str = "none", **more: Any) -> list[str]:
    """The texts of an engine that serves nobody else."""
    engine = HFEngine(*loaded(), choose_policy(policy, True), max_batch=32)
    sampling = Sampling(**{"max_new_tokens": 1024, "temperature": 1.0, "top_p": 0.95, "seed": seed, **more})
    return [trace.text for trace in engine.generate([engine.render(question)], sampling, n)[0]]


def solved(question: str, spec: str, n: int, seed: int, policy: str = "none") -> Verdict:
    engine = HFEngine(*loaded(), choose_policy(policy, True), max_batch=32)
    strategy: Strategy = choose_strategy(spec, n, None, True)
    return strategy.solve(engine, question, Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=seed))


# ---- plain -----------------------------------------------------------------------------------------------------------


def test_choices_are_the_traces_of_the_engine_alone(server: Running, questions: list[str]) -> None:
    found = client(server).chat.completions.create(**body(questions[0], n=3, seed=7))
    texts = alone(questions[0], 3, 7)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    for choice, text in zip(found.choices, texts, strict=True):
        thought, _, said = text.partition("</think>")
        assert choice.message.content == said.strip()
        assert choice.message.reasoning_content.strip() == thought.strip()
        assert choice.message.reasoning == choice.message.reasoning_content
        assert choice.finish_reason == "stop"
    assert len(set(texts)) > 1
    usage = found.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens
    server.wait_idle()


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_adds_up_to_the_whole(server: Running, questions: list[str], n: int) -> None:
    given = body(questions[1], n=n, seed=3)
    whole = client(server).chat.completions.create(**given)
    said, thought = [""] * n, [""] * n
    ends: list[str | None] = [None] * n
    seen: list[int] = []
    chunks = list(client(server).chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index not in seen:
                seen.append(choice.index)
                assert choice.delta.role == "assistant"
            else:
                assert choice.delta.role is None
            said[choice.index] += choice.delta.content or ""
            thought[choice.index] += getattr(choice.delta, "reasoning_content", None) or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert seen == list(range(n))
    assert said == [choice.message.content for choice in whole.choices]
    assert thought == [choice.message.reasoning_content for choice in whole.choices]
    assert ends == ["stop"] * n
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].laconic["seed"] == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_stream_is_what_strict_clients_read(server: Running, questions: list[str]) -> None:
    with httpx.stream(
        "POST", server.url + "/v1/chat/completions", json=body(questions[0], stream=True, seed=1), timeout=60
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert isinstance(chunk["choices"], list)
        assert chunk["choices"]
        assert "usage" not in chunk
        for choice in chunk["choices"]:
            assert choice["finish_reason"] in (None, "stop", "length")
            assert all(isinstance(value, str) for value in choice["delta"].values())
    assert chunks[-1]["laconic"]["compress"] == "full"
    assert all("laconic" not in chunk for chunk in chunks[:-1])


def test_the_same_seed_says_the_same_and_none_another(server: Running, questions: list[str]) -> None:
    one, two = (server.post("/v1/chat/completions", body(questions[2], seed=11)).json() for _ in range(2))
    assert one["choices"] == two["choices"]
    drawn = {server.post("/v1/chat/completions", body(questions[2])).json()["laconic"]["seed"] for _ in range(2)}
    assert len(drawn) == 2


def test_limits_and_stop_texts(server: Running, questions: list[str]) -> None:
    cut = server.post("/v1/chat/completions", body(questions[0], max_tokens=5, seed=1)).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 5
    text = alone(questions[0], 1, 1)[0]
    stopped = server.post(
        "/v1/completions", {"prompt": f" <|user|> {questions[0]} <|assistant|> <think>", "stop": ["then"], "seed": 1}
    ).json()
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert "then" not in stopped["choices"][0]["text"]
    assert text.startswith(stopped["choices"][0]["text"].strip()[:40])
    assert stopped["usage"]["completion_tokens"] < 300
    server.wait_idle()


def test_log_probabilities(server: Running, questions: list[str]) -> None:
    found = client(server).chat.completions.create(
        **body(questions[0], seed=1, logprobs=True, top_logprobs=2, max_tokens=9)
    )
    told = found.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 9
    for token in told.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    streamed = list(
        client(server).chat.completions.create(
            **body(questions[0], seed=1, logprobs=True, top_logprobs=2, max_tokens=9), stream=True
        )
    )
    flat = [t for c in streamed for choice in c.choices if choice.logprobs for t in choice.logprobs.content or []]
    assert [(t.token, t.logprob) for t in flat] == [(t.token, t.logprob) for t in told.content]
    legacy = client(server).completions.create(model="bundled", prompt=[5, 6, 7], logprobs=1, max_tokens=3, seed=1)
    logprobs = legacy.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or []) == len(logprobs.token_logprobs or []) == len(logprobs.text_offset or []) == 3


def test_completions_of_several_prompts_each_with_its_own(server: Running, questions: list[str]) -> None:
    found = client(server).completions.create(model="bundled", prompt=["a b", "b a"], n=2, max_tokens=4, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    one = client(server).completions.create(model="bundled", prompt="a b", n=2, max_tokens=4, seed=1)
    assert [choice.text for choice in one.choices] == [choice.text for choice in found.choices[:2]]
    prompt = f" <|user|> {questions[0]} <|assistant|> <think>"
    twice = client(server).completions.create(model="bundled", prompt=[prompt, prompt], max_tokens=60, seed=1)
    assert twice.choices[0].text != twice.choices[1].text


def test_responses_whole_and_streamed(server: Running, questions: list[str]) -> None:
    extra = {"seed": 4}
    whole = client(server).responses.create(model="bundled", input=questions[0], extra_body=extra)
    assert whole.status == "completed"
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    events = list(client(server).responses.create(model="bundled", input=questions[0], extra_body=extra, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].response.output_text == whole.output_text  # type: ignore[union-attr]
    assert events[-1].response.usage == whole.usage  # type: ignore[union-attr]
    short = client(server).responses.create(model="bundled", input=questions[0], max_output_tokens=3)
    assert short.status == "incomplete"
    assert {item.status for item in short.output} == {"incomplete"}  # type: ignore[union-attr]


# ---- votes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "n", "policy"),
    [
        ("priced-vote", 12, "none"),
        ("self-consistency", 5, "rpc"),
        ("adaptive-consistency", 9, "random"),
        ("dynasor:m=1,k=16,tokens=4", 5, "none"),
        ("parallel-probe:short,stable=2", 4, "rpc"),
    ],
)
def test_a_vote_is_that_of_solve(server: Running, questions: list[str], spec: str, n: int, policy: str) -> None:
    """With other requests beside it."""
    noise = [
        threading.Thread(target=server.post, args=("/v1/chat/completions", body(question, seed=i, max_tokens=200)))
        for i, question in enumerate(questions[3:6])
    ]
    for thread in noise:
        thread.start()
    asked = {"strategy": spec, "n": n, "compress": policy}
    found = server.post("/v1/chat/completions", body(questions[0], seed=21, laconic=asked)).json()
    for thread in noise:
        thread.join()
    verdict = solved(questions[0], spec, n, 21, policy)
    told = found["laconic"]
    assert told["answer"] == verdict.answer
    assert told["votes"] == [{"answer": v.answer, "weight": v.weight, "traces": list(v.traces)} for v in verdict.votes]
    assert [(t["fate"], t["tokens"], t["answer"]) for t in told["traces"]] == [
        (t.fate, t.tokens, t.answer) for t in verdict.traces
    ]
    assert found["usage"]["completion_tokens"] == verdict.tokens.generated
    winner = verdict.winner
    assert winner is not None
    text = verdict.traces[winner].text
    assert found["choices"][0]["message"]["content"] == text.partition("</think>")[2].strip()


def test_deepprune_by_the_models_name(server: Running, questions: list[str]) -> None:
    found = server.post(
        "/v1/chat/completions", {**body(questions[0], seed=2), "model": "bundled:deepprune-8+rpc"}
    ).json()
    assert found["laconic"]["strategy"] == "deepprune"
    assert found["laconic"]["judge"] == "bundled"
    assert found["laconic"]["n"] == 8
    assert found["laconic"]["compress"].startswith("rpc:")
    assert {trace["fate"] for trace in found["laconic"]["traces"]} >= {"finished"}


@pytest.mark.parametrize("judge", ["bundled", "jaccard", "facts", "probe"])
def test_each_judge_says_over_http_what_it_says_alone(server: Running, questions: list[str], judge: str) -> None:
    model, tokenizer = loaded()
    engine = HFEngine(model, tokenizer, max_batch=32)
    opened = open_judge(judge, model=model, tokenizer=tokenizer)
    verdict = choose_strategy("deepprune", 6, opened, True).solve(
        engine, questions[1], Sampling(max_new_tokens=1024, temperature=1.0, top_p=0.95, seed=4)
    )
    asked = {"strategy": "deepprune", "judge": judge, "n": 6}
    told = server.post("/v1/chat/completions", body(questions[1], seed=4, laconic=asked)).json()["laconic"]
    assert [(t["fate"], t["tokens"]) for t in told["traces"]] == [(t.fate, t.tokens) for t in verdict.traces]
    assert told["answer"] == verdict.answer
    assert told["tokens"]["judged"] == verdict.tokens.judged


def test_a_vote_streams_its_progress_and_can_be_silent(server: Running, questions: list[str]) -> None:
    given = {**body(questions[0], seed=2, stream=True), "model": "bundled:self-consistency-6"}
    chunks = list(client(server).chat.completions.create(**given))
    thoughts = "".join(getattr(c.delta, "reasoning_content", None) or "" for chunk in chunks for c in chunk.choices)
    assert thoughts.startswith("6 traces")
    assert "6 finished" in thoughts
    quiet = {**given, "extra_body": {"laconic": {"progress": False}}}
    chunks = list(client(server).chat.completions.create(**quiet))
    thoughts = "".join(getattr(c.delta, "reasoning_content", None) or "" for chunk in chunks for c in chunk.choices)
    assert "traces" not in thoughts
    assert chunks[-1].laconic["answer"] is not None


def test_a_budget_asks_for_auto(server: Running, questions: list[str]) -> None:
    found = server.post("/v1/chat/completions", body(questions[0], seed=2, laconic={"budget": "3x", "n": 8})).json()
    assert "chosen for 3 traces a problem" in found["laconic"]["note"]
    assert found["laconic"]["answer"] is not None


def test_a_time_limit_tells_what_there_is(serve_with: Serve, questions: list[str]) -> None:
    with serve_with(seconds=0.6, batch=2) as server:
        found = server.post(
            "/v1/chat/completions", {**body(questions[0], seed=2), "model": "bundled:self-consistency-64"}
        )
        assert found.status_code == 200
        assert "time limit" in found.json()["laconic"]["note"]
        assert not found.json()["laconic"]["complete"]
        plain = server.post("/v1/chat/completions", body(questions[0], seed=2, n=30)).json()
        assert "length" in {choice["finish_reason"] for choice in plain["choices"]}
        server.wait_idle()


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "given", "status", "says"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "what is this?"}]},
            400,
            "only reads the notation",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": " "}]}, 400, "is empty"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]},
            400,
            "without system messages",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "model": "x"}, 404, "isn't served"),
        ("/v1/completions", {"prompt": [10**6]}, 400, "outside the model's vocabulary"),
        ("/v1/completions", {"prompt": ""}, 400, "the prompt is empty"),
        ("/v1/completions", {"prompt": [5] * 5000}, 400, "context"),
        ("/v1/completions", {"prompt": "a", "n": 128, "laconic": {"strategy": "priced-vote"}}, 400, "one answer"),
        ("/v1/completions", {"prompt": "a", "laconic": {"n": 4}}, 400, "give laconic.strategy"),
        ("/v1/completions", {"prompt": ["a"] * 128, "n": 128}, 400, "at most 256"),
        ("/v1/completions", {"prompt": "a", "laconic": {"compress": "zip"}}, 400, "'zip' is unknown"),
        ("/v1/completions", {"prompt": "a", "laconic": {"compress": "rpc:interval=0"}}, 400, "interval"),
        ("/v1/completions", {"prompt": "a", "laconic": {"strategy": "guess"}}, 400, "'guess' is unknown"),
        ("/v1/completions", {"prompt": "a", "laconic": {"strategy": "priced-vote:price=0"}}, 400, "price"),
        ("/v1/completions", {"prompt": "a", "laconic": {"strategy": "deepprune", "judge": "nobody"}}, 400, "nobody"),
        *(
            (
                "/v1/completions",
                {"prompt": "a", "laconic": {"strategy": "deepprune", "judge": judge}},
                400,
                "a request can't name what a judge is loaded from",
            )
            for judge in ("encoder:/tmp", "llm:some/model", "embedding:x", "llm:openai:http://10.0.0.1/v1#m")
        ),
        (
            "/v1/completions",
            {"prompt": "a", "laconic": {"compress": "learned:/tmp/x.safetensors"}},
            400,
            "a request can't name what a policy is loaded from",
        ),
        (
            "/v1/completions",
            {"prompt": "a", "laconic": {"compress": "kvzap:some/model"}},
            400,
            "a request can't name what a policy is loaded from",
        ),
        (
            "/v1/completions",
            {"prompt": "a", "laconic": {"strategy": "priced-vote", "judge": "random"}},
            400,
            "no judge",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"enable_thinking": True}},
            400,
            "takes no argument enable_thinking",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_has_a_status_and_a_sentence(
    server: Running, path: str, given: dict[str, Any], status: int, says: str, stream: bool
) -> None:
    found = server.post(path, {**given, "stream": stream})
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    server.wait_idle()


def test_errors_are_openais_to_its_client(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="whole number"):
        client(server).chat.completions.create(**body("a", n=0))
    with pytest.raises(openai.NotFoundError, match="isn't served"):
        client(server).chat.completions.create(**{**body("a"), "model": "gpt-4"})
    with pytest.raises(openai.NotFoundError):
        client(server).models.retrieve("gpt-4")
    assert client(server).models.retrieve("bundled:rpc").id == "bundled:rpc"
    assert "bundled:deepprune-16" in [model.id for model in client(server).models.list()]


def test_too_many_requests_are_told_when_to_come_again(serve_with: Serve, questions: list[str]) -> None:
    with serve_with(most=2, batch=1) as server:
        results: list[httpx.Response] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(
                    server.post("/v1/chat/completions", body(questions[0], n=6, max_tokens=150))
                )
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = sorted(each.status_code for each in results)
        assert codes[0] == 200
        assert codes[-1] == 429
        assert all(each.headers["retry-after"] == "1" for each in results if each.status_code == 429)
        server.wait_idle()


def test_keys(serve_with: Serve, questions: list[str]) -> None:
    with serve_with(rules=Rules(key="s3cret")) as server:
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            client(server, "s3cre").models.list()
        assert client(server, "s3cret").models.list().data
        assert server.get("/v1/models", headers={"x-api-key": "s3cret"}).status_code == 200
        assert server.get("/v1/models").status_code == 401
        assert server.get("/laconic/runs").status_code == 401
        assert server.get("/metrics").status_code == 401
        for path in ("/health", *FILES):
            assert server.get(path).status_code == 200


def test_names_of_other_hosts_are_refused(serve_with: Serve) -> None:
    with serve_with(rules=Rules(hosts=frozenset({"127.0.0.1", "localhost"}))) as server:
        assert server.get("/v1/models").status_code == 200
        assert server.get("/v1/models", headers={"host": "evil.example"}).status_code == 400


def test_other_pages_may_call_only_where_they_are_named(serve_with: Serve) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with serve_with(origins=("https://a.example",)) as server:
        found = httpx.options(server.url + "/v1/models", headers=asked)
        assert found.headers["access-control-allow-origin"] == "https://a.example"
        other = httpx.options(server.url + "/v1/models", headers={**asked, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    with serve_with() as server:
        assert "access-control-allow-origin" not in httpx.options(server.url + "/v1/models", headers=asked).headers


# ---- clients that go away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["bundled", "bundled:self-consistency-16"])
def test_a_client_that_goes_away_stops_its_traces(
    server: Running, questions: list[str], stream: bool, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**body(questions[0], stream=stream), "model": model}
    whole = server.post("/v1/chat/completions", {**given, "stream": False}).json()["usage"]["completion_tokens"]
    step, stepped = server.driver._step, threading.Event()

    def slowly() -> bool:
        """Steps as long as a real model's: there are seconds of them, however busy the machine is."""
        time.sleep(0.01)
        worked = step()
        if worked:
            stepped.set()
        return worked

    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            asked = asyncio.ensure_future(http.post(server.url + "/v1/chat/completions", json=given))
            assert await asyncio.to_thread(stepped.wait, 30), "no token of it was computed"
            assert not asked.done()
            asked.cancel()

    server.wait_idle()  # what was asked before is counted once it is over
    before = server.server.metrics.generated._value.get()
    monkeypatch.setattr(server.driver, "_step", slowly)
    asyncio.run(ask_and_leave())
    server.wait_idle(8)
    counted = server.server.metrics.generated._value.get() - before
    assert 0 < counted < whole / 2
    if "consistency" in model:  # what it came to is still told, but nothing of it is kept
        (name,) = [run["id"] for run in server.get("/laconic/runs").json()][:1]
        assert server.get(f"/laconic/runs/{name}").json()["state"] == "stopped"
        assert "were not kept" in server.get(f"/laconic/runs/{name}/traces/0").json()["error"]["message"]
        job = server.server.runs.get(name)
        assert job.run is None
        assert not job.mailbox._events


def test_cancelling_an_async_stream(server: Running, questions: list[str]) -> None:
    async def main() -> None:
        made = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
        stream = await made.chat.completions.create(**body(questions[0], n=4, stream=True))
        async for _ in stream:
            break
        await stream.close()
        task = asyncio.ensure_future(made.chat.completions.create(**body(questions[0], n=4)))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await made.close()

    asyncio.run(main())
    server.wait_idle(5)


def test_many_clients_get_what_is_theirs(server: Running, questions: list[str]) -> None:
    """Streams side by side, some of which leave: each text is that of the engine alone."""

    async def ask(made: openai.AsyncOpenAI, number: int) -> tuple[int, str] | None:
        stream = await made.chat.completions.create(
            **body(questions[number % 4], seed=number // 4, stream=True, max_tokens=90)
        )
        text = ""
        async for chunk in stream:
            for choice in chunk.choices:
                text += getattr(choice.delta, "reasoning_content", None) or choice.delta.content or ""
            if number % 5 == 4 and len(text) > 50:
                await stream.close()
                return None
        return number, text

    async def main() -> list[tuple[int, str] | None]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as made:
            return await asyncio.gather(*(ask(made, number) for number in range(20)))

    found = [each for each in asyncio.run(main()) if each is not None]
    assert len(found) == 16
    for number, text in found:
        assert text.strip() == alone(questions[number % 4], 1, number // 4, max_new_tokens=90)[0].strip()
    server.wait_idle()


# ---- the page's routes, health, metrics ------------------------------------------------------------------------------


def test_a_run_of_the_page(server: Running, questions: list[str]) -> None:
    asked = {
        "problem": questions[0],
        "seed": 2,
        "laconic": {"strategy": "self-consistency", "n": 6, "compress": "rpc:interval=32"},
    }
    made = server.post("/laconic/runs", asked)
    assert made.status_code == 201
    name = made.json()["id"]
    states = []
    with httpx.stream("GET", f"{server.url}/laconic/runs/{name}/events", timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: ")))
    assert states[-1]["state"] == "over"
    assert len(states[-1]["traces"]) == 6
    assert any(0 < state["kv_held"] < state["kv_full"] for state in states)
    whole = server.get(f"/laconic/runs/{name}").json()
    assert whole["question"] == questions[0]
    assert whole["verdict"]["answer"] == states[-1]["answer"]
    assert name in [run["id"] for run in server.get("/laconic/runs").json()]
    trace = server.get(f"/laconic/runs/{name}/traces/0").json()
    assert "".join(text for text, _ in trace["parts"]).startswith(whole["verdict"]["traces"][0]["text"])
    assert trace["known"]
    assert 0 < trace["held"] < trace["tokens"]
    assert trace["parts"][-1][1]  # what came after the latest compression is held
    for nowhere in ("99", "x", "%C2%B2"):  # the last is a digit that is no number
        assert server.get(f"/laconic/runs/{name}/traces/{nowhere}").status_code == 404
    summary = server.get(f"/laconic/runs/{name}/summary").json()
    assert summary["spec"] == "self-consistency"
    assert "verdict" not in summary
    grown = [dict(zip(summary["growth"]["columns"], row, strict=True)) for row in summary["growth"]["rows"]]
    assert [row["tokens"] for row in grown] == sorted(row["tokens"] for row in grown)
    assert grown[-1]["tokens"] == whole["verdict"]["tokens"]["generated"]
    assert max(row["kv_bytes"] for row in grown) > 0
    assert max(row["running"] for row in grown) == 6
    assert server.get("/laconic/runs/nothing").status_code == 404


def test_a_run_is_stopped_by_hand(serve_with: Serve, questions: list[str]) -> None:
    with serve_with(batch=2) as server:
        asked = {"problem": questions[0], "laconic": {"strategy": "self-consistency", "n": 40}}
        name = server.post("/laconic/runs", asked).json()["id"]
        time.sleep(0.5)
        live = server.get(f"/laconic/runs/{name}/traces/0").json()
        assert live["tokens"] > 0
        assert httpx.delete(f"{server.url}/laconic/runs/{name}").status_code == 200
        server.wait_idle()
        state = server.get(f"/laconic/runs/{name}").json()
        assert state["state"] == "over"
        assert not state["verdict"]["complete"]


def test_runs_that_cannot_be(server: Running) -> None:
    assert "problem is missing" in server.post("/laconic/runs", {}).json()["error"]["message"]
    assert "strategy is missing" in server.post("/laconic/runs", {"problem": "a"}).json()["error"]["message"]
    assert server.post("/laconic/runs", []).status_code == 400
    before = server.get("/laconic/runs").json()
    unread = server.post("/laconic/runs", {"problem": "what?", "laconic": {"strategy": "priced-vote"}})
    assert "only reads the notation" in unread.json()["error"]["message"]
    assert server.get("/laconic/runs").json() == before  # nothing ran


def test_a_vote_tells_the_token_ids_of_its_winner(server: Running, questions: list[str]) -> None:
    asked = {"strategy": "self-consistency", "n": 3}
    given = body(questions[0], seed=2, laconic=asked, return_token_ids=True)
    found = server.post("/v1/chat/completions", given).json()
    winner = found["laconic"]["traces"][found["laconic"]["winner"]]
    assert len(found["choices"][0]["token_ids"]) == winner["tokens"]


def test_listed_names_keep_to_the_limit_of_traces(serve_with: Serve, questions: list[str]) -> None:
    with serve_with(most_traces=3) as server:
        names = [model["id"] for model in server.get("/v1/models").json()["data"]]
        assert "bundled:self-consistency-3" in names
        found = server.post(
            "/v1/chat/completions", {**body(questions[0], seed=1), "model": "bundled:self-consistency-3"}
        )
        assert found.status_code == 200
        one = server.get("/v1/models/bundled:self-consistency-3").json()
        assert one == next(model for model in server.get("/v1/models").json()["data"] if model["id"] == one["id"])
        assert server.get("/laconic/info").json()["n"] == 3


def test_the_page_and_its_parts(server: Running) -> None:
    page = server.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for part in ("/page.js", "/page.css", "/favicon.svg"):
        assert part in page.text
    for part in FILES:
        assert server.get(part).status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    info = server.get("/laconic/info").json()
    assert info["model"] == "bundled"
    assert "priced-vote" in info["strategies"]
    described = server.get("/openapi.json").json()
    assert "/v1/chat/completions" in described["paths"]


def test_metrics_count(server: Running, questions: list[str]) -> None:
    server.post("/v1/chat/completions", body(questions[0], max_tokens=4))
    text = server.get("/metrics").text
    assert 'laconic_responses_total{path="/v1/chat/completions",status="200"}' in text
    assert "laconic_generated_tokens_total" in text
    assert "laconic_first_token_seconds_bucket" in text


def test_a_policy_that_is_refused_leaves_what_runs_alone() -> None:
    """Where requests have policies of their own, all of them share one engine, which has to stay."""

    class Refusing:
        name, per_request = "refusing", True

        def engine(self, policy: Any) -> Any:
            raise InputError("not this one")

    driver = EngineDriver(Refusing(), 4)  # type: ignore[arg-type]
    running: Any = object()
    driver._engines[""] = running
    with pytest.raises(InputError, match="not this one"):
        driver._shared(None)
    assert driver._engines[""] is running


def test_health_is_503_until_the_model_is_there_and_when_it_is_not(serve_with: Serve) -> None:
    class Slow:
        name = "slow"
        go = threading.Event()

        def open(self) -> None:
            self.go.wait(20)
            raise ValueError("no weights")

        def close(self) -> None: ...

    slow = Slow()
    driver = EngineDriver(slow, 4)  # type: ignore[arg-type]
    made = Server(driver, Settings(model="slow", strategies=("priced-vote",), policies=("rpc",)))
    driver.start()

    async def main() -> None:
        transport = httpx.ASGITransport(app=made.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            early = await http.get("/health")
            assert (early.status_code, early.json()["status"]) == (503, "loading")
            assert (await http.post("/v1/completions", json={"prompt": "a"})).status_code == 503
            slow.go.set()
            await asyncio.to_thread(driver.wait_ready, 20)
            late = await http.get("/health")
            assert late.status_code == 503
            assert late.json() == {"status": "failed", "model": "slow", "reason": "ValueError: no weights"}

    asyncio.run(main())
    driver.stop()
