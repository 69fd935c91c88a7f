"""Circuit breaker for the database: whether it answers, by the results of all who ask it.

While it does not, calls fail at once instead of waiting for it in the threads that others need, and
one every half second probes it. The listener for cache invalidation, which tries all the time, is
mostly the first to find that the database is away, and that it is back.
"""

import asyncio
import logging
import threading
import time

from django.db import OperationalError

log = logging.getLogger(__name__)

# Seconds after an answer in which connections that fail do not count, and those that hang: others
# work. A query that is slow, or waits for a lock, is no outage while pings of the listener, every
# 0.4 s and later under load, are answered.
RECENT_ANSWER, RECENT_ANSWER_OF_HANG = 0.5, 1.0

# Seconds of an outage for which calls wait, so that a shorter restart of PostgreSQL fails none.
MAX_WAIT = 2.0

# Seconds between two attempts of calls during an outage, and between two looks of one that waits.
TRY_INTERVAL, POLL_INTERVAL = 0.5, 0.1

# Seconds after an outage in which connections from before it may turn out to work.
REVIVAL_TIME = 0.5


class ConnectionLost(OperationalError):
    """The database is unreachable, or closed the connection; `__cause__` is the database error."""

    was_connected: bool = False
    """Whether there was a connection, which may have been lost long ago."""


class DatabaseUnavailable(ConnectionLost):
    """The database does not answer, and was not asked."""

    def __init__(self) -> None:
        super().__init__("The database does not answer.")


class DatabaseOverloaded(OperationalError):
    """Too many calls are waiting for the database: this one would wait in vain."""

    def __init__(self) -> None:
        super().__init__("Too many calls are waiting for the database.")


class Availability:
    """State of the circuit breaker. Thread-safe."""

    def __init__(self) -> None:
        self.down_since: float | None = None
        """Begin of the current outage on the monotonic clock, in seconds; None if there is none."""

        self.last_answer = float("-inf")
        """When the database answered, by the same clock."""

        self.hangs = 0
        """Number of times that it hung: connections from before the last one may be dead."""

        self._hung_at = self._recovered_at = self._tried_at = float("-inf")
        self._lock = threading.Lock()

    def answered(self) -> None:
        """Note an answer of the database."""
        self.last_answer = time.monotonic()
        if self.down_since is not None:
            self._recover()

    def _recover(self) -> None:
        with self._lock:
            if self.down_since is None:
                return
            self._recovered_at = time.monotonic()
            seconds, self.down_since = self._recovered_at - self.down_since, None
        log.warning("The database answers again, after %.1f s.", seconds)

    def failed(self, reason: object, *, hung: bool = False) -> None:
        """Note that a connection could not be opened or, if `hung`, that no answer came in time.

        Begins an outage, unless others have had an answer a moment ago.
        """
        now = time.monotonic()
        with self._lock:
            if now - self.last_answer < (RECENT_ANSWER_OF_HANG if hung else RECENT_ANSWER):
                return
            if hung:
                self.hangs += 1
                self._hung_at = now
            if self.down_since is not None:
                return
            self.down_since = now
        log.error("The database does not answer, content that needs it gets 503: %s", reason)

    def may_try(self) -> bool:
        """Return whether a call may ask the database: always, but during an outage one at a time.

        Each that may has to report the result.
        """
        if self.down_since is None:
            return True
        now = time.monotonic()
        with self._lock:
            if now - self._tried_at < TRY_INTERVAL:
                return False
            self._tried_at = now
            return True

    async def wait(self) -> None:
        """Wait until a call may ask the database.

        Raises `DatabaseUnavailable` as soon as the outage is longer than `MAX_WAIT`.
        """
        while not self.may_try():
            down_since = self.down_since
            if down_since is not None and time.monotonic() - down_since > MAX_WAIT:
                raise DatabaseUnavailable
            await asyncio.sleep(POLL_INTERVAL)

    def is_dead(self, asked_at: float) -> bool:
        """Return whether an answer that was asked for at `asked_at` will not come any more.

        It was asked for before the database hung, and others have had answers for a while.
        """
        if not asked_at < self._hung_at < self._recovered_at:
            return False
        return time.monotonic() - self._recovered_at > REVIVAL_TIME


availability = Availability()
"""Of Django's database, which the process has one of."""
