"""Coordinate fetches among all processes on one database with PostgreSQL advisory locks.

A process holds all of its locks on one connection of its own, used in one thread and open only
while needed. PostgreSQL releases the locks of a process that dies or loses its connection, and a
waiting process acquires them. The lock only saves remotes from duplicate requests: on any failure
the fetch proceeds without it.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
from django.db import connection as django_connection
from django.db.utils import DatabaseError

from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.database.connection import interrupt, is_waiting

log = logging.getLogger(__name__)

# Seconds to wait for a lock that another process holds before fetching without it. Clients get no
# byte until then, and pip gives up after 15.
ACQUIRE_TIMEOUT = 10.0

# Seconds between two attempts: the first interval, doubled each time, and its maximum.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 0.05, 1.0

# Seconds that the database has to answer one attempt, the connection included: on a busy machine
# a new one may take two. If the database hangs, the circuit breaker knows sooner.
QUERY_TIMEOUT = 5.0

# Seconds between two looks at the circuit breaker.
BREAKER_INTERVAL = 0.5

# Seconds for which locks are not used after the database failed.
COOLDOWN = 5.0

# Seconds for which the connection stays open after the last lock was released.
IDLE_TIMEOUT = 3.0

APPLICATION_NAME = "pulp-content-star-fetch"

# Session settings: keepalives free the locks of a vanished host long before TCP's two hours, and no
# idle timeout ends the session during a long download. Not all versions of PostgreSQL have all of
# them.
_SESSION_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


_CONFIGURE = """
    SELECT set_config(pg_settings.name, wanted.value, false)
    FROM pg_settings JOIN unnest(%s::text[], %s::text[]) AS wanted (name, value) USING (name)
"""


class LockRequest:
    """One attempt to hold the fetch lock for `identity`; released with `FetchLocks.release`.

    `name` is for the log: the identity may contain a URL, which may be confidential.
    """

    def __init__(self, identity: str, name: str) -> None:
        self.key = key_of(identity)
        self.name = name


def key_of(identity: str) -> int:
    """Return the advisory lock key of `identity`: a signed 64-bit hash."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8, person=b"pulp-star-fetch")
    return int.from_bytes(digest.digest(), "big", signed=True)


class FetchLocks:
    """The fetch locks that one application holds. Use it in one event loop."""

    def __init__(
        self,
        acquire_timeout: float = ACQUIRE_TIMEOUT,
        query_timeout: float = QUERY_TIMEOUT,
        connection_parameters: Callable[
            [], dict[str, Any]
        ] = django_connection.get_connection_params,
    ) -> None:
        """The timeouts are in seconds; the parameters are psycopg's, by default Django's."""
        self._acquire_timeout = acquire_timeout
        self._query_timeout = query_timeout
        self._connection_parameters = connection_parameters
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fetch-lock-db")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._cooldown_until = 0.0
        # Only used in the executor's thread:
        self._connection: Any = None
        self._held: dict[int, LockRequest] = {}
        self._is_pooled = False

    async def acquire(
        self, request: LockRequest, between_tries: Callable[[], Awaitable[None]]
    ) -> None:
        """Wait for the lock, for at most `acquire_timeout` seconds.

        Returns without it on timeout, and when locks are unavailable. `between_tries` is awaited
        between attempts; its exceptions end the wait and are raised.
        """
        deadline = time.monotonic() + self._acquire_timeout
        interval = MIN_POLL_INTERVAL
        while not await self._try_acquire(request):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                log.info(
                    "Fetch lock for the %s held by another process for over %g s; fetching without"
                    " it.",
                    request.name,
                    self._acquire_timeout,
                )
                return
            await asyncio.sleep(min(interval, remaining))
            interval = min(2 * interval, MAX_POLL_INTERVAL)
            await between_tries()

    async def _try_acquire(self, request: LockRequest) -> bool:
        if time.monotonic() < self._cooldown_until or availability.down_since is not None:
            return True
        submitted = self._submit(self._try_lock, request)
        if submitted is None:
            return True
        future, started = asyncio.wrap_future(submitted), time.monotonic()
        while time.monotonic() - started < self._query_timeout and availability.down_since is None:
            # Not `wait_for`, which from Python 3.12 on drops a result that arrives with its end.
            await asyncio.wait([future], timeout=min(BREAKER_INTERVAL, self._query_timeout))
            if future.done():
                return future.result()
        log.warning(
            "The database did not answer a query for a fetch lock within %.1f s; fetching without"
            " locks for %d s. Check the load of the database.",
            time.monotonic() - started,
            COOLDOWN,
        )
        self._cooldown_until = time.monotonic() + COOLDOWN
        if self._connection is not None and is_waiting(self._connection):
            interrupt(self._connection)
        self.release(request)
        return True

    def release(self, request: LockRequest) -> None:
        """Release the lock if `request` holds it, without waiting. Idempotent."""
        if self._submit(self._unlock, request) is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(
            IDLE_TIMEOUT, self._submit, self._disconnect
        )

    async def close(self) -> None:
        """Release all locks and close the connection."""
        future = self._submit(self._held.clear)
        self._submit(self._disconnect)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if future is not None:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=self._query_timeout)
        self._executor.shutdown(wait=False)

    def _submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any] | None":
        if self._closed:
            return None
        try:
            return self._executor.submit(function, *args)
        except RuntimeError as error:  # no thread can be started
            log.warning("Fetch locks are unavailable (%s); fetching without them.", error)
            return None

    # Only called in the executor's thread

    def _try_lock(self, request: LockRequest) -> bool:
        if request.key in self._held:
            return False
        if self._is_pooled:
            return True
        try:
            has_lock = self._advisory_lock(request.key)
        except (psycopg.Error, DatabaseError) as error:
            log.warning(
                "Fetch locks are unavailable (%s); fetching without them for %d s. Check the"
                " connection to the database.",
                type(error).__name__,
                COOLDOWN,
            )
            self._cooldown_until = time.monotonic() + COOLDOWN
            return True
        if has_lock:
            self._held[request.key] = request
        return has_lock or self._is_pooled

    def _advisory_lock(self, key: int) -> bool:
        if self._connection is not None:
            try:
                return self._query("SELECT pg_try_advisory_lock(%s)", key)
            except psycopg.Error:
                self._drop_connection()  # lost while idle: connect once more
        self._connect()
        return not self._is_pooled and self._query("SELECT pg_try_advisory_lock(%s)", key)

    def _unlock(self, request: LockRequest) -> None:
        if self._held.get(request.key) is not request:
            return
        del self._held[request.key]
        try:
            if self._connection is not None:
                self._query("SELECT pg_advisory_unlock(%s)", request.key)
        except psycopg.Error:
            self._drop_connection()

    def _connect(self) -> None:
        # Not Django's connection: that may come from a pool, and is closed when requests end.
        parameters = {**self._connection_parameters(), "application_name": APPLICATION_NAME}
        self._connection = psycopg.connect(**parameters, autocommit=True)
        # A pooler such as pgbouncer reports another process id to its clients than the server does.
        # With transaction pooling a lock would stay on an arbitrary server connection.
        if self._query("SELECT pg_backend_pid()") != self._connection.info.backend_pid:
            log.info(
                "The database is behind a connection pooler: fetching without advisory locks, so"
                " that each process may fetch the same file."
            )
            self._is_pooled = True
            self._disconnect()
            return
        names, values = list(_SESSION_SETTINGS), list(_SESSION_SETTINGS.values())
        self._connection.execute(_CONFIGURE, [names, values])

    def _query(self, query: str, *arguments: int) -> Any:
        return self._connection.execute(query, arguments).fetchone()[0]

    def _drop_connection(self) -> None:
        """Close a lost connection. PostgreSQL has released its locks."""
        self._held.clear()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None and not self._held:
            self._connection.close()
            self._connection = None
