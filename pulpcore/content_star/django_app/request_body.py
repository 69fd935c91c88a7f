"""Request body as a file object, which the thread of a view reads while it arrives."""

import asyncio
import io
import time
from concurrent.futures import CancelledError, Future
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

SMALL = 64 * 1024
"""Maximum bytes of a body that is read before the view starts, so that no thread waits for it.
Servers buffer as much anyway (uvicorn's `HIGH_WATER_LIMIT`)."""

STALL_TIMEOUT = 60.0
"""Seconds without a byte from the client (Django's `body_receive_timeout`, nginx's
`client_body_timeout`)."""

MIN_RATE = 1024
"""Minimum average rate in bytes per second, after those first seconds: a thread waits for the body.
Apache's `RequestReadTimeout` requires 500."""

LINGER_SIZE = 4 * 1024 * 1024
LINGER_TIMEOUT = 5.0
"""Limits, in bytes and seconds, of the unread body that is received before the connection is
closed: a client that is still sending may lose the response otherwise (RFC 9112 section 9.6)."""


class BodyError(OSError):
    """The body cannot be read completely; `status` is that of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ReadBody:
    """A body in memory."""

    is_complete = True
    error: BodyError | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> BinaryIO:
        """Return the body as a file object."""
        return io.BytesIO(self._data)

    async def linger(self) -> None:
        """Do nothing: the body is complete."""

    def abort(self) -> None:
        """Do nothing: no thread waits for the body."""


class StreamedBody(io.RawIOBase):
    """A body that a thread reads while it arrives.

    Nothing is read ahead: the server buffers some of it and then pauses reading from the
    connection.
    """

    def __init__(self, receive: Receive, max_size: int | None, expects_continue: bool) -> None:
        """Create the body, on the event loop of `receive`.

        `expects_continue`: the client waits for 100 Continue (RFC 9110 section 10.1.1).
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
        """Return the body as a file object; `read(size)` blocks until `size` bytes or the end."""
        return io.BufferedReader(self, SMALL)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read bytes into `buffer`. Blocks; raises `BodyError` if the body is incomplete."""
        while not self._part and not self.is_complete:
            self._part = memoryview(self._wait())
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    async def read_all(self) -> bytes:
        """Return the whole body, on the event loop."""
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
            self.error = self.error or BodyError(400, "The request has ended.")
            if pending := self._pending:
                pending.cancel()

    def _wait(self) -> bytes:
        if asyncio._get_running_loop() is self._loop:
            raise RuntimeError(
                "The body must be read in a thread, since the event loop receives it."
            )
        self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        try:
            return self._pending.result()
        except CancelledError:
            raise BodyError(400, "The request has ended.") from None
        finally:
            self._pending = None  # its error references the frames of the view

    async def _next(self) -> bytes:
        """Receive the next bytes, on the event loop. Raises `BodyError`."""
        if self.error:
            raise BodyError(self.error.status, self.error.reason)
        self._awaits_continue = False
        left = STALL_TIMEOUT + self._size / MIN_RATE - self._waited
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(STALL_TIMEOUT, left)):
                message = await self._receive()
        except TimeoutError:
            raise self._fail(408, "The request body did not arrive in time.") from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise self._fail(400, "The client disconnected before the end of the request body.")
        data: bytes = message.get("body", b"")
        self._size += len(data)
        if self._max_size is not None and self._size > self._max_size:
            raise self._fail(413, f"The request body has more than {self._max_size} bytes.")
        self.is_complete = not message.get("more_body", False)
        return data

    def _fail(self, status: int, reason: str) -> BodyError:
        # A separate instance: the traceback of the raised one references the upload.
        self.error = BodyError(status, reason)
        return BodyError(status, reason)


RequestBody = ReadBody | StreamedBody


async def request_body(scope: Scope, receive: Receive, max_size: int | None) -> RequestBody:
    """Return the body of a request: in memory if it is small, else to be read by the view.

    `error` is set if its length is over `max_size` bytes, or if reading a small one failed.
    """
    headers = Headers(scope=scope)
    length = headers.get("content-length")
    expects = "expect" in headers
    stream = StreamedBody(receive, max_size, expects)
    if length is None or not length.isdigit():
        is_empty = "transfer-encoding" not in headers and scope["http_version"].startswith("1")
        return ReadBody(b"") if is_empty else stream
    if max_size is not None and int(length) > max_size:
        stream.error = BodyError(413, f"The request body has more than {max_size} bytes.")
        return stream
    if int(length) > SMALL or expects:
        return stream
    try:
        return ReadBody(await stream.read_all() if int(length) else b"")
    except BodyError:
        return stream
