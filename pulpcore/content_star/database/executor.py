"""The only door between the event loop and blocking ORM work.

Django keeps one database connection per thread, so a bounded pool of threads is a bounded pool of
connections. A trip through the door takes a thread, does everything blocking that a request needs,
and gives the thread back before any byte of a body is sent: no connection waits for a slow client
(pulpcore issue 2816).

Django's own request handler looks after connections when it sends `request_started` and
`request_finished`. Content requests send neither; the care that is due is taken here instead.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import Error, OperationalError, connection, reset_queries

from pulpcore.content_star.database.working_directory import enter_working_directory

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Seconds to wait before work is done again: at once for a connection that died while it was
# idle, then long enough for a server that restarts or fails over to accept connections again.
RETRY_PAUSES = (0.0, 0.1, 0.5, 1.0)

# Seconds after which work that nobody has got to yet is not worth those pauses any more: while the
# database is away, everybody who queues for a thread would wait through those of all before.
PATIENCE = sum(RETRY_PAUSES)

# Seconds that closing waits for trips still under way: a query may hang for as long as it likes.
CLOSE_TIMEOUT = 2.0


_current: contextvars.ContextVar["DatabaseExecutor"] = contextvars.ContextVar(
    "content_star_executor"
)


class ConnectionLost(OperationalError):
    """The database cannot be reached, or left while it was asked; the cause is the first error."""


class DatabaseExecutor:
    """A pool of threads, each with its own persistent database connection."""

    def __init__(self, threads: int, name: str = "content-db") -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, name, enter_working_directory)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a pool thread, in a copy of the caller's context variables.

        If its connection dies, `work` is done again on a fresh one, so it has to be idempotent: to
        read, or to write what may be written twice.
        Raises what `work` raises, and `ConnectionLost` only if the database stayed away through
        all of `RETRY_PAUSES`, of which the time that was spent waiting for a thread is a part.
        """
        return await self._travel(_insist, partial(work, *args, **kwargs), time.monotonic())

    async def once(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` as `run` does, but never again: for what must not happen twice.

        A connection that died while it was idle is replaced before; `ConnectionLost` is raised if
        it dies during the work, which may have been done or not.
        """
        return await self._travel(_afresh, partial(work, *args, **kwargs))

    async def _travel(self, way: Callable[..., T], *args: object) -> T:
        trip = partial(self.context().run, way, *args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, trip)

    def context(self) -> contextvars.Context:
        """Return a copy of the caller's context variables for work behind this door."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context

    def executor(self) -> Executor:
        """Return the threads as an executor, for calls of code that is not ours.

        Nothing is done again: nobody knows what a call has done before its connection died.
        """
        return _Calls(self._executor)

    async def close(self) -> None:
        """Close the connections and end the threads, once the trips under way are done.

        Trips that are not done after `CLOSE_TIMEOUT` are left to themselves.
        """
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        # Only its own thread can close a connection. As many jobs as threads, each waiting for the
        # others and for us, reach every thread once.
        everyone = threading.Barrier(self._threads + 1)

        def leave() -> None:
            connection.close()
            everyone.wait()

        for _ in range(self._threads):
            self._executor.submit(leave)
        try:
            everyone.wait(CLOSE_TIMEOUT)
        except threading.BrokenBarrierError:
            log.warning("Closing without waiting for queries that take too long.")
            self._executor.shutdown(wait=False, cancel_futures=True)
        else:
            self._executor.shutdown(wait=True)


class _Calls(Executor):
    """Whoever shuts it down leaves the door open."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(_afresh, partial(fn, *args, **kwargs))


def current_executor() -> DatabaseExecutor | None:
    """Return the door that this trip went through; for what has to be read while it is sent."""
    return _current.get(None)


def _attempt(work: Callable[[], T]) -> T:
    reset_queries()  # with DEBUG on, Django records every query of a connection for ever
    try:
        return work()
    except Error as error:
        if _alive():
            raise
        connection.close()
        raise ConnectionLost(str(error)) from error
    finally:
        _return_to_pool()


def _insist(work: Callable[[], T], asked_at: float) -> T:
    for pause in RETRY_PAUSES:
        try:
            return _attempt(work)
        except ConnectionLost as lost:
            if pause and time.monotonic() - asked_at > PATIENCE:
                raise
            log.info("The database connection was lost, trying again: %s", lost)
            time.sleep(pause)
    return _attempt(work)


def _afresh(work: Callable[[], T]) -> T:
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    return _attempt(work)


def _alive() -> bool:
    return connection.connection is not None and connection.is_usable()


def _return_to_pool() -> None:
    """Hand the connection back where psycopg's own pool is configured (`OPTIONS["pool"]`).

    The API takes its connections from that pool too; a thread that kept one would starve it.
    """
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
