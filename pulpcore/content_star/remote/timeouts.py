"""Timeouts of fetches: every fetch ends in bounded time."""

import asyncio
from dataclasses import dataclass
from typing import Any

# Seconds until the first byte, retries included. Proxies in front of Pulp give up after 60, and
# another remote may have to be tried.
FIRST_BYTE_TIMEOUT = 30.0

# Seconds within which the next MIN_BYTES have to arrive, retries included: about a kilobyte a
# second, the minimum rate that dnf uses.
STALL_WINDOW = 60.0
MIN_BYTES = 60_000

# Seconds for timeouts that a remote does not set. Upstream waits 30 for a connection, without limit
# for a response, and 300 for a whole file, however large; here the stall window bounds the transfer
# instead.
DEFAULT_TIMEOUTS = {
    "total_timeout": 86400.0,
    "connect_timeout": 20.0,
    "sock_connect_timeout": 10.0,
    "sock_read_timeout": 30.0,
}


@dataclass(frozen=True)
class Limits:
    """Timeouts of a fetch from one remote, in seconds."""

    first_byte: float
    stall: float

    @classmethod
    def of(cls, remote: Any) -> "Limits":
        """Return the limits for `remote`; longer timeouts of its own cover at least one attempt."""
        connect = remote.connect_timeout or remote.sock_connect_timeout or 0
        read = remote.sock_read_timeout or 0
        return cls(max(FIRST_BYTE_TIMEOUT, connect + read + 1), max(STALL_WINDOW, read + 1))


def set_timeouts(remote: Any) -> None:
    """Set the timeouts that `remote` leaves open. Changes the instance only, not the database."""
    for name, seconds in DEFAULT_TIMEOUTS.items():
        setattr(remote, name, getattr(remote, name) or seconds)


class StallTimeout:
    """Postpone the deadline of `timeout` while bytes arrive at the minimum rate."""

    def __init__(self, limits: Limits, timeout: asyncio.Timeout) -> None:
        self._stall_seconds = limits.stall
        self._timeout = timeout
        self._count = 0
        self._has_started = False

    def add(self, count: int) -> None:
        """Record `count` received bytes; start a new stall window after every MIN_BYTES."""
        self._count += count
        if (self._has_started and self._count < MIN_BYTES) or self._timeout.expired():
            return
        self._has_started = True
        self._count = 0
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._stall_seconds)
