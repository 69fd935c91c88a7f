"""What is known about one request and its answer, for the log, the metrics and edge caches.

The layers fill in a `RequestInfo` as they learn things, and logs and metrics are made from it.
It stays in the request's ASGI scope, which the response is called with too, and knows neither
Django nor Pulp. Work behind the database door may be done twice, so that layers set its fields and
never add to them.
"""

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

AnswerSource = Literal["local", "redirect", "proxied", "remote"]
"""Where the bytes of a file come from: the file system, the object storage that the client is sent
to, the object storage through this process, or a remote."""

_KEY = "content_star"


@dataclass(slots=True)
class RequestInfo:
    """One request and its answer."""

    # Filled in by the layers.
    route: str = "unknown"
    """What kind of URL was asked for, by the name of upstream's handler of it."""

    domain: str = "default"
    """The domain's name, once a distribution of it was found."""

    pulp_type: str | None = None
    """The kind of distribution that was found, such as `file.file`."""

    source: AnswerSource | None = None
    """None for all that is no file: listings, redirects within the content app, errors."""

    tags: tuple[str, ...] = ()
    """What an edge can purge the answer by; nothing is told before a guard has permitted it."""

    vary: tuple[str, ...] = ()
    """Request headers by which a guard may have decided; `*` stands for anything."""

    cache: Literal["HIT", "MISS"] | None = None
    """Whether the answer was kept, or could be from now on; None if it is never kept."""

    # Measured by `Telemetry`.
    status: int = 500
    """Status of the answer; what servers answer if there was none."""

    bytes_sent: int = 0
    """Bytes of the body that the server took; none for HEAD."""

    seconds_to_start: float = 0.0
    """Seconds until the answer began, which is what Pulp is to blame for."""

    seconds: float = 0.0
    """Seconds until the answer ended, which a slow client prolongs."""


def request_info(scope: Scope) -> RequestInfo:
    """Return the exchange of a request, the same one each time."""
    info: RequestInfo | None = scope.get(_KEY)
    if info is None:
        info = scope[_KEY] = RequestInfo()
    return info


def is_observed(scope: Scope) -> bool:
    """Tell whether anything has been noted of the request, or somebody waits for it."""
    return _KEY in scope


class Observer(Protocol):
    """Wants to be told of every exchange when it has ended, in whatever way."""

    def record(self, scope: Scope, info: RequestInfo) -> None:
        """Take notice of an exchange; runs on the event loop, so it must not block."""


class Telemetry:
    """ASGI middleware that measures exchanges; without observers it stays out of the way."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        """`observers` may become others while the process starts and stops."""
        self.app = app
        self.observers = observers

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: that would be one more for every request to go through.
        observed = scope["type"] == "http" and self.observers
        return (self._observe if observed else self.app)(scope, receive, send)

    async def _observe(self, scope: Scope, receive: Receive, send: Send) -> None:
        info = request_info(scope)
        is_head = scope["method"] == "HEAD"  # servers drop the body of what answers HEAD
        began = time.perf_counter()

        length = 0

        async def measured_send(message: Message) -> None:
            nonlocal length
            if message["type"] == "http.response.start":
                length = int(Headers(raw=message["headers"]).get("content-length", 0))
                info.status = message["status"]
                info.seconds_to_start = time.perf_counter() - began
            await send(message)
            # After sending: while the server waits for a slow client that then leaves, the
            # response is cancelled, and this part has not been sent.
            if message["type"] == "http.response.body" and not is_head:
                info.bytes_sent += len(message.get("body", b""))
            elif message["type"] == "http.response.pathsend":
                info.bytes_sent += length

        try:
            await self.app(scope, receive, measured_send)
        finally:
            info.seconds = time.perf_counter() - began
            for observer in self.observers:
                observer.record(scope, info)
