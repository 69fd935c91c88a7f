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
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.db import Error, connection, reset_queries

from pulpcore.content_star.database.availability import (
    ConnectionLost,
    DatabaseOverloaded,
    DatabaseUnavailable,
    availability,
)
from pulpcore.content_star.database.connection import ends_session
from pulpcore.content_star.database.deadline import DatabaseTimeout
from pulpcore.content_star.database.threads import (
    DatabaseThreads,
    current_call,
    current_thread,
    limit_deadline,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Seconds before the second retry, doubled for each further one, and seconds after which there is
# none. The first one follows at once in the same thread, if a connection was lost while idle.
RETRY_PAUSE, RETRY_TIMEOUT = 0.1, 2.0

# Seconds that `close` waits for running calls: a query may hang.
CLOSE_TIMEOUT = 2.0

# Seconds that a call which tries the database during an outage waits for its answer: a client that
# asks for one file after the other would be the one that tries each time.
TRY_TIMEOUT = 1.0


_current: contextvars.ContextVar["DatabaseExecutor"] = contextvars.ContextVar(
    "content_star_executor"
)


class DatabaseExecutor:
    """A pool of threads, each with its own persistent database connection.

    A call that the database does not answer within the executor's timeout raises `DatabaseTimeout`,
    time spent waiting for a thread included, and its connection is given up.
    """

    def __init__(
        self,
        threads: int,
        name: str = "content-db",
        timeout: float | None = None,
        max_wait: float | None = None,
        fallback: "DatabaseExecutor | None" = None,
    ) -> None:
        """`timeout` and `max_wait` in seconds, as in `DatabaseThreads`.

        Default: `CONTENT_STAR_DATABASE_TIMEOUT`. `fallback` runs the work of `run_directly` while
        PostgreSQL has no connection left for this one, or the system no thread.
        """
        if timeout is None:
            timeout = settings.CONTENT_STAR_DATABASE_TIMEOUT
        self.timeout = timeout
        self._fallback = fallback
        self._pool = DatabaseThreads(threads, name, timeout, max_wait)
        self._run_idempotent = sync_to_async(
            _run_idempotent, thread_sensitive=False, executor=self._pool
        )
        self._run_checked = sync_to_async(_run_checked, thread_sensitive=False, executor=self._pool)
        # Never entered, and so never exited: tasks of plugins may go on after the response.
        self._orm = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[self._orm] = _PoolExecutor(self._pool)

    @property
    def has_free_thread(self) -> bool:
        """Whether a call would start at once."""
        return self._pool.has_free_thread

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a pool thread, with the caller's context variables.

        If the connection is lost, `work` is retried on a new one, so it must be idempotent.
        Raises the exceptions of `work`, and `ConnectionLost` if the database stays away for
        `RETRY_TIMEOUT` seconds from the first loss on, or has been away for as long.
        """
        _current.set(self)
        call = partial(self._run_idempotent, partial(work, *args, **kwargs))
        result: T = await _with_retries(call)
        return result

    async def run_once(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` as `run` does, but without retries: for work that is not idempotent.

        A connection that was lost while it was idle is replaced first. Raises `ConnectionLost` if
        it is lost during the work, which may or may not be committed then.
        """
        _current.set(self)
        await availability.wait()
        result: T = await self._run_checked(partial(work, *args, **kwargs))
        return result

    async def run_directly(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` as `run` does, but without asgiref: for lookups of content.

        asgiref takes 12 to 20 us of CPU more for each call (64 to 76 us without queries, minima of
        interleaved rounds): 6 % of a distinct file that is looked up alone, at 200 us.
        """
        call = partial(work, *args, **kwargs)
        attempt = self._submit if self._fallback is None else self._submit_with_fallback
        return await _with_retries(lambda: attempt(call))

    def _submit(self, work: Callable[[], T]) -> Awaitable[T]:
        run = partial(self.context().run, _run_idempotent, work)
        # Not by the loop's `run_in_executor`, which inspects `run`.
        return asyncio.wrap_future(self._pool.submit(run))

    async def _submit_with_fallback(self, work: Callable[[], T]) -> T:
        try:
            return await self._submit(work)
        except (ConnectionLost, DatabaseOverloaded) as error:
            fallback = self._fallback
            if fallback is None or not self._is_unable(error):
                raise
            if not (fallback.has_connection and fallback.has_free_thread):
                raise  # its own work does not wait for this
        return await fallback._submit(work)

    def _is_unable(self, error: Exception) -> bool:
        """Return whether a call failed since this pool has no thread, or no connection for it."""
        if isinstance(error, ConnectionLost):
            return not error.was_connected
        return not self._pool.has_thread

    @property
    def has_connection(self) -> bool:
        """Whether any of the threads has a connection."""
        return self._pool.has_connection

    @contextmanager
    def asynchronous_orm(self) -> Iterator[None]:
        """Run Django's asynchronous queries and `sync_to_async` in these threads during the block.

        Each call is run as by `run_once`. It applies to the current task and to tasks that it
        starts. Calls may run in different threads: Django supports no transactions across them.
        """
        token = SyncToAsync.thread_sensitive_context.set(self._orm)
        try:
            yield
        finally:
            SyncToAsync.thread_sensitive_context.reset(token)

    def context(self) -> contextvars.Context:
        """Return a copy of the caller's context variables, with this as the current executor."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return context

    async def close(self) -> None:
        """Wait for running calls, close the connections and stop the threads.

        Calls that are not finished after `CLOSE_TIMEOUT` are interrupted.
        """
        await asyncio.to_thread(self._pool.close, CLOSE_TIMEOUT)


class _PoolExecutor(Executor):
    """Adapter for asgiref, whose calls need the care for connections too."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if not availability.may_try():
            raise DatabaseUnavailable
        return self._pool.submit(_run_checked, partial(fn, *args, **kwargs))


def leave_event_loop() -> None:
    """Make `async_to_sync` in this thread run coroutines in a new event loop.

    On the server's event loop, a blocking task would stop all requests, a non-blocking one would
    compete with them (within its limit of 5 s), and relative paths would not be the thread's. A
    client disconnect would cancel it: pulpcore does not handle that, and the task would stay
    "running" with its resources locked until the process ends.
    """
    local = SyncToAsync.threadlocal
    local.main_event_loop = local.task_context = None


def current_executor() -> DatabaseExecutor | None:
    """Return the executor of the current request, for reads while the response is sent."""
    return _current.get(None)


async def _with_retries(attempt: Callable[[], Awaitable[T]]) -> T:
    """Await attempts until one does not lose its connection. No thread is occupied in between."""
    give_up_at, pause = 0.0, RETRY_PAUSE
    while True:
        if availability.down_since is not None:
            await availability.wait()
        try:
            return await attempt()
        except ConnectionLost as lost:
            give_up_at = give_up_at or time.monotonic() + RETRY_TIMEOUT
            if time.monotonic() + pause > give_up_at:
                raise
            log.info("Database connection lost, retrying in %.1f s: %s", pause, lost)
        await asyncio.sleep(pause)
        pause *= 2


def _run_idempotent(work: Callable[[], T]) -> T:
    """Run `work`, and again at once if a connection was lost: it may have been long ago."""
    call = current_call()
    if call:
        call.is_repeatable = True
    try:
        return _attempt(work)
    except ConnectionLost as lost:
        if not lost.was_connected:
            _note_loss(lost)
            raise
    if call:
        call.started_at = time.monotonic()  # on a connection that is not from before an outage
    try:
        return _attempt(work)
    except ConnectionLost as lost:
        _note_loss(lost)
        raise


def _note_loss(lost: ConnectionLost) -> None:
    """Note that the database does not answer, unless only this executor cannot connect."""
    executor = current_executor()
    fallback = executor._fallback if executor else None
    if lost.was_connected or fallback is None or not fallback.has_connection:
        availability.failed(lost)


def _run_checked(work: Callable[[], T]) -> T:
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    try:
        return _attempt(work)
    except ConnectionLost as lost:
        availability.failed(lost)
        raise


def _attempt(work: Callable[[], T]) -> T:
    leave_event_loop()
    if connection.queries_log:
        reset_queries()  # with DEBUG on, Django records all queries of a connection
    try:
        _check_connection()
        return work()
    except Error as error:
        call = current_call()
        if call and call.is_expired:
            connection.close()
            raise DatabaseTimeout(str(error)) from error
        # Django has a new connection already, if a transaction lost its.
        if _is_connected() and not ends_session(error):
            raise
        lost = ConnectionLost(str(error))
        lost.was_connected = connection.connection is not None
        connection.close()
        raise lost from error
    finally:
        _return_to_pool()


def _check_connection() -> None:
    """Close a connection from before the database hung, and try the database during an outage.

    Raises Django's database errors.
    """
    thread = current_thread()
    if thread and thread.hangs != availability.hangs:
        thread.hangs = availability.hangs
        connection.close()
    if availability.down_since is not None:
        with limit_deadline(TRY_TIMEOUT), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        availability.answered()


def _is_connected() -> bool:
    return connection.connection is not None and connection.is_usable()


def _return_to_pool() -> None:
    """Close the connection if psycopg's pool is configured (`OPTIONS["pool"]`), which returns it.

    The REST API uses the same pool and would starve if idle threads held its connections.
    """
    if connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
