"""Database executor: runs blocking ORM work in a pool of threads with persistent connections.

Django has one database connection per thread, so a bounded pool of threads is a bounded pool of
connections. A request does all its blocking work in one call and returns the thread before the
first byte of the body is sent: no connection waits for a slow client (pulpcore issue 2816).

Django's request handler checks connections on the signals `request_started` and
`request_finished`. Content requests send neither, so the executor does: it resets queries, closes
and replaces lost connections, and retries work.
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

# Seconds before each retry: none for a connection that was lost while it was idle, then long enough
# for a server that restarts or fails over to accept connections again.
RETRY_PAUSES = (0.0, 0.1, 0.5, 1.0)

# Seconds after the call until which work is retried after a pause. Time in the queue counts: while
# the database is away, each call would otherwise wait for the retries of all calls ahead of it.
RETRY_TIMEOUT = sum(RETRY_PAUSES)

# Seconds that `close` waits for running calls: a query may hang.
CLOSE_TIMEOUT = 2.0


_current: contextvars.ContextVar["DatabaseExecutor"] = contextvars.ContextVar(
    "content_star_executor"
)


class ConnectionLost(OperationalError):
    """The database is unreachable, or closed the connection; `__cause__` is the database error."""


class DatabaseExecutor:
    """A pool of threads, each with its own persistent database connection."""

    def __init__(self, threads: int, name: str = "content-db") -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, name, enter_working_directory)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a pool thread, in a copy of the caller's context variables.

        If the connection is lost, `work` is retried on a new one, so it must be idempotent.
        Raises the exceptions of `work`, and `ConnectionLost` if the database stays away through
        `RETRY_PAUSES`, less the time spent waiting for a thread.
        """
        return await self._submit(
            _run_with_retries, partial(work, *args, **kwargs), time.monotonic()
        )

    async def run_once(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` as `run` does, but without retries: for work that is not idempotent.

        A connection that was lost while it was idle is replaced first. Raises `ConnectionLost` if
        it is lost during the work, which may or may not be committed then.
        """
        return await self._submit(_run_checked, partial(work, *args, **kwargs))

    async def _submit(self, runner: Callable[..., T], *args: object) -> T:
        call = partial(self.context().run, runner, *args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def context(self) -> contextvars.Context:
        """Return a copy of the caller's context variables, with this as the current executor."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context

    def executor(self) -> Executor:
        """Return the threads as a `concurrent.futures.Executor`, for third-party code.

        Its calls are not retried, as for `run_once`.
        """
        return _ThreadsExecutor(self._executor)

    async def close(self) -> None:
        """Wait for running calls, close the connections and stop the threads.

        Calls that are not finished after `CLOSE_TIMEOUT` are abandoned.
        """
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        # A connection can only be closed by its own thread. The barrier makes each thread take
        # exactly one of the jobs.
        barrier = threading.Barrier(self._threads + 1)

        def close_connection() -> None:
            connection.close()
            barrier.wait()

        for _ in range(self._threads):
            self._executor.submit(close_connection)
        try:
            barrier.wait(CLOSE_TIMEOUT)
        except threading.BrokenBarrierError:
            log.warning(
                "Database executor: queries still running after %.0f s, closing without them.",
                CLOSE_TIMEOUT,
            )
            self._executor.shutdown(wait=False, cancel_futures=True)
        else:
            self._executor.shutdown(wait=True)


class _ThreadsExecutor(Executor):
    """Its `shutdown` leaves the threads running, which belong to the `DatabaseExecutor`."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._threads.submit(_run_checked, partial(fn, *args, **kwargs))


def current_executor() -> DatabaseExecutor | None:
    """Return the executor of the current request, for reads while the response is sent."""
    return _current.get(None)


def _attempt(work: Callable[[], T]) -> T:
    reset_queries()  # with DEBUG on, Django records all queries of a connection
    try:
        return work()
    except Error as error:
        if _is_connected():
            raise
        connection.close()
        raise ConnectionLost(str(error)) from error
    finally:
        _return_to_pool()


def _run_with_retries(work: Callable[[], T], called_at: float) -> T:
    for pause in RETRY_PAUSES:
        try:
            return _attempt(work)
        except ConnectionLost as lost:
            if pause and time.monotonic() - called_at > RETRY_TIMEOUT:
                raise
            log.info("Database connection lost, retrying in %.1f s: %s", pause, lost)
            time.sleep(pause)
    return _attempt(work)


def _run_checked(work: Callable[[], T]) -> T:
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    return _attempt(work)


def _is_connected() -> bool:
    return connection.connection is not None and connection.is_usable()


def _return_to_pool() -> None:
    """Close the connection if psycopg's pool is configured (`OPTIONS["pool"]`), which returns it.

    The REST API uses the same pool and would starve if idle threads held its connections.
    """
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
