"""Cache invalidation by the notifications of the triggers, over PostgreSQL's LISTEN/NOTIFY.

Each process has one listening connection, over which it notifies itself several times a second (a
ping). PostgreSQL delivers notifications in the order of commits, so the echo of a ping confirms
that every change committed before the ping was sent has been received. Cache entries are valid for
`MAX_STALENESS` seconds from that moment. A dead connection, a hanging server or an event loop that
is too busy to read turns the cache off because the confirmation expires; none has to be detected.

A pooler that assigns another connection to each transaction (PgBouncer's transaction pooling) would
echo pings and lose all other notifications. So each new connection is tested first: it has to
receive a notification of a second connection while it runs no query.

Each ping counts the triggers. On any failure the cache is not used, `ResponseCache.problem` says
why, and the listener connects again. Until it has, entries stay, but are not valid: they are only
used as stale responses while the database does not answer.

A client can wait until all processes have received its changes: it sends `sync <token>` on the
channel, and each process replies with `<token>` on `content_star_synced`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from django.db import connection as django_connection
from psycopg import AsyncConnection, Error, Notify, errors

from pulpcore.content_star.cache.invalidation.signals import signal_invalidation
from pulpcore.content_star.cache.invalidation.triggers import ALL, CHANNEL, COUNT_ENABLED, triggers
from pulpcore.content_star.cache.store import TURNED_OFF, ResponseCache
from pulpcore.content_star.database.availability import availability

log = logging.getLogger(__name__)

# Seconds between pings. One takes PostgreSQL and this process less than a millisecond together.
PING_INTERVAL = 0.4

# Seconds without a reply to a ping after which the database is taken to hang, and after which the
# listener gives up the connection. A machine that is overloaded takes long to reply as well.
OVERDUE, REPLY_TIMEOUT = 1.0, 3.0

# Seconds that an attempt to connect may take: the database may have come back during it, on another
# host of the same address, and packets that were lost are repeated after a second or more.
CONNECT_TIMEOUT = 2.0

# Seconds before the next attempt if there was no connection.
RECONNECT_PAUSE = 0.5

# Seconds before the next attempt over a connection on which no notifications arrive, doubled after
# each failure up to the maximum: an operator has to act.
MIN_BACKOFF, MAX_BACKOFF = 0.5, 30.0

# Name of the listening connection in `pg_stat_activity`.
APPLICATION_NAME = "pulp-content-star listener"

SYNC_PREFIX = "sync "
SYNCED_CHANNEL = "content_star_synced"

NO_TRIGGERS = "triggers are missing or disabled, run `pulpcore-manager migrate`"
NO_LISTEN = (
    "notifications of the database do not arrive, as behind a pooler in transaction mode; "
    "connect to PostgreSQL directly or use session pooling"
)
READ_ONLY = "the database is a standby, which sends no notifications; connect to the primary"
NO_CONNECTION = "the listener has no connection to the database"


class NotificationsUnavailable(Exception):
    """Changes would not be received over a connection that works; the message says why."""


@asynccontextmanager
async def cache_invalidation(cache: ResponseCache) -> AsyncIterator[None]:
    """Invalidate entries of `cache` by notifications and by signals, until the block ends."""
    if not cache.capacity:
        cache.problem = TURNED_OFF
        yield
        return
    with signal_invalidation(cache):
        task = asyncio.create_task(Listener(cache).run(), name="cache-invalidation")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Listener:
    """Receives notifications, over one connection at a time, and invalidates cache entries."""

    def __init__(self, cache: ResponseCache) -> None:
        self.cache = cache
        self.channel = f"{CHANNEL}_{uuid.uuid4().hex}"
        self.pings = 0
        self._sent_pings: dict[str, float] = {}
        self._sync_tokens: list[str] = []
        self._received_tests: set[str] = set()
        self._expected = triggers()

    async def run(self) -> None:
        """Listen, and connect again after each failure; never returns."""
        backoff = MIN_BACKOFF
        while True:
            started_at, pause = time.monotonic(), RECONNECT_PAUSE
            try:
                await self._listen()
            except NotificationsUnavailable as error:
                self.cache.set_problem(str(error))
                self._drop_entries()
                if time.monotonic() - started_at > MAX_BACKOFF:
                    backoff = MIN_BACKOFF
                pause, backoff = backoff, min(2 * backoff, MAX_BACKOFF)
            except (Error, OSError, TimeoutError) as error:
                log.debug("Listener for cache invalidation lost its connection: %r", error)
                self.cache.set_problem(NO_CONNECTION)
            except Exception:
                log.exception("Listener for cache invalidation failed, connecting again.")
                self.cache.set_problem(NO_CONNECTION)
                self._drop_entries()
            await asyncio.sleep(pause)

    def _drop_entries(self) -> None:
        """Drop all entries, so that they are not used as stale responses either."""
        self.cache.confirm(float("-inf"))
        self.cache.invalidate_all()

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await _connect()
        except (Error, OSError, TimeoutError) as error:
            reason = str(error) or f"no connection within {CONNECT_TIMEOUT:g} s"
            availability.failed(reason, hung=isinstance(error, TimeoutError))
            raise
        availability.answered()
        try:
            async with asyncio.timeout(2 * REPLY_TIMEOUT):
                await self._prepare(connection)
            while True:
                await self._ping(connection)
                await self._receive(connection, PING_INTERVAL)
        finally:
            # Not `close`, which can block on a server that hangs.
            connection.pgconn.finish()

    async def _prepare(self, connection: AsyncConnection) -> None:
        """LISTEN, and test that notifications arrive. Raises `NotificationsUnavailable`."""
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
        except errors.ReadOnlySqlTransaction:
            raise NotificationsUnavailable(READ_ONLY) from None
        await connection.execute(f"LISTEN {self.channel}")
        # Changes committed before LISTEN were not received.
        self.cache.invalidate_all()
        await connection.execute(
            "SELECT set_config('application_name', %s, false)", [APPLICATION_NAME]
        )
        test = uuid.uuid4().hex
        other = await _connect()
        try:
            await other.execute("SELECT pg_notify(%s, %s)", [self.channel, test])
        finally:
            await other.close()
        deadline = time.monotonic() + REPLY_TIMEOUT
        while test not in self._received_tests:
            if time.monotonic() > deadline:
                raise NotificationsUnavailable(NO_LISTEN)
            await self._receive(connection, 0.1)
        self._received_tests.clear()

    async def _ping(self, connection: AsyncConnection) -> None:
        """Send a ping and the replies to sync requests.

        Raises `NotificationsUnavailable` if a trigger is missing or disabled.
        """
        self.pings += 1
        self._sent_pings[str(self.pings)] = time.monotonic()
        tables = list({trigger.table for trigger in self._expected})
        async with asyncio.timeout(REPLY_TIMEOUT):
            with _reported_if_overdue():
                cursor = await connection.execute(COUNT_ENABLED, [tables])
                row = await cursor.fetchone()
            availability.answered()
            if row is None or row[0] < len(self._expected):
                raise NotificationsUnavailable(NO_TRIGGERS)
            await connection.execute("SELECT pg_notify(%s, %s)", [self.channel, str(self.pings)])
            while self._sync_tokens:
                await connection.execute(
                    "SELECT pg_notify(%s, %s)", [SYNCED_CHANNEL, self._sync_tokens.pop()]
                )

    async def _receive(self, connection: AsyncConnection, seconds: float) -> None:
        """Handle notifications for `seconds`, or until a sync request has to be replied to."""
        deadline = time.monotonic() + seconds
        while True:
            remaining = max(0, deadline - time.monotonic())
            # No early exit: psycopg drops the other notifications that came in the same packet.
            async for notification in connection.notifies(timeout=remaining, stop_after=1):
                self._handle(notification)
            if self._sync_tokens or time.monotonic() >= deadline:
                return

    def _handle(self, notification: Notify) -> None:
        payload = notification.payload
        if notification.channel == self.channel:
            self._handle_own(payload)
        elif payload.startswith(SYNC_PREFIX):
            self._sync_tokens.append(payload.removeprefix(SYNC_PREFIX))
        else:
            self._invalidate(payload)

    def _invalidate(self, payload: str) -> None:
        try:
            ids = [] if payload == ALL else list(map(uuid.UUID, payload.split()))
        except ValueError:  # from triggers of another version of this package
            ids = []
        if ids:
            self.cache.invalidate(ids)
        else:
            self.cache.invalidate_all()

    def _handle_own(self, payload: str) -> None:
        sent_at = self._sent_pings.pop(payload, None)
        if sent_at is None:
            self._received_tests.add(payload)
            return
        self.cache.confirm(sent_at)
        self.cache.set_problem(None)


async def check_notifications() -> None:
    """Test that notifications arrive over a connection of its own.

    Raises NotificationsUnavailable, psycopg's errors, OSError and TimeoutError.
    """
    async with asyncio.timeout(3 * REPLY_TIMEOUT):
        connection = await _connect()
        try:
            await Listener(ResponseCache(1, 1))._prepare(connection)
        finally:
            await connection.close()


@contextlib.contextmanager
def _reported_if_overdue() -> Iterator[None]:
    """Report that the database hangs if the block takes longer than OVERDUE seconds."""

    async def report() -> None:
        await asyncio.sleep(OVERDUE)
        await asyncio.sleep(0.1)  # the reply may have arrived while this process was busy
        availability.failed(f"no reply to a ping within {OVERDUE:g} s", hung=True)

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()


async def _connect() -> AsyncConnection:
    """Return an asyncio connection with Django's connection parameters."""
    parameters = django_connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(name, None)
    # Prepared statements would fail behind a pooler in transaction mode, which `_prepare` detects.
    return await AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
