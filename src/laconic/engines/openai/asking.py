"""Requests of servers with OpenAI's API whose answers come whole: tried again later, and at other servers."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from laconic import checks
from laconic.engines.openai.endpoints import Endpoint, Endpoints
from laconic.engines.openai.protocol import Served, error_of, find_served, refused_field
from laconic.engines.openai.statuses import BUSY, ELSEWHERE
from laconic.errors import EngineError, InputError

TRIES = 6
AT_ONCE = 32
SILENCE = 120.0  # seconds without an answer after which a server counts as gone
HURRIED_TRIES, HURRIED_SILENCE, HURRIED_WAIT = 2, 20.0, 1.0


class RefusedError(EngineError):
    """A server says that a request is wrong: no other try would help. status: HTTP's; text: its whole answer."""

    def __init__(self, message: str, status: int, text: str) -> None:
        super().__init__(message, status)
        self.text = text


def key_of(*names: str) -> dict[str, str]:
    """The header that carries a key: of the first of some environment variables that is set; none: no header."""
    secret = next((os.environ[name] for name in names if os.environ.get(name)), None)
    return {"Authorization": f"Bearer {secret}"} if secret else {}


class Asker:
    """Asks one server or several of the same model. headers: what goes with every request. at_once: requests at a time.

    May be used from several threads. hurry: others wait for whoever asks, so that a server gets two tries of 20 seconds.
    """

    def __init__(self, endpoints: Endpoints, headers: Mapping[str, str], at_once: int = AT_ONCE) -> None:
        self.endpoints = endpoints
        self.hurry = False
        self.at_once = checks.whole("at_once", at_once, 1, meaning="requests")
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        self._http = httpx.Client(headers=dict(headers), limits=limits, timeout=httpx.Timeout(SILENCE, connect=15.0))

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def find_model(self, asked: str | None) -> Served:
        """The model, by what all servers say that can be reached; those that can't are set aside.

        Raises InputError where no server can be used, or one of them doesn't serve the model.
        """
        problems, served = [], None
        for endpoint in self.endpoints.all:
            try:
                response = self._http.get(f"{endpoint.url}/models", timeout=httpx.Timeout(15.0, connect=5.0))
            except httpx.HTTPError as error:
                problems.append(f"{endpoint.shown} can't be reached ({said(error)})")
                endpoint.failed()
                continue
            found = find_served(endpoint.shown, response.status_code, response.text, asked)
            if found.name is None:
                problems.append(found.problem)
                endpoint.failed()
                continue
            asked = found.name
            contexts = [each.context for each in (served, found) if each is not None and each.context is not None]
            served = Served(found.name, min(contexts, default=None))
        if served is not None:
            return served
        raise InputError(f"no server can be used: {'; '.join(problems)}")

    def ask(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one request. Raises RefusedError for one that is wrong, EngineError where servers fail for good."""
        endpoint, told = None, ""
        refusing: set[Endpoint] = set()
        silence, most_wait = (HURRIED_SILENCE, HURRIED_WAIT) if self.hurry else (SILENCE, 60.0)
        for attempt in range(HURRIED_TRIES if self.hurry else TRIES):
            endpoint = self.endpoints.take(endpoint)
            wait = min(0.25 * 2**attempt, 8.0) * (0.5 + random.random() / 2)
            try:
                own = endpoint.understood(body)
                response = self._http.post(endpoint.url + path, json=own, timeout=httpx.Timeout(silence, connect=15.0))
                if response.status_code == 200:
                    found = response.json()
                    if not isinstance(found, dict):
                        raise ValueError("an answer that is no object")
                    endpoint.worked()
                    return found
                told = f"{endpoint.shown} answers {error_of(response.status_code, response.text)}"
                unknown = refused_field(response.status_code, response.text, own)
                if unknown is not None:  # it is asked once more, without that
                    endpoint.unknown.add(unknown)
                    wait = 0.0
                elif response.status_code in ELSEWHERE and len(refusing | {endpoint}) < len(self.endpoints.all):
                    refusing.add(endpoint)
                    endpoint.failed()
                elif response.status_code not in BUSY and response.status_code < 500:
                    raise RefusedError(told, response.status_code, response.text)
                if response.status_code >= 500:
                    endpoint.failed()
                with contextlib.suppress(ValueError):  # a date
                    wait = max(wait, min(most_wait, float(response.headers.get("retry-after", "0"))))
            except (httpx.HTTPError, ValueError) as error:
                endpoint.failed()
                told = f"{endpoint.shown}: {said(error)}"
            finally:
                self.endpoints.give_back(endpoint)
            if attempt >= len(self.endpoints.all) - 1:  # all have been asked
                time.sleep(wait)
        raise EngineError(told)

    def ask_all(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
        """The answers to many (path, body), in order. Raises as `ask`."""
        if not requests:
            return []
        with ThreadPoolExecutor(min(self.at_once, len(requests))) as pool:
            return list(pool.map(lambda request: self.ask(*request), requests))


def said(error: BaseException) -> str:
    """An error in a line."""
    return " ".join(str(error).split()) or type(error).__name__
