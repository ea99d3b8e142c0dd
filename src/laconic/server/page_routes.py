"""The routes of the page: its files, and the runs that it shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib import resources
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from laconic.server.asks import Ask, AskError, read_ask
from laconic.server.driver import EngineDriver
from laconic.server.events import Event
from laconic.server.jobs import Job
from laconic.server.runs import Runs, state_of, summary, whole
from laconic.server.streaming import EventStream
from laconic.server.votes import VoteJob

PAGE_EVERY = 0.25  # seconds between two states of a run on the page
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "tools", "runs", "compare", "drawing")
    },
}
"""By path: the file in page/, and its type."""


class PageServer(Protocol):
    """What the page needs of a server (`app.Server`)."""

    driver: EngineDriver
    runs: Runs

    def info(self) -> dict[str, Any]:
        """What the page can ask for."""

    async def read_json(self, request: Request) -> Any: ...

    def resolved(self, ask: Ask) -> Ask: ...

    def make_job(self, ask: Ask) -> Job: ...

    def take(self, job: Job) -> None: ...

    async def first_events(self, job: Job, request: Request) -> list[Event]: ...


def add_page(app: FastAPI, server: PageServer) -> None:
    """The page of a server, and what it calls."""

    @app.get("/laconic/info", summary="What the page can ask for")
    async def info() -> dict[str, Any]:
        return server.info()

    @app.get("/laconic/runs", summary="Votes of this server")
    async def listed() -> list[dict[str, Any]]:
        return server.runs.listed()

    @app.post("/laconic/runs", summary="Begin a vote")
    async def begin(request: Request) -> Response:
        return await _start(server, request)

    @app.get("/laconic/runs/{name}", summary="A vote with all its texts")
    async def one_run(name: str) -> Response:
        found = whole(server.runs.get(name))
        headers = {"content-disposition": f'attachment; filename="laconic-{found["id"][:8]}.json"'}
        return JSONResponse(found, headers=headers)

    @app.get("/laconic/runs/{name}/summary", summary="A vote without texts: how it stands, and how it came there")
    async def one_summary(name: str) -> dict[str, Any]:
        return summary(server.runs.get(name))

    @app.get("/laconic/runs/{name}/events", summary="How a vote stands, as it goes")
    async def events(name: str) -> Response:
        return EventStream(_watch(server.runs.get(name)))

    @app.get("/laconic/runs/{name}/traces/{index}", summary="A trace's text, kept and evicted tokens told apart")
    async def one_trace(name: str, index: str) -> dict[str, Any]:
        if not index.isdecimal() or len(index) > 6:
            raise AskError(f"the trace {index[:20]!r} is no number", status=404)
        job = server.runs.get(name)
        return await asyncio.wrap_future(server.driver.call(lambda: job.read_trace(int(index))))

    @app.delete("/laconic/runs/{name}", summary="Stop a vote")
    async def stop(name: str) -> dict[str, Any]:
        job = server.runs.get(name)
        server.driver.end_early(job, "it was stopped by hand")
        return {"id": name}

    for path, (file, kind) in FILES.items():
        app.add_api_route(path, _static(file, kind), methods=["GET", "HEAD"], include_in_schema=False)


async def _start(server: PageServer, request: Request) -> Response:
    """A vote that goes on when its page is closed."""
    body = await server.read_json(request)
    if not isinstance(body, dict):
        raise AskError("the body is no object; expected one with problem")
    problem = body.pop("problem", None)
    if not isinstance(problem, str) or not problem.strip():
        raise AskError("problem is missing; expected a text", "problem")
    ask = server.resolved(read_ask("chat", {**body, "messages": [{"role": "user", "content": problem}]}))
    job = server.make_job(ask)
    if not isinstance(job, VoteJob):
        raise AskError("laconic.strategy is missing; expected one, such as priced-vote", "laconic.strategy")
    server.take(job)
    try:
        await server.first_events(job, request)
    except AskError as error:
        if error.status != 499:
            raise
    finally:
        job.mailbox.close()
    return JSONResponse({"id": job.id}, status_code=201)


async def _watch(job: VoteJob) -> AsyncGenerator[bytes, None]:
    before = ""
    while True:
        over = job.over  # asked first: what is told last is how it ended
        state = json.dumps(state_of(job))
        if state != before:
            before = state
            yield f"data: {state}\n\n".encode()
        if over:
            return
        await asyncio.sleep(PAGE_EVERY)


def _static(file: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        text = (resources.files("laconic.server") / "page" / file).read_bytes()
        return Response(text, media_type=kind, headers={"cache-control": "no-cache"})

    return page
