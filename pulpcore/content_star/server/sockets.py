"""Options and state of TCP sockets; those of other families are ignored."""

import fcntl
import os
import socket
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

PROBE_SECONDS = 10
"""Interval of TCP keep-alive for a half-closed connection. Linux resets the connection of a client
that has closed it completely, but only after a minute (`tcp_fin_timeout`)."""

# tcpi_last_data_sent and tcpi_last_ack_recv in Linux' struct tcp_info, milliseconds.
_LAST_DATA_SENT, _LAST_ACK_RECEIVED = slice(44, 48), slice(56, 60)


@contextmanager
def _tcp_socket(connection: socket.socket) -> Iterator[socket.socket | None]:
    """Yield a duplicate of a TCP socket until the block ends; None for other sockets.

    The duplicate knows its family: uvicorn takes inherited sockets (`--fd`) for Unix ones.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        yield own if own.family in (socket.AF_INET, socket.AF_INET6) else None


def set_nodelay(connection: socket.socket) -> None:
    """Disable Nagle's algorithm: with it, a body waits for the acknowledgement of the head."""
    with _tcp_socket(connection) as tcp:
        if tcp is not None:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def probe(connection: socket.socket) -> None:
    """Enable TCP keep-alive; other sockets detect a closed peer at once."""
    with _tcp_socket(connection) as tcp:
        if tcp is None:
            return
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_SECONDS)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)


def idle_seconds(connection: socket.socket) -> float:
    """Return the seconds since data was last sent; 0 if the client has not taken it, or unknown."""
    is_queued, sent, _ = _progress(connection)
    return 0.0 if is_queued else sent


def stalled_seconds(connection: socket.socket) -> float:
    """Return the seconds for which the client has taken none of the data that waits for it.

    0 if none waits, or unknown. To a client that does not read, nothing more is sent; one that has
    vanished acknowledges nothing.
    """
    is_queued, sent, acknowledged = _progress(connection)
    return max(sent, acknowledged) if is_queued else 0.0


def _progress(connection: socket.socket) -> tuple[bool, float, float]:
    """Return whether data waits in the socket, and seconds since data was sent and acknowledged."""
    if sys.platform != "linux":
        return False, 0.0, 0.0
    try:
        queued = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_RECEIVED.stop)
    except OSError:  # a Unix socket
        return False, 0.0, 0.0
    sent, acknowledged = (
        int.from_bytes(info[member], sys.byteorder) / 1000
        for member in (_LAST_DATA_SENT, _LAST_ACK_RECEIVED)
    )
    return any(queued), sent, acknowledged
