"""One exchange of ASGI, as aiohttp's requests and body readers see a connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader
from starlette.types import Message, Receive, Scope, Send

# Bytes of a request's body from which on nothing more is taken from the server until the handler
# reads; aiohttp holds twice as many.
BODY_LIMIT = 64 * 1024


class Connection:
    """Stands where aiohttp has the protocol of its own server; a request keeps it as `protocol`.

    The server frames what is sent and limits what is received, so that little is left to do here:
    to pass on the body as fast as it is read, and to notice that the client has left.
    """

    # What aiohttp asks its protocol for.
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
        """Whether a response has been begun."""
        self.finished = False
        """Whether a response has been sent to its end."""
        self.lost = False
        """Whether the client has left, or has to: what is sent goes nowhere."""
        self.closed = False
        """Whether it was the handler who ended it."""
        self._receive = receive
        self._send = send
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.body = StreamReader(self, BODY_LIMIT)

    @property
    def connected(self) -> bool:
        return not self.lost

    def pause_reading(self) -> None:
        """Stop feeding the body: enough of it waits to be read."""
        self._reading_paused = True
        self._may_read.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        self._may_read.set()

    def keep_alive(self, value: bool) -> None:
        """Nothing to do: the server decides."""

    def close(self) -> None:
        """Cut the connection: what has been sent so far is not the whole."""
        self.lost = self.closed = True

    force_close = close

    async def send(self, message: Message) -> None:
        """Send a message of ASGI. Raises ConnectionResetError if nobody is there any more."""
        if self.lost:
            raise ConnectionResetError("Cannot write to closing transport")
        if message["type"] == "http.response.start":
            self.started = True
        elif not message.get("more_body", False):
            # First: from now on servers call the end of the exchange a disconnect.
            self.finished = True
        await self._send(message)

    async def watch(self, on_disconnect: Callable[[], Any]) -> None:
        """Feed the body, until the client leaves; `on_disconnect` is called if that is too soon."""
        while (message := await self._receive())["type"] != "http.disconnect":
            if self.body.is_eof():
                continue
            self.body.feed_data(message.get("body", b""))
            if not message.get("more_body", False):
                self.body.feed_eof()
            await self._may_read.wait()
        if self.finished:
            return
        self.lost = True
        self.body.set_exception(ConnectionResetError("The client has left"))
        on_disconnect()


class Transport:
    """Stands where aiohttp has the transport of a connection; handlers may close it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sock = self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Only the address of the client is known; TLS and sockets are the server's business."""
        return self._connection.peername if name == "peername" else default

    def is_closing(self) -> bool:
        return self._connection.lost

    def close(self) -> None:
        """Cut the connection, since what has been sent so far is not the whole."""
        self._connection.close()

    abort = close

    def setsockopt(self, *options: Any) -> None:
        """Upstream has sockets reset when it finds out that it has sent wrong bytes."""
        self._connection.close()

    def pause_reading(self) -> None:
        """Nothing to do: bodies are read when they are asked for."""

    resume_reading = pause_reading
