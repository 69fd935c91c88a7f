"""Facts about one request and its response, for the access log, the metrics and the CDN headers.

Each layer sets the fields that it knows, on one `RequestInfo` in the request's ASGI scope. Work in
the database executor may run twice, so layers assign to fields and never append to them. Nothing
here depends on Django or Pulp.
"""

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.responses.immediate import ImmediateResponse, immediate_response

BodySource = Literal["local", "redirect", "proxied", "remote"]
"""Where the bytes of a file come from: the file system, an object storage that the client is
redirected to, an object storage through this process, or a remote."""

_KEY = "content_star"


@dataclass(slots=True)
class RequestInfo:
    """Facts about one request and its response."""

    # Set by the layers.
    route: str = "unknown"
    """Label of the route in metrics: the name of upstream's handler for the URL where it has one.
    For reporting only; code decides by other attributes."""

    is_plugin_route: bool = False
    """Whether a route that a plugin added handles the request."""

    domain: str = "default"
    """Name of the domain; set once the domain or a distribution in it was found."""

    pulp_type: str | None = None
    """Type of the distribution that was found, such as `file.file`."""

    source: BodySource | None = None
    """None for listings, redirects within the content app, and errors."""

    surrogate_keys: tuple[str, ...] = ()
    """Keys by which a CDN can purge the response; empty until the content guard permitted it."""

    vary: tuple[str, ...] = ()
    """Request headers that the content guard may decide by; `*` stands for any property."""

    cache: Literal["HIT", "MISS"] | None = None
    """HIT for a response from the cache, MISS for a cacheable one; None if it cannot be cached."""

    stale_seconds: float | None = None
    """Seconds since a response that was sent stale was valid, or None."""

    above: str | None = None
    """Decoded path of the nearest directory above one that is not found; empty if there is none."""

    # Measured by `Telemetry`.
    status: int = 500
    """Status of the response; 500 if none was sent, as servers answer then."""

    bytes_sent: int = 0
    """Bytes of the body that the server accepted; 0 for HEAD."""

    seconds_to_start: float = 0.0
    """Seconds until the response started, which does not depend on the client's bandwidth."""

    seconds: float = 0.0
    """Seconds until the response ended, which a slow client prolongs."""


def request_info(scope: Scope) -> RequestInfo:
    """Return the request's `RequestInfo`; the first call for a scope creates it."""
    info: RequestInfo | None = scope.get(_KEY)
    if info is None:
        info = scope[_KEY] = RequestInfo()
    return info


def has_request_info(scope: Scope) -> bool:
    """Return whether the request has a `RequestInfo`, as all have that an `Observer` records."""
    return _KEY in scope


class Observer(Protocol):
    """Records finished requests, as the access log and the metrics do."""

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Record a request, also one that failed. Runs on the event loop, so it must not block."""


class Telemetry:
    """ASGI middleware that measures requests and passes them to observers."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        """`observers` is read on each request: its owner may change it."""
        self.app = app
        self.observers = observers

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Return the response if it is in memory, see `responses/immediate.py`."""
        if not self.observers:
            return immediate_response(self.app, scope)
        info = request_info(scope)
        started_at = time.perf_counter()
        response = immediate_response(self.app, scope)
        if response is not None:
            info.status = response.head.status
            info.bytes_sent = len(response.body)
            info.seconds = info.seconds_to_start = time.perf_counter() - started_at
            for observer in self.observers:
                observer.record(scope, info)
        return response

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not a coroutine function: without observers, that would add one to every request.
        observed = scope["type"] == "http" and self.observers
        return (self._observe if observed else self.app)(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        info = request_info(scope)
        is_head = scope["method"] == "HEAD"  # servers drop the body of a response to HEAD
        started_at = time.perf_counter()

        length = 0

        async def measured_send(message: Message) -> None:
            nonlocal length
            if message["type"] == "http.response.start":
                length = int(Headers(raw=message["headers"]).get("content-length", 0))
                info.status = message["status"]
                info.seconds_to_start = time.perf_counter() - started_at
            try:
                await send(message)
            finally:
                if message["type"] == "http.response.zerocopysend":
                    info.bytes_sent += message["count"]  # set by the server to what was sent
            # Counted after sending: a client disconnect while the server waits for the client
            # cancels `send`, and this part was not sent.
            if message["type"] == "http.response.body" and not is_head:
                info.bytes_sent += len(message.get("body", b""))
            elif message["type"] == "http.response.pathsend":
                info.bytes_sent += length

        try:
            await self.app(scope, receive, measured_send)
        finally:
            info.seconds = time.perf_counter() - started_at
            for observer in self.observers:
                observer.record(scope, info)
