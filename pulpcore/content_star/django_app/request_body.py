"""The body of a request to Django: a file that a view's thread reads while it arrives."""

import asyncio
import io
import time
from concurrent.futures import CancelledError, Future
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

SMALL = 64 * 1024
"""Bytes that are read before a view begins: it then takes a thread only while it works. Servers
have as much in memory anyway (uvicorn's `HIGH_WATER_LIMIT`)."""

STALL_TIMEOUT = 60.0
"""Seconds for which a client may send nothing (Django's `body_receive_timeout`, nginx's
`client_body_timeout`)."""

MIN_RATE = 1024
"""Bytes a second that a client has to send on average, after those first seconds: a thread waits
for it. Apache's `RequestReadTimeout` asks for 500."""

LINGER_SIZE = 4 * 1024 * 1024
LINGER_TIMEOUT = 5.0
"""Bytes and seconds of a body nobody wants that are read before the connection is closed: clients
that still send when it closes may lose the response that they have got (RFC 9112 9.6)."""


class BodyError(OSError):
    """A body cannot be read to its end; `status` is that of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ReadBody:
    """A body that has been read."""

    is_complete = True
    error: BodyError | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> BinaryIO:
        """Return the body as a view reads it."""
        return io.BytesIO(self._data)

    async def linger(self) -> None:
        """Do nothing: nothing is left."""

    def abort(self) -> None:
        """Do nothing: nothing has to be waited for."""


class StreamedBody(io.RawIOBase):
    """A body that is read by a thread while it arrives.

    Nothing is read ahead. The server has some of it in memory and stops reading from the
    connection, so that a client cannot send more than is wanted.
    """

    def __init__(self, receive: Receive, max_size: int | None, expects_continue: bool) -> None:
        """Make the body on the event loop that `receive` belongs to.

        `expects_continue`: the client sends it only once it is being read (RFC 9110 10.1.1).
        """
        super().__init__()
        self.error: BodyError | None = None
        self.is_complete = False
        self._receive = receive
        self._max_size = max_size
        self._awaits_continue = expects_continue
        self._loop = asyncio.get_running_loop()
        self._pending: Future[bytes] | None = None
        self._part = memoryview(b"")
        self._size = 0
        self._waited = 0.0

    def open(self) -> BinaryIO:
        """Return the body as a view reads it: `read(size)` waits for as many bytes, or the end."""
        return io.BufferedReader(self, SMALL)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes in a thread. Raises `BodyError` where the body ends before its end."""
        while not self._part and not self.is_complete:
            self._part = memoryview(self._wait())
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    async def read_all(self) -> bytes:
        """Return all of it, on the event loop."""
        data = b""
        while not self.is_complete:
            data += await self._next()
        return data

    async def linger(self) -> None:
        if self._awaits_continue or (self.error and self.error.status != 413):
            return
        try:
            async with asyncio.timeout(LINGER_TIMEOUT):
                size = 0
                while size < LINGER_SIZE and not self.is_complete:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return
                    size += len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            return

    def abort(self) -> None:
        if not self.is_complete:
            self.error = self.error or BodyError(400, "The request is over.")
            if pending := self._pending:
                pending.cancel()

    def _wait(self) -> bytes:
        if asyncio._get_running_loop() is self._loop:
            raise RuntimeError("Read the body in a thread: the event loop has to receive it.")
        self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._pending.result()
        except CancelledError:
            raise BodyError(400, "The request is over.") from None
        finally:
            self._pending = None  # it holds the error, which holds what the view has

    async def _next(self) -> bytes:
        """Return the next bytes of the connection. Runs on the event loop."""
        if self.error:
            raise BodyError(self.error.status, self.error.reason)
        self._awaits_continue = False
        left = STALL_TIMEOUT + self._size / MIN_RATE - self._waited
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(STALL_TIMEOUT, left)):
                message = await self._receive()
        except TimeoutError:
            raise self._fail(408, "The body takes too long to arrive.") from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise self._fail(400, "The client left before the end of the body.")
        data: bytes = message.get("body", b"")
        self._size += len(data)
        if self._max_size is not None and self._size > self._max_size:
            raise self._fail(413, f"The body has more than {self._max_size} bytes.")
        self.is_complete = not message.get("more_body", False)
        return data

    def _fail(self, status: int, reason: str) -> BodyError:
        # Another one than is raised: with its traceback it would keep an unfinished upload.
        self.error = BodyError(status, reason)
        return BodyError(status, reason)


RequestBody = ReadBody | StreamedBody


async def request_body(scope: Scope, receive: Receive, max_size: int | None) -> RequestBody:
    """Return the body of a request: a small one is in memory, a larger one still to be read.

    It has an `error` where its length is over `max_size` bytes, or a small one does not arrive.
    """
    headers = Headers(scope=scope)
    length = headers.get("content-length")
    expects = "expect" in headers
    stream = StreamedBody(receive, max_size, expects)
    if length is None or not length.isdigit():
        is_empty = "transfer-encoding" not in headers and scope["http_version"].startswith("1")
        return ReadBody(b"") if is_empty else stream
    if max_size is not None and int(length) > max_size:
        stream.error = BodyError(413, f"The body has more than {max_size} bytes.")
        return stream
    if int(length) > SMALL or expects:
        return stream
    try:
        return ReadBody(await stream.read_all() if int(length) else b"")
    except BodyError:
        return stream
