"""Elects who fetches a file, among all processes on one database, with PostgreSQL's advisory locks.

A process has one connection for all of its locks, in a thread of its own, and only while there are
any. A process that dies or loses its connection loses its locks, and whoever waits takes over.
Election spares remotes; nothing is wrong without it. So whatever goes wrong here means that there
is none, and several fetch.
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

log = logging.getLogger(__name__)

# Seconds to wait for whoever was elected, before a process fetches by itself. Clients have no byte
# until then, and pip gives up after 15.
ACQUIRE_TIMEOUT = 10.0

# Seconds between two tries, doubled each time.
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 0.05, 1.0

# Seconds that the database has to answer one try.
QUERY_TIMEOUT = 2.0

# Seconds without an election after the database failed.
COOLDOWN = 5.0

# Seconds for which the connection is kept when there is no lock any more.
IDLE_TIMEOUT = 3.0

APPLICATION_NAME = "pulp-content-star-fetch"

# So that the locks of a host that vanished without a word do not stay for TCP's two hours, and
# those of a long download are not taken away. Not all versions have all of them.
_SESSION_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


class LockRequest:
    """The place of one who wants to fetch, and has to be given to `FetchLock.leave`."""

    def __init__(self, identity: str) -> None:
        self.key = key_of(identity)


def key_of(identity: str) -> int:
    """The lock of what `identity` names: 64 bits, which nobody else's locks meet but by chance."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8, person=b"pulp-star-fetch")
    return int.from_bytes(digest.digest(), "big", signed=True)


class FetchLock:
    """The locks of this process."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="content-election")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._cooldown_until = 0.0
        # The thread's:
        self._connection: Any = None
        self._held: dict[int, LockRequest] = {}
        self._is_pooled = False

    async def acquire(
        self, request: LockRequest, between_tries: Callable[[], Awaitable[None]]
    ) -> None:
        """Wait until it is the turn of `seat`, or for PATIENCE, or until there is no election.

        `meanwhile` is called between tries; what it raises ends the waiting.
        """
        deadline = time.monotonic() + ACQUIRE_TIMEOUT
        interval = MIN_POLL_INTERVAL
        while not await self._try_acquire(request):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                log.info("Whoever was elected to fetch takes too long; fetching too.")
                return
            await asyncio.sleep(min(interval, remaining))
            interval = min(2 * interval, MAX_POLL_INTERVAL)
            await between_tries()

    async def _try_acquire(self, request: LockRequest) -> bool:
        if time.monotonic() < self._cooldown_until:
            return True
        future = self._submit(self._try_lock, request)
        try:
            return future is None or await asyncio.wait_for(
                asyncio.wrap_future(future), QUERY_TIMEOUT
            )
        except TimeoutError:
            log.warning("The database takes too long to elect who fetches.")
            self._cooldown_until = time.monotonic() + COOLDOWN
            self.release(request)
            return True

    def release(self, request: LockRequest) -> None:
        """Let the next one take the turn; any number of times. Also for who never got a turn."""
        if self._submit(self._unlock, request) is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(
            IDLE_TIMEOUT, self._submit, self._disconnect
        )

    async def close(self) -> None:
        """Give back the connection, and with it all locks."""
        future = self._submit(self._held.clear)
        self._submit(self._disconnect)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if future is not None:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=QUERY_TIMEOUT)
        self._executor.shutdown(wait=False)

    def _submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any] | None":
        return None if self._closed else self._executor.submit(function, *args)

    # In the thread

    def _try_lock(self, request: LockRequest) -> bool:
        if request.key in self._held:
            return False
        if self._is_pooled:
            return True
        try:
            has_lock = self._advisory_lock(request.key)
        except (psycopg.Error, DatabaseError) as error:
            log.warning("Fetching without an election: %s", type(error).__name__)
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
                self._drop_connection()  # it died while nobody looked
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
        # Not Django's own: that may come from a pool, and is closed when requests end.
        parameters: dict[str, Any] = {
            "connect_timeout": 3,  # seconds
            "tcp_user_timeout": 10_000,  # milliseconds
            **django_connection.get_connection_params(),
            "application_name": APPLICATION_NAME,
        }
        self._connection = psycopg.connect(**parameters, autocommit=True)
        # A pooler such as pgbouncer tells clients of another process than the server's. Behind one
        # that pools transactions, a lock would be taken on some connection and stay there.
        if self._query("SELECT pg_backend_pid()") != self._connection.info.backend_pid:
            log.info("A pooler is before the database: processes fetch without an election.")
            self._is_pooled = True
            self._disconnect()
            return
        for name, value in _SESSION_SETTINGS.items():
            query = "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s"
            self._connection.execute(query, [value, name])

    def _query(self, query: str, *arguments: int) -> Any:
        return self._connection.execute(query, arguments).fetchone()[0]

    def _drop_connection(self) -> None:
        """Of a connection that was lost, all locks are."""
        self._held.clear()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None and not self._held:
            self._connection.close()
            self._connection = None
