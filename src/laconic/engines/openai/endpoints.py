"""Several servers of one model: the least busy one is asked, one that fails is set aside for a while."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
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

    def failed(self) -> None:
        self.failures += 1
        self.aside = time.monotonic() + min(ASIDE * 2 ** (self.failures - 1), LONGEST_ASIDE)

    def worked(self) -> None:
        self.failures, self.aside = 0, 0.0


class Endpoints:
    """The servers of an engine. urls: separated by commas, or several texts; with or without /v1 at their ends."""

    def __init__(self, urls: str | Sequence[str]) -> None:
        given = urls.split(",") if isinstance(urls, str) else checks.texts("urls", urls, "addresses of servers")
        self.all = [Endpoint(base_url(url)) for url in given if url.strip()]
        if not self.all:
            raise InputError("there is no address; expected one of a server, such as http://127.0.0.1:8000/v1")
        if len({each.url for each in self.all}) < len(self.all):
            raise InputError("an address is given twice; give each server once")

    def choose(self, but: Endpoint | None = None) -> Endpoint:
        """The least busy of those that work; but: the last to be asked."""
        now = time.monotonic()
        return min(
            self.all, key=lambda each: (each is but, each.aside > now, each.aside if each.aside > now else 0, each.busy)
        )


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
