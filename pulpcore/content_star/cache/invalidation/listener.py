"""Hears what the triggers tell, and proves all the time that it does.

The process has one connection that listens. Several times a second it sends itself a notification
(a ping) over it. PostgreSQL delivers notifications in the order of commits, so that the echo of a
ping proves that all that was committed before the ping was sent has been heard of; plans are used
for `cache.BOUND` seconds from there. A connection that is silently dead, a server that hangs and a
loop that is too busy to read all end the use of plans by themselves, with nobody having to notice.

A pooler that gives each transaction another connection (pgbouncer's transaction pooling) would echo
pings and lose everything else. So each connection is tried first: what another connection notifies
has to arrive while this one asks for nothing.

With each ping the triggers are counted. If anything is wrong, the cache is not used,
`ResponseCache.problem` says why, and the listener tries again.

Whoever needs to know that all processes have heard of a change sends `sync <token>` on the channel:
each answers with `<token>` on `content_star_synced`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.db import connection as django_connection
from psycopg import AsyncConnection, Error, Notify

from pulpcore.content_star.cache.invalidation.signals import following
from pulpcore.content_star.cache.invalidation.triggers import ALL, CHANNEL, COUNT, triggers
from pulpcore.content_star.cache.store import TURNED_OFF, ResponseCache

log = logging.getLogger(__name__)

# Seconds between two pings. One takes PostgreSQL and us less than a millisecond together.
PING_INTERVAL = 0.4

# Seconds for the database to answer the listener.
DEADLINE = 5.0

# Seconds before another try, each time twice as many up to the last.
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0

# The listener's connection in `pg_stat_activity`, once it listens.
APPLICATION_NAME = "pulp-content-star listener"

SYNC = "sync "
SYNCED = "content_star_synced"

NO_TRIGGERS = "triggers are missing, which `pulpcore-manager migrate` makes"
NO_LISTEN = "notifications of the database do not arrive, as with a pooler by transaction"
NO_CONNECTION = "the listener has no connection to the database"


class Unusable(Exception):
    """The connection works, but changes would not be heard of; the message says why."""


@asynccontextmanager
async def listening(cache: ResponseCache) -> AsyncIterator[None]:
    """Have `cache` follow the database, and this process's own changes, until the block ends."""
    if not cache.capacity:
        cache.problem = TURNED_OFF
        yield
        return
    with following(cache):
        task = asyncio.create_task(Listener(cache).run(), name="plans")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Listener:
    """One connection after the other, for as long as the process lives."""

    def __init__(self, cache: ResponseCache) -> None:
        self.cache = cache
        self.channel = f"{CHANNEL}_{uuid.uuid4().hex}"
        self.pings = 0
        self._sent: dict[str, float] = {}
        self._tokens: list[str] = []
        self._heard: set[str] = set()
        self._expected = triggers()

    async def run(self) -> None:
        """Listen; never returns."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._listen()
            except Unusable as error:
                self.cache.set_problem(str(error))
            except (Error, OSError, TimeoutError) as error:
                log.debug("The listener: %r", error)
                self.cache.set_problem(NO_CONNECTION)
            except Exception:
                log.exception("The listener failed")
                self.cache.set_problem(NO_CONNECTION)
            self.cache.invalidate_all()
            if time.monotonic() - began > LAST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _listen(self) -> None:
        async with asyncio.timeout(DEADLINE):
            connection = await _connect()
        try:
            async with asyncio.timeout(2 * DEADLINE):
                await self._prepare(connection)
            while True:
                await self._ping(connection)
                await self._hear(connection, PING_INTERVAL)
        finally:
            self.cache.confirm(float("-inf"))
            # Not a polite goodbye, which a server that hangs would make us wait for.
            connection.pgconn.finish()

    async def _prepare(self, connection: AsyncConnection) -> None:
        """Listen, and find out whether that works. Raises `Unusable`."""
        await connection.execute(f"LISTEN {CHANNEL}")
        await connection.execute(f"LISTEN {self.channel}")
        # What happened before, nobody has told.
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
        deadline = time.monotonic() + DEADLINE
        while test not in self._heard:
            if time.monotonic() > deadline:
                raise Unusable(NO_LISTEN)
            await self._hear(connection, 0.1)
        self._heard.clear()

    async def _ping(self, connection: AsyncConnection) -> None:
        """Send a ping, and what is asked for; raises `Unusable` if a trigger is missing."""
        self.pings += 1
        self._sent[str(self.pings)] = time.monotonic()
        tables = list({trigger.table for trigger in self._expected})
        async with asyncio.timeout(DEADLINE):
            cursor = await connection.execute(COUNT, [tables])
            row = await cursor.fetchone()
            if row is None or row[0] < len(self._expected):
                raise Unusable(NO_TRIGGERS)
            await connection.execute("SELECT pg_notify(%s, %s)", [self.channel, str(self.pings)])
            while self._tokens:
                await connection.execute("SELECT pg_notify(%s, %s)", [SYNCED, self._tokens.pop()])

    async def _hear(self, connection: AsyncConnection, seconds: float) -> None:
        """Take notice of what comes within `seconds`, less if somebody waits for an answer."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0, deadline - time.monotonic())
            # To the end: psycopg drops what is left of notifications that have come together.
            async for notification in connection.notifies(timeout=left, stop_after=1):
                self._take(notification)
            if self._tokens or time.monotonic() >= deadline:
                return

    def _take(self, notification: Notify) -> None:
        payload = notification.payload
        if notification.channel == self.channel:
            self._heard_of_itself(payload)
        elif payload.startswith(SYNC):
            self._tokens.append(payload.removeprefix(SYNC))
        else:
            self._forget(payload)

    def _forget(self, payload: str) -> None:
        try:
            ids = [] if payload == ALL else list(map(uuid.UUID, payload.split()))
        except ValueError:  # from triggers of another version of ours
            ids = []
        if ids:
            self.cache.invalidate(ids)
        else:
            self.cache.invalidate_all()

    def _heard_of_itself(self, payload: str) -> None:
        sent = self._sent.pop(payload, None)
        if sent is None:
            self._heard.add(payload)
            return
        self.cache.confirm(sent)
        self.cache.set_problem(None)


async def _connect() -> AsyncConnection:
    """Connect as Django would, for the event loop."""
    parameters = django_connection.get_connection_params()
    for name in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(name, None)
    # A pooler by transaction takes no prepared statements, and we find that out ourselves.
    return await AsyncConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
