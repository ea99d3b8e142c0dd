"""What stands before the routes: keys, hosts, sizes, and connections that send nothing.

Pure ASGI, so that streams pass through as they come.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from laconic.server.asks import AskError
from laconic.server.replies import error_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset(
    {"/", "/health", "/page.css", "/page.js", "/tools.js", "/runs.js", "/compare.js", "/drawing.js", "/favicon.svg"}
)
"""What needs no key: nothing of it tells of anyone's work."""
HEADER_SECONDS = 10.0
"""For a request's line and headers to be complete."""
BODY_SECONDS = 30.0
"""For its body."""
MOST_HEADERS = 100
SECURE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
)


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Rules:
    """key: None is none. hosts: names by which the server may be called; None: any. most_bytes: of a body."""

    key: str | None = None
    hosts: frozenset[str] | None = None
    most_bytes: int = 4 << 20


class Guard:
    """Around an app: refuses what breaks the rules with an error of OpenAI's form."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except AskError as error:
            await refuse(send, error)
            return

        async def secured(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURE]
            await send(message)

        await self.app(scope, receive, secured)

    def _check(self, scope: Scope) -> None:
        if scope.get("http_version", "1.1") not in ("1.0", "1.1"):
            raise AskError("the version of HTTP is unknown; expected 1.1")
        if len(scope["headers"]) > MOST_HEADERS:
            raise AskError(f"{len(scope['headers']):,} headers came; expected at most {MOST_HEADERS}", status=431)
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), value)
        host = headers.get(b"host", b"").decode("latin-1")
        if self.rules.hosts is not None and _name_of(host) not in self.rules.hosts:
            raise AskError(
                f"the server is called by the name {host[:100]!r}, which isn't its own; call it by its address",
                status=400,
            )
        if self.rules.key is not None and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            given = headers.get(b"authorization", b"")
            scheme, _, key = given.partition(b" ")
            if scheme.lower() != b"bearer":
                key = headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(key.strip(), self.rules.key.encode()):
                raise AskError(
                    "the key is missing or wrong; send the server's with the header Authorization: Bearer KEY",
                    code="invalid_api_key",
                    status=401,
                )
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self.rules.most_bytes:
            raise too_large(self.rules.most_bytes)


def too_large(most: int) -> AskError:
    return AskError(f"the body is larger than {most:,} bytes, the most that this server reads", status=413)


async def read_body(receive: Receive, most: int) -> bytes:
    """A request's body. Raises AskError for one that is too large, or comes too slowly, or whose sender goes away."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise AskError("the client went away before its request was complete")
                size += len(message.get("body", b""))
                if size > most:
                    raise too_large(most)
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise AskError(f"the body did not come within {BODY_SECONDS:g} seconds", status=408) from None


async def refuse(send: Send, error: AskError) -> None:
    """The whole response of an error."""
    status, body = error_body(error)
    told = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode()), *SECURE]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": told})


def _name_of(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP protocol, but a connection that doesn't complete its headers in time is closed."""

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._idle():
            if self._impatience is None and not self.transport.is_closing():
                self._wait()
        elif self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        super().connection_lost(exc)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._impatience = self.loop.call_later(HEADER_SECONDS, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()
