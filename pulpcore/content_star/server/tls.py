"""Send a range of a file over TLS."""

import os
import select
import socket
import struct
import time
from typing import Any
from weakref import WeakKeyDictionary

from pulpcore.content_star.server.file_range import FileRange, check_connected

ENCRYPTED_BYTES, FAST_ENCRYPTED_BYTES = 64 * 1024, 256 * 1024
"""Maximum bytes that are read and encrypted before other connections are served. What the
socket does not take of them stays in memory until a slow client has read it."""
WRITE_BYTES, FAST_WRITE_BYTES = 16 * 1024, 64 * 1024
"""Bytes of a call of `write` with TLS: a record, and four of them. OpenSSL keeps a buffer of that
size for each connection; four records take a third less CPU time."""
FAST_BYTES, FAST_RATE = 4 << 20, 1 << 20
"""Bytes of a response and bytes per second above which a client is fast: the socket takes up to
4 MiB at once, whatever the client reads."""

# Linux' socket option, 4.12 or later, and its array: the send buffer's size is the fourth member,
# the bytes in it are the third for Unix sockets, and the sixth for TCP.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")

# Of each response over TLS, the time of its start, and the bytes of files that were written.
_encrypted: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()


class EncryptedRange(FileRange):
    """A range of a file that is read, encrypted and sent over TLS.

    Only as much as the socket has room for: the transport would buffer more than a megabyte for
    each slow client.
    """

    call_bytes = FAST_ENCRYPTED_BYTES

    def _send_once(self) -> None:
        """Write as much as the socket has room for; nothing while the transport has a buffer."""
        check_connected(self._cycle)
        transport = self._cycle.transport
        if transport.get_write_buffer_size():
            return
        at_most, step = (
            (FAST_ENCRYPTED_BYTES, FAST_WRITE_BYTES)
            if self._is_fast()
            else (ENCRYPTED_BYTES, WRITE_BYTES)
        )
        end = self._offset + min(self._room(), at_most, self._length)
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
