"""A server of the bundled model in this process, as `laconic serve` makes it, at a port that is free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from laconic.cli.common import choose_policy
from laconic.cli.engines import choose_engine
from laconic.cli.serve import bind
from laconic.cli.served_model import ServingModel
from laconic.problems import generate
from laconic.server.app import Server, Settings
from laconic.server.asks import Method
from laconic.server.driver import EngineDriver
from laconic.server.guard import PatientProtocol, Rules

STRATEGIES = ("priced-vote", "self-consistency", "deepprune")
POLICIES = ("rpc", "random", "learned")


@dataclass
class Running:
    """A server that runs."""

    url: str
    server: Server

    @property
    def driver(self) -> EngineDriver:
        return self.server.driver

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **more)

    def idle(self) -> bool:
        """Whether nothing is left of any request."""
        engines = self.driver._engines.values()
        return self.driver.running == 0 and not any(each.owners or each.busy for each in engines)

    def wait_idle(self, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.idle():
            assert time.monotonic() < end, "traces of a request are left"
            time.sleep(0.01)


@contextmanager
def serving(most: int = 32, model: Any = None, batch: int = 32, **settings: Any) -> Iterator[Running]:
    """A server with these settings."""
    served = model or ServingModel(
        choose_engine("hf", None), "bundled", choose_policy("none", True), Method(n=8), batch, device="cpu"
    )
    driver = EngineDriver(served, most)
    given = {"model": "bundled", "strategies": STRATEGIES, "policies": POLICIES, "judges": ("bundled",)} | settings
    server = Server(driver, Settings(**given))
    bound = bind("127.0.0.1", 0)
    config = uvicorn.Config(server.app, http=PatientProtocol, log_level="warning", lifespan="on", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: running.run(sockets=[bound]), daemon=True)
    thread.start()
    assert driver.wait_ready(300)  # a vLLM takes its time
    try:
        yield Running(f"http://127.0.0.1:{bound.getsockname()[1]}", server)
    finally:
        running.should_exit = True
        thread.join(20)
        bound.close()
        assert not thread.is_alive()
        assert driver.state in ("stopped", "failed")


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """One that most tests share."""
    with serving(example="x", rules=Rules(most_bytes=200_000)) as running:
        yield running


@pytest.fixture(scope="session")
def serve_with() -> Callable[..., AbstractContextManager[Running]]:
    return serving


@pytest.fixture(scope="session")
def questions() -> list[str]:
    return [problem.question for problem in generate(8, seed=5, level=3)]
