"""TLS handshakes that count as connections, with their timeout and limit.

Event loops call `connection_made` after the handshake, for which a client has a minute. So our
protocol class starts TLS itself. It also needs the transport below that of TLS, which knows how
much the socket has yet to send.
"""

import asyncio
import ssl
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config

from pulpcore.content_star.server.limits import SHUTDOWN_GRACE

if TYPE_CHECKING:
    from pulpcore.content_star.server.protocol import HttpProtocol

if "ssl" not in Config.load.__code__.co_names:
    raise ImportError("uvicorn's Config does not set `ssl`, which its servers pass to the loop.")


class _LoopSSLContext:
    """Descriptor that hides `Config.ssl` from uvicorn's loop if the protocol starts TLS itself."""

    def __get__(self, config: Config | None, owner: type) -> Any:
        if config is None:
            return self
        starts_tls = getattr(config.http_protocol_class, "starts_tls", False)
        return None if starts_tls else config.__dict__["ssl"]

    def __set__(self, config: Config, context: ssl.SSLContext | None) -> None:
        config.__dict__["ssl"] = context


Config.ssl = _LoopSSLContext()  # type: ignore[assignment]


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return the TLS context of a server, None without TLS."""
    context: ssl.SSLContext | None = config.__dict__["ssl"]
    return context


class Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is complete. It counts as an idle one."""

    is_lost = is_unread = False
    stalled_seconds = 0.0

    def __init__(
        self, connection: "HttpProtocol", transport: asyncio.Transport, context: ssl.SSLContext
    ) -> None:
        """`connection` is given the transport of TLS, and what has been received by then."""
        self.transport = transport
        self._connection = connection
        self._received = b""
        self._has_ended = False
        self._is_stopping = False
        connections: set[Any] = connection.connections
        connections.add(self)
        start = connection.loop.start_tls(transport, self, context, server_side=True)
        # Run the first step now: the transport begins to read as soon as this returns.
        self._task = connection.loop.create_task(self._complete(_Started(start)))
        connection.open_connections.add(self)

    async def _complete(self, start: "_Started") -> None:
        try:
            transport = await start
        except OSError:  # also of TLS, and timeouts
            return
        finally:
            connections: set[Any] = self._connection.connections
            connections.discard(self)
            self._connection.open_connections.remove(self)
        if transport is None or transport.is_closing():  # aborted
            return
        connection = self._connection
        connection.tcp = self.transport
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._is_stopping:
            connection.shutdown()
        if self._received:
            connection.data_received(self._received)
        if self._has_ended:
            connection.eof_received()

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return int(self.transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        """Keep what follows the handshake at once."""
        self._received += data

    def eof_received(self) -> None:
        """Keep the end of the connection."""
        self._has_ended = True

    def shutdown(self) -> None:
        """Go on for a moment, and accept a request then; called by uvicorn."""
        self._is_stopping = True
        self._connection.open_connections.set_deadline(self, SHUTDOWN_GRACE)

    def abort(self) -> None:
        """Abort the connection."""
        self.transport.abort()

    def expire(self) -> None:
        """Abort the connection, whose client was too slow."""
        self.abort()

    def evict(self) -> None:
        """Abort the connection because of the limit."""
        self._connection.open_connections.remove(self)
        self.abort()


class _Started:
    """A coroutine whose first step has been run."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._awaited = coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            while True:
                try:
                    yield self._awaited
                except BaseException as error:
                    self._awaited = self._coroutine.throw(error)
                else:
                    self._awaited = self._coroutine.send(None)
        except StopIteration as end:
            return end.value
