"""Connection limit and timeouts of one server."""

import asyncio
import logging
import resource
import select
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

from django.conf import settings
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from pulpcore.content_star.responses.headers import RETRY_AFTER

if TYPE_CHECKING:
    from pulpcore.content_star.server.closing import ClosingProtocol
    from pulpcore.content_star.server.handshake import Handshake

    Connection: TypeAlias = ClosingProtocol | Handshake

RESERVE = 16
"""Connections reserved for health checks."""
TOO_MANY = "The server has too many connections. Try again later."
OWN_FILES = 64
"""File descriptors of the process itself: database, log, event loop, listening sockets."""
INTERVAL = 1.0
"""Seconds between checks of the deadlines, with one timer for all connections."""
STALLED_TIMEOUT = 60.0
"""Seconds after which a client that reads nothing may be disconnected: nginx's `send_timeout`."""
STALLED_INTERVAL = 10.0
"""Seconds between looks for such clients: to look at 30,000 takes 0.2 s."""

logger = logging.getLogger(__name__)


class Connections:
    """Deadlines and limits of all connections of a server.

    `idle` has the connections without a request, oldest first: its handshake of TLS is under way,
    nothing or part of a head has been received, keep-alive waits for the next request, or the last
    responses have yet to be read. At the limit the oldest idle connection is closed for a new one,
    so that idle connections cannot exhaust the limit. If all are busy, new ones get 503, except for
    health checks, and those whose clients do not read are aborted.
    """

    _of: ClassVar[WeakKeyDictionary[ServerState, "Connections"]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.limit = max(settings.CONTENT_STAR_CONNECTIONS or default_limit(), 2 * RESERVE)
        self.head_timeout: float = settings.CONTENT_STAR_HEAD_TIMEOUT
        self.body_timeout: float = settings.CONTENT_STAR_BODY_TIMEOUT
        self.probes = _probes()
        self.all: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        self.deadlines: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = 0.0

    @classmethod
    def of(cls, server: ServerState, loop: asyncio.AbstractEventLoop) -> "Connections":
        """Return the connections of a server."""
        found = cls._of.get(server)
        if found is None:
            found = cls._of[server] = cls(loop)
        return found

    def add(self, connection: "Connection") -> None:
        """Add a connection, and close the oldest idle one if the limit is exceeded."""
        self.all.add(connection)
        self.set_idle(connection)
        self.set_deadline(connection, self.head_timeout)
        if len(self.all) > self.limit:
            next(iter(self.idle)).evict()
        if self._timer is None:
            self._timer = self.loop.call_later(INTERVAL, self._check)

    def remove(self, connection: "Connection") -> None:
        """Remove a connection and its deadline."""
        self.all.discard(connection)
        self.set_busy(connection)

    def set_idle(self, connection: "Connection") -> None:
        """Mark a connection as idle, as the newest one."""
        self.idle[connection] = None

    def set_busy(self, connection: "Connection") -> None:
        """Mark a connection as busy, and remove its deadline."""
        self.idle.pop(connection, None)
        self.deadlines.pop(connection, None)

    def set_deadline(self, connection: "Connection", seconds: float) -> None:
        """Call `connection.expire()` in `seconds`, with a resolution of `INTERVAL`."""
        self.deadlines[connection] = self.loop.time() + seconds

    @property
    def full(self) -> bool:
        """Whether the limit of busy connections is reached."""
        return len(self.all) - len(self.idle) >= self.limit - RESERVE

    def probes_only(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI application that serves health checks, and responds 503 to the rest."""

        async def probes_or_unavailable(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            headers = {"Retry-After": str(RETRY_AFTER), "Connection": "close"}
            unavailable = PlainTextResponse(f"503: {TOO_MANY}", 503, headers)
            await (app if path in self.probes else unavailable)(scope, receive, send)

        return probes_or_unavailable

    def _check(self) -> None:
        """Expire deadlines, abort dead connections, and restart the timer if any are left."""
        now = self.loop.time()
        try:
            for each in [each for each, deadline in self.deadlines.items() if deadline <= now]:
                self._expire(each)
            self._abort_reset()
            if self.full and now >= self._next_look:
                self._next_look = now + STALLED_INTERVAL
                self._abort_stalled()
        finally:
            self._timer = self.loop.call_later(INTERVAL, self._check) if self.all else None

    def _expire(self, connection: "Connection") -> None:
        """Expire a deadline; an error ends this connection only."""
        try:
            connection.expire()
        except Exception:
            logger.exception("Handling the timeout of a connection failed; it is aborted")
            self.remove(connection)
            connection.abort()

    def _abort_reset(self) -> None:
        """Abort connections that the client has reset or closed, which nothing else notices."""
        for each in [each for each in self.all if each.is_lost]:
            each.abort()
        unread = {each.fileno(): each for each in self.all if each.is_unread}
        if not unread:
            return
        poll = select.poll()
        for fd in unread:
            poll.register(fd, 0)  # only POLLERR and POLLHUP, which are always reported
        for fd, _ in poll.poll(0):
            unread[fd].abort()

    def _abort_stalled(self) -> None:
        """Abort connections whose clients have not read their responses for a while."""
        busy = self.all - self.idle.keys()
        stalled = [each for each in busy if each.stalled_seconds >= STALLED_TIMEOUT]
        for each in stalled:
            each.abort()
        if stalled:
            logger.warning(
                "All connections were busy (CONTENT_STAR_CONNECTIONS: %d). %d have been closed,"
                " whose clients had read nothing for %d seconds.",
                self.limit,
                len(stalled),
                STALLED_TIMEOUT,
            )


def default_limit() -> int:
    """Return the connection limit for the limit of open files: each may need another file."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 16
    return (soft - OWN_FILES) // 2


def _probes() -> frozenset[str]:
    # V3_API_ROOT is a pattern with API_ROOT_REWRITE_HEADER, and pulpcore 3.115 adds it to the
    # settings too late for modules that uvicorn imports before the application.
    content, api = settings.CONTENT_PATH_PREFIX, f"{settings.API_ROOT}api/v3/"
    return frozenset({f"{content}livez", f"{content}readyz", f"{api}livez/"})
