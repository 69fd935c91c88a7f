"""Send a range of a file to a socket with `os.sendfile`, without blocking the event loop."""

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio.to_thread
from anyio.lowlevel import RunVar
from starlette.types import Message

CALL_BYTES = 2 << 20
"""Maximum bytes of a call of `sendfile`, as of nginx. After each, other connections have their
turn."""
PROBE_BYTES = 128 * 1024
"""Interval at which the page cache is probed at first: how far Linux reads ahead by default."""
MAX_PROBE_BYTES = 1 << 20
"""Interval after some calls. The event loop may wait for a disk once in between; to probe as often
as at first takes a tenth of the CPU time."""
THREADS = 40
"""Threads that wait for disks."""

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

_byte = [bytearray(1)]  # for the result of a probe, which is not used
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("content_star_zero_copy_threads")


class FileRange:
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
        self._probe_bytes = PROBE_BYTES
        self._is_warm = True  # no probe has missed
        self._read_until = start  # by threads

    @property
    def _length(self) -> int:
        """Bytes that are sent next, at most: after a miss, of those that a thread has read.

        What the kernel is reading ahead has gaps that probes do not find.
        """
        end = self._stop if self._is_warm else self._read_until
        return min(end - self._offset, self.call_bytes)

    async def send(self) -> None:
        """Send all of it. Raises as `send_file`."""
        while self._offset < self._stop:
            if not self._is_cached():
                end = min(self._offset + self.call_bytes, self._stop)
                await _in_thread(_read_ahead, self._fd, self._offset, end, self._stop)
                self._read_until = end
            try:
                self._send_once()
                if self._offset < self._stop:
                    await self._send_cached()
            except OSError as error:
                if error.errno in _DISCONNECTS or error.errno == errno.ENODATA:
                    raise
                # Unsupported by the file system, or denied by a filter of system calls, which may
                # have any error; reading raises that of a disk again.
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
        check_connected(self._cycle)
        try:
            self._advance(os.sendfile(self._socket, self._fd, self._offset, self._length))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _DISCONNECTS:
                self._cycle.transport.abort()
                check_connected(self._cycle)
            raise

    async def _copy(self) -> None:
        """Read and send bytes that `sendfile` does not."""
        length = min(self._length, PROBE_BYTES)
        data: bytes = await _in_thread(os.pread, self._fd, length, self._offset)
        check_connected(self._cycle)
        self._cycle.transport.write(data)
        await flush(self._cycle)
        self._advance(len(data))

    def _advance(self, sent: int) -> None:
        if not sent:
            raise OSError(
                errno.ENODATA, f"The file has become shorter, and ends before {self._stop}"
            )
        self._offset += sent
        self._message["count"] += sent

    def _is_cached(self) -> bool:
        """Return whether the page cache has the next bytes, by samples; False if unknown."""
        stop = self._offset + self._length
        try:
            for position in (*range(self._offset, stop, self._probe_bytes), stop - 1):
                os.preadv(self._fd, _byte, position, os.RWF_NOWAIT)
        except OSError as error:
            # Of a file system that does not support probes, trust what has been read.
            if self._is_warm or isinstance(error, BlockingIOError):
                self._is_warm, self._read_until = False, self._offset
        self._probe_bytes = min(2 * self._probe_bytes, MAX_PROBE_BYTES)
        return self._length > 0


async def flush(cycle: Any) -> None:
    """Wait until the transport has sent its buffer, which the file must not overtake."""
    transport = cycle.transport
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        await cycle.flow.drain()
        check_connected(cycle)
        transport.set_write_buffer_limits()


def check_connected(cycle: Any) -> None:
    """Raise ConnectionResetError if the client has disconnected.

    uvicorn notes that for the newest of pipelined requests only, and would take this one's end for
    an error of the application. Of TLS, event loops close the transport below first if the client
    has ended TCP, and drop and log what is written.
    """
    tcp = getattr(cycle, "tcp", None)
    is_closing = cycle.transport.is_closing() or (tcp is not None and tcp.is_closing())
    if cycle.disconnected or is_closing:
        disconnect(cycle)
        raise ConnectionResetError(errno.ECONNRESET, "The client has disconnected")


def disconnect(cycle: Any) -> None:
    """Send `http.disconnect` to the application."""
    cycle.disconnected = True
    cycle.message_event.set()


def _read_ahead(fd: int, start: int, end: int, stop: int) -> None:
    """Read bytes into the page cache, and have the kernel begin with as many after them.

    None from `stop` on: the next range begins with probes, which do not find gaps.
    """
    ahead = min(2 * (end - start), stop - start)
    with suppress(OSError):  # a filter of system calls; errors of the disk are raised below
        os.posix_fadvise(fd, start, ahead, os.POSIX_FADV_WILLNEED)
    for position in range(start, end, PROBE_BYTES):
        os.pread(fd, min(PROBE_BYTES, end - position), position)


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
