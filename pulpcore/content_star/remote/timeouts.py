"""How long a remote may take, so that every fetch ends."""

import asyncio
from dataclasses import dataclass
from typing import Any

# Seconds in which the first byte has to come, tries again included. Proxies before us give up after
# 60, and there may be another remote.
FIRST_BYTE_TIMEOUT = 30.0

# Seconds in which SLOWEST bytes have to come from then on, tries again included: a kilobyte a
# second, as dnf wants it.
STALL_WINDOW = 60.0
MIN_BYTES = 60_000

# Seconds for a remote that says nothing itself. Upstream waits 30 for a connection, for ever for an
# answer, and 300 for the whole of a file, however large: that is what the window is for.
DEFAULT_TIMEOUTS = {
    "total_timeout": 86400.0,
    "connect_timeout": 20.0,
    "sock_connect_timeout": 10.0,
    "sock_read_timeout": 30.0,
}


@dataclass(frozen=True)
class Limits:
    """What one remote is given, in seconds."""

    first_byte: float
    stall: float

    @classmethod
    def of(cls, remote: Any) -> "Limits":
        """A remote that was given more time by its settings has it, for one try at least."""
        connect = remote.connect_timeout or remote.sock_connect_timeout or 0
        read = remote.sock_read_timeout or 0
        return cls(max(FIRST_BYTE_TIMEOUT, connect + read + 1), max(STALL_WINDOW, read + 1))


def set_timeouts(remote: Any) -> None:
    """Give `remote`, in memory, a finite time for everything that it does not limit itself."""
    for name, seconds in DEFAULT_TIMEOUTS.items():
        setattr(remote, name, getattr(remote, name) or seconds)


class StallTimeout:
    """Puts off the end of `timeout` as long as bytes come quickly enough."""

    def __init__(self, limits: Limits, timeout: asyncio.Timeout) -> None:
        self._stall_seconds = limits.stall
        self._timeout = timeout
        self._count = 0
        self._has_started = False

    def add(self, count: int) -> None:
        """So many bytes have come."""
        self._count += count
        if (self._has_started and self._count < MIN_BYTES) or self._timeout.expired():
            return
        self._has_started = True
        self._count = 0
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._stall_seconds)
