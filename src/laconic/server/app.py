"""The routes: OpenAI's, those of the page, /health and /metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from laconic.errors import InputError, LaconicError
from laconic.jsonl import parse
from laconic.server.asks import Ask, AskError, Endpoint, Method, read_ask, resolve_model
from laconic.server.description import BODIES, TITLES
from laconic.server.driver import EngineDriver
from laconic.server.events import Event, Failed, Mailbox
from laconic.server.guard import Guard, Rules, read_body
from laconic.server.jobs import Job
from laconic.server.metrics import Metrics
from laconic.server.page_routes import add_page
from laconic.server.plain import PlainJob
from laconic.server.replies import REPLIES, Reply, error_body
from laconic.server.runs import Runs
from laconic.server.streaming import EventStream, gone
from laconic.server.votes import VoteJob
from laconic.version import __version__

KEEP_ALIVE = 15.0  # seconds without a word after which a stream says that it is alive
PACE, LONGEST_PACE = 0.003, 0.25
"""Seconds between two writes of a stream, for each stream that is open, and at most: what comes meanwhile goes out together.
A write costs as much as a step of a small model, so all streams together make a few hundred a second and no more."""
LISTED_TRACES = 16  # of the names that /v1/models lists
log = logging.getLogger("laconic.server")


@dataclass(frozen=True)
class Settings:
    """Of a server. strategies, policies, judges: names that there are, for the page and for models' names."""

    model: str
    strategies: tuple[str, ...]
    policies: tuple[str, ...]
    judges: tuple[str, ...] = ()
    method: Method = field(default_factory=Method)
    """What a request that says nothing gets."""
    rules: Rules = field(default_factory=Rules)
    origins: tuple[str, ...] = ()
    """Other pages that may call it from a browser."""
    most_traces: int = 256
    """Of one request."""
    most_tokens: int | None = None
    """That a trace of a request may generate at most."""
    seconds: float = 3600.0
    """That a request may take."""
    log_prompts: bool = False
    suggested: str = ""
    """The strategy that the page begins with."""
    example: str = ""
    """The problem that it begins with."""


class Server:
    """Puts a driver behind HTTP: `app` is what uvicorn runs."""

    def __init__(self, driver: EngineDriver, settings: Settings) -> None:
        self.driver, self.settings = driver, settings
        self.metrics, self.runs = Metrics(driver), Runs()
        self._streams = 0
        driver.on_done = self.metrics.count_job
        self.app = self._routes()

    # ---- requests of OpenAI's kind ---------------------------------------------------------------------------------

    async def answer(self, endpoint: Endpoint, request: Request) -> Response:
        """One request of any of the three endpoints."""
        ask = self.resolved(read_ask(endpoint, await self.read_json(request)))
        job = self.make_job(ask)
        self.take(job)
        try:
            events = await self.first_events(job, request)
            reply = REPLIES[endpoint](ask, ask.model or self.settings.model, self._choices(job))
            if ask.stream:
                stream = self._stream(job, reply, events)
                return EventStream(stream, {"x-request-id": job.id}, on_end=lambda: self.driver.cancel(job))
            return await self._whole(job, reply, events, request)
        except BaseException:
            self.driver.cancel(job)
            raise

    def _choices(self, job: Job) -> int:
        return 1 if isinstance(job, VoteJob) else job.ask.n * max(1, len(job.ask.prompts))

    async def read_json(self, request: Request) -> Any:
        """A request's body. Raises AskError for what is no JSON, or too large."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise AskError(
                f"the content type is {kind[:60]!r}; expected application/json (curl: -H 'Content-Type: application/json')",
                status=415,
            )
        body = await read_body(request.receive, self.settings.rules.most_bytes)
        try:
            return await asyncio.to_thread(parse, body) if len(body) > 1 << 16 else parse(body)
        except InputError as error:
            raise AskError(f"the body {error}") from None

    def resolved(self, ask: Ask) -> Ask:
        """With what its model's name says, and the server's limits."""
        settings = self.settings
        method = resolve_model(ask.model, settings.model, ask.method, settings.strategies, settings.policies)
        given = dict(ask.sampling)
        if settings.most_tokens is not None:
            asked = given.get("max_new_tokens", settings.most_tokens)
            given["max_new_tokens"] = min(asked, settings.most_tokens)
        traces = ask.n * max(1, len(ask.prompts))
        if max(traces, method.n or 1) > settings.most_traces:
            raise AskError(
                f"{max(traces, method.n or 1)} traces are asked for; this server runs at most {settings.most_traces} a request",
                "n",
            )
        return replace(ask, method=method, sampling=given)

    def make_job(self, ask: Ask) -> Job:
        """What the engine's thread will work on: a vote, or plain traces."""
        box = Mailbox(asyncio.get_running_loop())
        default = self.settings.method
        strategy = ask.method.strategy if ask.method.strategy is not None else default.strategy
        votes = ask.method.judge is not None or ask.method.budget is not None
        if strategy in (None, "none") and not (votes and strategy is None):
            for name in ("judge", "budget", "n"):
                if getattr(ask.method, name) is not None:
                    raise AskError(f"laconic.{name} is of a vote; give laconic.strategy as well", f"laconic.{name}")
            return PlainJob(ask, box, self.settings.seconds)
        if ask.n > 1 or len(ask.prompts) > 1:
            raise AskError(
                "a vote has one answer; leave n out (laconic.n is the number of traces), and ask one prompt at a time",
                "n",
            )
        return VoteJob(ask, box, self.settings.seconds)

    def take(self, job: Job) -> None:
        """Hand a job to the engine, and a vote to the page's list. Raises BusyError or NotReadyError."""
        if self.settings.log_prompts:
            log.info("request %s: %r", job.id, job.ask.question)
        self.driver.submit(job)
        if isinstance(job, VoteJob):
            self.runs.add(job)

    async def first_events(self, job: Job, request: Request) -> list[Event]:
        """Until the engine has taken it: what is wrong with it still has a status of its own, and it is no run."""
        try:
            return await self._read(job, request)
        except LaconicError:
            if isinstance(job, VoteJob) and not job.started and job.error:
                self.runs.drop(job)
            raise

    async def _read(self, job: Job, request: Request) -> list[Event]:
        """The next events, unless the client goes away. Raises what the job failed with."""
        reading = asyncio.ensure_future(job.mailbox.read())
        watching = asyncio.ensure_future(gone(request.receive))
        try:
            await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise AskError("the client went away", status=499)
            events = reading.result()
        finally:
            reading.cancel()
            watching.cancel()
        for event in events:
            if isinstance(event, Failed):
                raise event.error
        return events

    async def _whole(self, job: Job, reply: Reply, events: list[Event], request: Request) -> Response:
        while True:
            for event in events:
                reply.take(event)
            if reply.done is not None:
                return JSONResponse(reply.whole(), headers={"x-request-id": job.id})
            events = await self._read(job, request)

    async def _stream(self, job: Job, reply: Reply, events: list[Event]) -> AsyncGenerator[bytes, None]:
        self._streams += 1
        try:
            yield reply.sse(reply.opening())
            while True:
                failed = next((event for event in events if isinstance(event, Failed)), None)
                told = reply.sse(reply.chunks(events))
                if failed is not None:
                    yield told + reply.broken(failed.error) + reply.ending()
                    return
                if reply.done is not None:
                    yield told + reply.ending()
                    return
                if told:
                    yield told
                    await asyncio.sleep(min(PACE * self._streams, LONGEST_PACE))
                events = await job.mailbox.read(KEEP_ALIVE)
                if not events:
                    yield b": still at it\n\n"
        finally:
            self._streams -= 1

    # ---- everything in its place -----------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """The model, and names that stand for settings of it."""
        name, n = self.settings.model, min(LISTED_TRACES, self.settings.most_traces)
        presets = [f"{name}:{strategy}-{n}" for strategy in self.settings.strategies]
        presets += [f"{name}:{policy}" for policy in self.settings.policies]
        return [self.described(each) for each in (name, *presets)]

    def described(self, name: str) -> dict[str, Any]:
        """A name in /v1/models."""
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "laconic",
            "root": self.settings.model,
            "max_model_len": self.driver.model.context if self.driver.state == "ready" else None,
        }

    def info(self) -> dict[str, Any]:
        """What the page can ask for."""
        settings = self.settings
        method = settings.method
        return {
            "model": settings.model,
            "version": __version__,
            "strategies": settings.strategies,
            "policies": settings.policies,
            "judges": settings.judges,
            "strategy": settings.suggested or settings.strategies[0],
            "compress": method.compress or "none",
            "n": min(method.n or 16, settings.most_traces),
            "most_traces": settings.most_traces,
            "example": settings.example,
        }

    def health(self) -> Response:
        state = self.driver.state
        told = {"status": "ok" if state == "ready" else state, "model": self.settings.model}
        if self.driver.why:
            told["reason"] = self.driver.why
        return JSONResponse(told, status_code=200 if state == "ready" else 503)

    def _routes(self) -> Any:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self.driver.start()
            yield
            await asyncio.to_thread(self.driver.stop)

        app = FastAPI(
            title="laconic",
            version=__version__,
            description="An OpenAI-compatible server whose answers are voted, pruned and compressed.",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
        )
        for path, endpoint in (
            ("/v1/chat/completions", "chat"),
            ("/v1/completions", "completions"),
            ("/v1/responses", "responses"),
        ):
            app.add_api_route(
                path,
                self._asking(endpoint),
                methods=["POST"],
                openapi_extra=BODIES[endpoint],
                summary=TITLES[endpoint],
            )

        @app.get("/v1/models", summary="The model, and names that stand for settings of it")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": self.models()}

        @app.get("/v1/models/{name:path}", summary="One of them")
        async def one_model(name: str) -> dict[str, Any]:
            resolve_model(name, self.settings.model, Method(), self.settings.strategies, self.settings.policies)
            return self.described(name)

        @app.get("/health", summary="200 when it is ready, 503 before and after")
        async def health() -> Response:
            return self.health()

        @app.get("/metrics", summary="For Prometheus")
        async def metrics() -> Response:
            return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

        add_page(app, self)

        async def sentence(request: Request, error: Exception) -> Response:
            assert isinstance(error, LaconicError)
            status, body = error_body(error)
            headers = {"retry-after": str(getattr(error, "seconds", 1))} if status == 429 else {}
            if status in (408, 413):
                headers["connection"] = "close"
            return JSONResponse(body, status_code=status, headers=headers)

        async def missing(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            what = f"{request.method} {request.url.path[:100]}"
            told = AskError(f"{what} isn't served here; GET /openapi.json lists what is", status=error.status_code)
            status, body = error_body(told)
            return JSONResponse(body, status_code=status, headers=error.headers)

        async def broken(request: Request, error: Exception) -> Response:
            log.exception("a request failed", exc_info=error)
            message = f"the request failed inside the server ({type(error).__name__}); its log has more"
            return JSONResponse(error_body(AskError(message, status=500))[1], status_code=500)

        app.add_exception_handler(LaconicError, sentence)
        app.add_exception_handler(HTTPException, missing)
        app.add_exception_handler(Exception, broken)
        counted = _Counting(app, self.metrics)
        guarded: Any = Guard(counted, self.settings.rules)
        if self.settings.origins:
            guarded = CORSMiddleware(
                guarded, allow_origins=list(self.settings.origins), allow_methods=["*"], allow_headers=["*"]
            )
        return guarded

    def _asking(self, endpoint: Any) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            return await self.answer(endpoint, request)

        asked.__name__ = f"create_{endpoint}"
        return asked


class _Counting:
    """Counts responses by path and status; of paths only those that there are, so that a scan makes no thousand series."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self.metrics.responses.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
