"""Adapter of an ASGI request to the protocol and transport of an aiohttp connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader
from starlette.types import Message, Receive, Scope, Send

from pulpcore.content_star.responses.disconnect import wait_for_disconnect

# Low-water mark, in bytes, of the buffered request body; aiohttp pauses reading at twice as many.
BODY_LIMIT = 64 * 1024


class Connection:
    """Replacement for aiohttp's `RequestHandler`, the `protocol` of a request.

    The ASGI server does framing and limits. This class feeds the request body, with back pressure,
    and detects the client's disconnect.
    """

    # Attributes that aiohttp reads from its protocol.
    ssl_context = None
    sockname = None
    max_field_size = 8190  # bytes of a header in a part of a multipart body
    max_headers = 128
    _reading_paused = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.peername = scope.get("client")
        self.transport = Transport(self)
        self.started = False
        """Whether the response has started."""
        self.finished = False
        """Whether the response is complete."""
        self.lost = False
        """Whether the client has disconnected or the handler has closed the connection."""
        self.closed = False
        """Whether the handler has closed the connection."""
        self._receive = receive
        self._send = send
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.body = StreamReader(self, BODY_LIMIT)

    @property
    def connected(self) -> bool:
        return not self.lost

    def pause_reading(self) -> None:
        """Stop receiving the body: the buffer is full."""
        self._reading_paused = True
        self._may_read.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        self._may_read.set()

    def keep_alive(self, value: bool) -> None:
        """Do nothing: the server manages keep-alive."""

    def close(self) -> None:
        """Close the connection, so that the client sees an incomplete response."""
        self.lost = self.closed = True

    force_close = close

    async def send(self, message: Message) -> None:
        """Send an ASGI message. Raises ConnectionResetError if the connection is closed."""
        if self.lost:
            raise ConnectionResetError("Cannot write to closing transport")
        if message["type"] == "http.response.start":
            self.started = True
        elif not message.get("more_body", False):
            # Set before sending: servers report a disconnect after the end of the response.
            self.finished = True
        await self._send(message)

    async def watch(self, on_disconnect: Callable[[], Any]) -> None:
        """Feed the body until the disconnect; if it is early, call `on_disconnect`."""
        await wait_for_disconnect(self._receive, self._feed)
        if self.finished:
            return
        self.lost = True
        self.body.set_exception(ConnectionResetError("The client has disconnected"))
        on_disconnect()

    async def _feed(self, message: Message) -> None:
        if self.body.is_eof():
            return
        self.body.feed_data(message.get("body", b""))
        if not message.get("more_body", False):
            self.body.feed_eof()
        await self._may_read.wait()


class Transport:
    """Replacement for the transport of an aiohttp connection; handlers may close it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sock = self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the client's address for `peername`; ASGI does not expose TLS and sockets."""
        return self._connection.peername if name == "peername" else default

    def is_closing(self) -> bool:
        return self._connection.lost

    def close(self) -> None:
        """Close the connection, so that the client sees an incomplete response."""
        self._connection.close()

    abort = close

    def setsockopt(self, *options: Any) -> None:
        """Close the connection: upstream sets SO_LINGER to reset it after a checksum error."""
        self._connection.close()

    def pause_reading(self) -> None:
        """Do nothing: the body is received as it is read."""

    resume_reading = pause_reading
