"""Several servers of one model: the least busy one is asked, one that fails is set aside for a while."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from laconic import checks
from laconic.errors import InputError

ASIDE = 5.0  # seconds for which a server that has failed is asked only if all have; doubled each time
LONGEST_ASIDE = 120.0


def check_installed(who: str = "the openai engine") -> None:
    """Raises InputError where httpx is missing. who: needs it."""
    if importlib.util.find_spec("httpx") is None:
        raise InputError(f"{who} needs httpx, and it isn't installed; install laconic-llm[openai]")


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server."""

    url: str
    """Of its API, up to /v1."""
    busy: int = 0
    """Requests that it works on."""
    failures: int = 0
    """In a row."""
    aside: float = 0.0
    """Until then it is not asked."""
    unknown: set[str] = field(default_factory=set)
    """Fields of a request that it refuses, and can do without."""

    @property
    def shown(self) -> str:
        """The address for messages and logs: without a name and a password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def understood(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A body without what it refuses."""
        return {name: value for name, value in body.items() if name not in self.unknown}

    def failed(self) -> None:
        self.failures += 1
        self.aside = time.monotonic() + min(ASIDE * 2 ** (self.failures - 1), LONGEST_ASIDE)

    def worked(self) -> None:
        self.failures, self.aside = 0, 0.0


class Endpoints:
    """The servers of an engine. urls: separated by commas, or several texts; with or without /v1 at their ends.

    May be used from several threads.
    """

    def __init__(self, urls: str | Sequence[str]) -> None:
        given = urls.split(",") if isinstance(urls, str) else checks.texts("urls", urls, "addresses of servers")
        self._lock = threading.Lock()
        self.all = [Endpoint(base_url(url)) for url in given if url.strip()]
        if not self.all:
            raise InputError("there is no address; expected one of a server, such as http://127.0.0.1:8000/v1")
        if len({each.url for each in self.all}) < len(self.all):
            raise InputError("an address is given twice; give each server once")

    def take(self, but: Endpoint | None = None) -> Endpoint:
        """The least busy of those that work, busier by one request from here on; but: the last to be asked."""
        now = time.monotonic()

        def order(each: Endpoint) -> tuple[bool, bool, float, int]:
            return each is but, each.aside > now, each.aside if each.aside > now else 0.0, each.busy

        with self._lock:
            found = min(self.all, key=order)
            found.busy += 1
        return found

    def give_back(self, endpoint: Endpoint) -> None:
        """A request has ended."""
        with self._lock:
            endpoint.busy -= 1


def base_url(url: str) -> str:
    """An address up to /v1. Raises InputError for what is none."""
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{url!r} is no address of a server; expected one such as http://127.0.0.1:8000/v1")
    return text if parts.path else f"{text}/v1"
