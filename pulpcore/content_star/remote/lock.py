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
PATIENCE = 10.0

# Seconds between two tries, doubled each time.
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0

# Seconds that the database has to answer one try.
TRY_TIMEOUT = 2.0

# Seconds without an election after the database failed.
REST = 5.0

# Seconds for which the connection is kept when there is no lock any more.
IDLE_TIMEOUT = 3.0

APPLICATION_NAME = "pulp-content-star-fetch"

# So that the locks of a host that vanished without a word do not stay for TCP's two hours, and
# those of a long download are not taken away. Not all versions have all of them.
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}


class LockName:
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
        self._rest_until = 0.0
        # The thread's:
        self._connection: Any = None
        self._seats: dict[int, LockName] = {}
        self._is_pooled = False

    async def take(self, seat: LockName, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Wait until it is the turn of `seat`, or for PATIENCE, or until there is no election.

        `meanwhile` is called between tries; what it raises ends the waiting.
        """
        deadline = time.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        while not await self._try(seat):
            left = deadline - time.monotonic()
            if left <= 0:
                log.info("Whoever was elected to fetch takes too long; fetching too.")
                return
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LAST_PAUSE)
            await meanwhile()

    async def _try(self, seat: LockName) -> bool:
        if time.monotonic() < self._rest_until:
            return True
        future = self._submit(self._claim, seat)
        try:
            return future is None or await asyncio.wait_for(
                asyncio.wrap_future(future), TRY_TIMEOUT
            )
        except TimeoutError:
            log.warning("The database takes too long to elect who fetches.")
            self._rest_until = time.monotonic() + REST
            self.leave(seat)
            return True

    def leave(self, seat: LockName) -> None:
        """Let the next one take the turn; any number of times. Also for who never got a turn."""
        if self._submit(self._release, seat) is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(
            IDLE_TIMEOUT, self._submit, self._disconnect
        )

    async def close(self) -> None:
        """Give back the connection, and with it all locks."""
        future = self._submit(self._seats.clear)
        self._submit(self._disconnect)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if future is not None:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=TRY_TIMEOUT)
        self._executor.shutdown(wait=False)

    def _submit(self, work: Callable[..., Any], *args: Any) -> "Future[Any] | None":
        return None if self._closed else self._executor.submit(work, *args)

    # In the thread

    def _claim(self, seat: LockName) -> bool:
        if seat.key in self._seats:
            return False
        if self._is_pooled:
            return True
        try:
            has_lock = self._lock(seat.key)
        except (psycopg.Error, DatabaseError) as error:
            log.warning("Fetching without an election: %s", type(error).__name__)
            self._rest_until = time.monotonic() + REST
            return True
        if has_lock:
            self._seats[seat.key] = seat
        return has_lock or self._is_pooled

    def _lock(self, key: int) -> bool:
        if self._connection is not None:
            try:
                return self._ask("SELECT pg_try_advisory_lock(%s)", key)
            except psycopg.Error:
                self._forget()  # it died while nobody looked
        self._connect()
        return not self._is_pooled and self._ask("SELECT pg_try_advisory_lock(%s)", key)

    def _release(self, seat: LockName) -> None:
        if self._seats.get(seat.key) is not seat:
            return
        del self._seats[seat.key]
        try:
            if self._connection is not None:
                self._ask("SELECT pg_advisory_unlock(%s)", seat.key)
        except psycopg.Error:
            self._forget()

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
        if self._ask("SELECT pg_backend_pid()") != self._connection.info.backend_pid:
            log.info("A pooler is before the database: processes fetch without an election.")
            self._is_pooled = True
            self._disconnect()
            return
        for name, value in _SESSION.items():
            change = "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s"
            self._connection.execute(change, [value, name])

    def _ask(self, query: str, *arguments: int) -> Any:
        return self._connection.execute(query, arguments).fetchone()[0]

    def _forget(self) -> None:
        """Of a connection that was lost, all locks are."""
        self._seats.clear()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None and not self._seats:
            self._connection.close()
            self._connection = None
