"""The ASGI extension `http.response.zerocopysend` for uvicorn, which does not offer it itself.

The kernel sends a file from its page cache to the socket, with `os.sendfile`, past uvicorn's
transport (https://asgi.readthedocs.io/en/latest/extensions.html#zero-copy-send). The internals of
uvicorn that this needs are named here; if one is missing, the extension is not offered, and
applications read their files.

With TLS, the file is read and encrypted, no more at a time than the socket has room for.
"""

import asyncio
import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import anyio.to_thread
import h11
from anyio.lowlevel import RunVar
from starlette.types import Message, Scope, Send

from pulpcore.content_star.server.internals import missing

logger = logging.getLogger(__name__)

ZERO_COPY = "http.response.zerocopysend"

CALL_BYTES = 1 << 20
"""Maximum bytes of a call of `sendfile`. After each, other connections have their turn."""
PROBE_BYTES = 128 * 1024
"""Interval at which the page cache is probed: how far Linux reads ahead by default."""
THREADS = 40
"""Threads that wait for disks."""

ENCRYPTED_BYTES, FAST_ENCRYPTED_BYTES = 64 * 1024, 256 * 1024
"""Maximum bytes that are read and encrypted before other connections have their turn. What the
socket does not take of them stays in memory until a slow client has read it."""
WRITE_BYTES, FAST_WRITE_BYTES = 16 * 1024, 64 * 1024
"""Bytes of a call of `write` with TLS: a record, and four of them. OpenSSL keeps a buffer of that
size for each connection; four records take a third less CPU time."""
FAST_BYTES, FAST_RATE = 4 << 20, 1 << 20
"""Bytes of a response, and per second, from which on a client is a fast one: the socket takes up to
4 MiB at once, whatever the client reads."""

_IS_LINUX = hasattr(os, "sendfile") and hasattr(os, "RWF_NOWAIT")
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # by the file system
_DISCONNECTS = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)

# Of each response over TLS, the time of its start, and the bytes of files that were written.
_encrypted: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()

_byte = [bytearray(1)]  # for the result of a probe, which is not used
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("content_star_zero_copy_threads")

# Linux' socket option, 4.12 or later, and its array: the send buffer's size is the fourth member,
# the bytes in it are the third for Unix sockets, and the sixth for TCP.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")

Frame = Callable[[Any, int], tuple[bytes, bytes]]


class _Placeholder:
    """Body of an event of h11, which needs its length only."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


def _frame_httptools(cycle: Any, count: int) -> tuple[bytes, bytes]:
    """Return the framing before and after `count` bytes of a body, and count them as sent.

    Raises RuntimeError if they exceed Content-Length, as uvicorn does.
    """
    if cycle.chunked_encoding:
        return b"%x\r\n" % count, b"\r\n"
    if count > cycle.expected_content_length:
        raise RuntimeError("Response content longer than Content-Length")
    cycle.expected_content_length -= count
    return b"", b""


def _frame_h11(cycle: Any, count: int) -> tuple[bytes, bytes]:
    """As `_frame_httptools`. Raises h11.LocalProtocolError."""
    data: Any = _Placeholder(count)
    parts: Any = cycle.conn.send_with_data_passthrough(h11.Data(data))
    return (b"", b"") if len(parts) == 1 else (parts[0], parts[2])


_NEEDED = {
    "disconnected", "flow", "message_event", "response_complete", "response_started", "scope",
    "transport",
}  # fmt: skip
_IMPLEMENTATIONS: dict[str, tuple[Frame, set[str]]] = {
    "httptools_impl": (_frame_httptools, {"chunked_encoding", "expected_content_length"}),
    "h11_impl": (_frame_h11, {"conn"}),
}


def _frames() -> dict[type, Frame]:
    """Return the framing for each class of uvicorn that handles a request and is as expected."""
    frames: dict[type, Frame] = {}
    for name, (frame, attributes) in _IMPLEMENTATIONS.items():
        try:
            cycle: type = import_module(f"uvicorn.protocols.http.{name}").RequestResponseCycle
            absent = missing(cycle, {"send"}, _NEEDED | attributes)
        except (ImportError, AttributeError) as error:
            absent = [str(error)]
        if not absent:
            frames[cycle] = frame
            continue
        logger.warning(
            "Large files are read and copied, at a multiple of the CPU time, with uvicorn's %s,"
            " which lacks %s. Install a version of uvicorn that pulp-content-star was tested with.",
            name,
            ", ".join(absent),
        )
    return frames


_FRAMES = _frames() if _IS_LINUX else {}


def _frame_of(cycle: Any) -> Frame | None:
    kind = type(cycle)
    return _FRAMES.get(kind) or _FRAMES.get(kind.__bases__[0])  # of our class


def offer_zero_copy(scope: Scope, send: Send) -> Send:
    """Offer the extension in `scope` if `send` is uvicorn's; return the `send` that implements it.

    Not offered if a middleware has wrapped `send`: it might change bodies.
    """
    cycle: Any = getattr(send, "__self__", None)
    if _frame_of(cycle) is None:
        return send
    scope.setdefault("extensions", {})[ZERO_COPY] = {}
    if getattr(cycle, "sends_files", False):
        return send

    def send_or_send_file(message: Message) -> Any:
        return send_file(cycle, message) if message["type"] == ZERO_COPY else send(message)

    return send_or_send_file


async def send_file(cycle: Any, message: Message) -> None:
    """Send a message of the type `http.response.zerocopysend`.

    Sets its `count` to the bytes that were sent, also if it fails or is cancelled.

    Raises ConnectionError if the client has disconnected, and OSError if the file cannot be read
    or ends early: the application has to pass that on, so that uvicorn closes the connection.
    """
    if not cycle.response_started or cycle.response_complete:
        raise RuntimeError(f"Unexpected ASGI message {ZERO_COPY!r}.")
    if cycle.scope["method"] != "HEAD":
        file, offset, count = message["file"], message.get("offset"), message.get("count")
        if offset is None:
            offset = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        if count is None:
            count = os.fstat(file.fileno()).st_size - offset
        message["count"] = 0
        try:
            await _send_framed(cycle, message, offset, count)
        except OSError as error:
            error.filename = getattr(file, "name", None)
            raise
    if not message.get("more_body", False):
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_framed(cycle: Any, message: Message, offset: int, count: int) -> None:
    transport = cycle.transport
    _check_connected(cycle)
    frame = _frame_of(cycle)
    assert frame is not None
    before, after = frame(cycle, count)
    if before:
        transport.write(before)
    is_encrypted = transport.get_extra_info("sslcontext") is not None
    if not is_encrypted:
        await _flush(cycle)
    range_class = _EncryptedRange if is_encrypted else _FileRange
    # A duplicate, since event loops watch no descriptor that belongs to a transport.
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        await range_class(cycle, descriptor, message, offset, offset + count).send()
    finally:
        os.close(descriptor)
    if after:
        transport.write(after)


async def _flush(cycle: Any) -> None:
    """Wait until the transport has sent its buffer, which the file must not overtake."""
    transport = cycle.transport
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        await cycle.flow.drain()
        _check_connected(cycle)
        transport.set_write_buffer_limits()


class _FileRange:
    """A range of a file that is being sent; neither a slow client nor a disk blocks the loop."""

    call_bytes = CALL_BYTES

    def __init__(
        self, cycle: Any, descriptor: int, message: Message, start: int, stop: int
    ) -> None:
        """`descriptor` is of the socket."""
        self._cycle = cycle
        self._socket = descriptor
        self._message = message
        self._fd: int = message["file"].fileno()
        self._offset = start
        self._stop = stop

    @property
    def _length(self) -> int:
        """Bytes that are sent next, at most."""
        return min(self._stop - self._offset, self.call_bytes)

    async def send(self) -> None:
        """Send all of it. Raises as `send_file`."""
        while self._offset < self._stop:
            if not self._is_cached():
                await _in_thread(_read_ahead, self._fd, self._offset, self._length)
            try:
                self._send_once()
                if self._offset < self._stop:
                    await self._send_cached()
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                await self._copy()

    async def _send_cached(self) -> None:
        """Send while the page cache has the next bytes, whenever the socket takes more.

        In a callback, since a task that waits costs as much as the copying that is saved: 45 us.
        """
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()

        def send_more() -> None:
            if end.done():
                return
            try:
                if self._is_cached():
                    self._send_once()
                    if self._offset < self._stop:
                        return
            except Exception as error:
                end.set_exception(error)
            else:
                end.set_result(None)

        loop.add_writer(self._socket, send_more)
        try:
            await end
        finally:
            loop.remove_writer(self._socket)

    def _send_once(self) -> None:
        """Call `sendfile` once. It sends nothing if the socket is not writable."""
        _check_connected(self._cycle)
        try:
            self._advance(os.sendfile(self._socket, self._fd, self._offset, self._length))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _DISCONNECTS:
                self._cycle.transport.abort()
                _check_connected(self._cycle)
            raise

    async def _copy(self) -> None:
        """Read and send bytes of a file that `sendfile` does not support."""
        length = min(self._length, PROBE_BYTES)
        data: bytes = await _in_thread(os.pread, self._fd, length, self._offset)
        _check_connected(self._cycle)
        self._cycle.transport.write(data)
        await _flush(self._cycle)
        self._advance(len(data))

    def _advance(self, sent: int) -> None:
        if not sent:
            raise OSError(errno.ENODATA, f"The file has become shorter than {self._stop} bytes")
        self._offset += sent
        self._message["count"] += sent

    def _is_cached(self) -> bool:
        """Return whether the page cache has the next bytes, by samples; False if unknown."""
        stop = self._offset + self._length
        try:
            for position in range(self._offset, stop, PROBE_BYTES):
                os.preadv(self._fd, _byte, position, os.RWF_NOWAIT)
            os.preadv(self._fd, _byte, stop - 1, os.RWF_NOWAIT)
        except OSError:
            return False
        return True


class _EncryptedRange(_FileRange):
    """A range of a file that is read, encrypted and sent over TLS.

    Only as much as the socket has room for: the transport would buffer more than a megabyte for
    each slow client.
    """

    call_bytes = FAST_ENCRYPTED_BYTES

    def _send_once(self) -> None:
        """Write as much as the socket has room for; nothing while the transport has a buffer."""
        _check_connected(self._cycle)
        transport = self._cycle.transport
        if transport.get_write_buffer_size():
            return
        at_most, step = (
            (FAST_ENCRYPTED_BYTES, FAST_WRITE_BYTES)
            if self._is_fast()
            else (ENCRYPTED_BYTES, WRITE_BYTES)
        )
        end = min(self._offset + min(self._room(), at_most), self._stop)
        while self._offset < end:
            data = os.pread(self._fd, min(step, end - self._offset), self._offset)
            transport.write(data)
            self._advance(len(data))
            _encrypted[self._cycle][1] += len(data)

    def _is_fast(self) -> bool:
        """Return whether the client has read much of the response, and quickly."""
        started, sent = _encrypted.setdefault(self._cycle, [time.monotonic(), 0])
        return sent >= max(FAST_BYTES, FAST_RATE * (time.monotonic() - started))

    def _room(self) -> int:
        """Return how many bytes the socket takes now, about: half of the free memory."""
        connection = self._cycle.transport.get_extra_info("socket")
        try:
            data = connection.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            _, _, unix_queued, size, _, queued, *_ = _MEMINFO.unpack(data)
        except (OSError, struct.error):  # an older or another kernel
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            return WRITE_BYTES if poll.poll(0) else 0
        return max(size - max(unix_queued, queued), 0) // 2


def _check_connected(cycle: Any) -> None:
    """Raise ConnectionResetError if the client has disconnected.

    uvicorn notes that for the newest of pipelined requests only, and would take this one's end for
    an error of the application.
    """
    if cycle.disconnected or cycle.transport.is_closing():
        cycle.disconnected = True
        cycle.message_event.set()
        raise ConnectionResetError(errno.ECONNRESET, "The client has disconnected")


def _read_ahead(fd: int, offset: int, length: int) -> None:
    """Read bytes into the page cache, and have the kernel begin with as many after them."""
    os.posix_fadvise(fd, offset, 2 * length, os.POSIX_FADV_WILLNEED)
    for position in range(offset, offset + length, PROBE_BYTES):
        os.pread(fd, min(PROBE_BYTES, offset + length - position), position)


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` in a thread, which a cancelled request does not wait for.

    It may then read from a descriptor that is closed and reused: its result is dropped.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(
        function, *arguments, abandon_on_cancel=True, limiter=limiter
    )
