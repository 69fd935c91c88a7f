"""Thread pool for database calls with deadlines; each thread has a database connection.

Unlike `ThreadPoolExecutor`, it fails a running call at its deadline: the thread may wait longer for
a name server or a connection, but the caller must not.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.signals import connection_created

from pulpcore.content_star.database.availability import (
    ConnectionLost,
    DatabaseOverloaded,
    availability,
)
from pulpcore.content_star.database.connection import interrupt, is_waiting, limit_statements
from pulpcore.content_star.database.deadline import DatabaseTimeout, watchdog
from pulpcore.content_star.database.working_directory import enter_working_directory

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that a part of a listing may take: some have to read all rows of a repository.
LISTING_TIMEOUT = 30.0

# Threads for directories, indexes and pages of files, which take 5 to 50 ms of CPU each: files do
# not wait for them. Two occupy a processor, even if one of them waits for the database.
PAGE_THREADS = 2

# Calls that wait for a thread of one pool. With a request each, they take some 20 MB.
MAX_WAITING = 1000

# Successive checks in which a call was waiting for the database, before it is interrupted: what
# else plugins' code does may take longer than the deadline.
CHECKS = 2


# Seconds for which a thread that cannot connect leaves calls to those that have a connection.
CONNECT_PAUSE = 0.25


class Call(Future[Any]):
    """A call and its result.

    It stays pending while it runs: it may fail at its deadline or be cancelled, and its result is
    dropped then.
    """

    def __init__(self, work: Callable[[], Any], timeout: float) -> None:
        super().__init__()
        self.work = work
        self.submitted_at = time.monotonic()
        self.started_at = float("inf")
        self.expires = self.submitted_at + timeout
        """Deadline on the monotonic clock, in seconds."""
        self.thread: DatabaseThread | None = None
        """The thread that runs it."""
        self.is_expired = False
        self.is_repeatable = False
        """Whether it is repeated if its connection is lost."""
        self.checks = 0
        self.add_done_callback(_drop_work)

    @property
    def database(self) -> Any:
        """The connection that its thread has for it, as `DatabaseThread.database`, or None."""
        thread = self.thread
        # The thread may have gone on to another call.
        return thread.database if thread is not None and thread.call is self else None

    def finish(self, result: Any) -> None:
        """Set the result, unless the call is done."""
        with suppress(InvalidStateError):
            self.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the exception, unless the call is done."""
        with suppress(InvalidStateError):
            self.set_exception(error)


def _drop_work(call: Future[Any]) -> None:
    """Drop what the work of a call refers to: one that is cancelled stays in the queue."""
    call.work = lambda: None  # type: ignore[attr-defined]


class DatabaseThreads(Executor):
    """A pool of threads, started when needed, whose calls have deadlines."""

    def __init__(
        self, threads: int, name: str, timeout: float, max_wait: float | None = None
    ) -> None:
        """`timeout` of each call in seconds counts from its submission.

        With `max_wait`, it counts from its start, and the call waits so long for a thread.
        """
        self.timeout = timeout
        self.max_wait = max_wait
        self._max_threads = threads
        self._name = name
        self._threads: list[DatabaseThread] = []
        self.queue: SimpleQueue[Call | None] = SimpleQueue()
        self.calls: dict[Call, None] = {}
        """Those that have not ended: each operation on it is atomic."""
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_logged_limit = False
        self.is_congested = False
        """Whether calls are refused."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call. It fails with `DatabaseTimeout` at the deadline.

        Raises `DatabaseOverloaded` if too many are waiting, or one for half of the time it has, and
        if there is no thread and none can be started.
        """
        work = partial(fn, *args, **kwargs) if args or kwargs else fn
        call = Call(work, self.timeout if self.max_wait is None else self.max_wait)
        if self._is_closed:
            raise RuntimeError(f"The database executor {self._name} is closed.")
        if self.is_congested or len(self.calls) >= self._max_threads + MAX_WAITING:
            raise DatabaseOverloaded
        if len(self._threads) < self._max_threads and len(self.calls) >= len(self._threads):
            self._start_thread()
        self.calls[call] = None
        self.queue.put(call)
        return call

    @property
    def has_free_thread(self) -> bool:
        """Whether a call would start at once."""
        return len(self.calls) < self._max_threads

    @property
    def has_thread(self) -> bool:
        """Whether any thread has been started."""
        return bool(self._threads)

    @property
    def has_connection(self) -> bool:
        """Whether any of the threads has a connection."""
        return any(thread.database is not None for thread in self._threads)

    def _start_thread(self) -> None:
        with self._lock:
            if len(self._threads) == self._max_threads:
                return
            thread = DatabaseThread(self, f"{self._name}_{len(self._threads)}")
            try:
                if not self._threads:
                    watchdog.add(self)
                thread.start()
            except RuntimeError as error:  # the system has a limit
                self._note_limit(error)
                return
            self._threads.append(thread)
            self._has_logged_limit = False

    def _note_limit(self, error: RuntimeError) -> None:
        """Log once that no thread can be started. Raises `DatabaseOverloaded` if there is none."""
        if not self._has_logged_limit:
            log.error(
                "Database executor %s: %s, there are %d of %d. Raise the limit of processes and"
                " threads: TasksMax of systemd, pids of a container, or ulimit -u.",
                self._name,
                error,
                len(self._threads),
                self._max_threads,
            )
        self._has_logged_limit = True
        if not self._threads:
            raise DatabaseOverloaded from error

    def check(self, now: float) -> None:
        """Fail calls whose deadline has passed, and interrupt those that wait for the database.

        Interrupts also those that have waited since before an outage: they are repeated.
        """
        self._note_congestion(now)
        for call in list(self.calls):
            if call.done() and call.thread is None:
                self.calls.pop(call, None)
            elif now >= call.expires:
                self._expire(call)
            elif call.is_repeatable and availability.is_dead(call.started_at):
                _interrupt(call)

    def _note_congestion(self, now: float) -> None:
        """Refuse calls while one has waited so long that those behind it may wait in vain."""
        oldest = min(
            (
                call.submitted_at
                for call in list(self.calls)
                if call.thread is None and not call.done()
            ),
            default=now,
        )
        timeout = self.timeout if self.max_wait is None else self.max_wait
        was_congested, self.is_congested = self.is_congested, now - oldest > timeout / 2
        if self.is_congested and not was_congested:
            log.warning(
                "Database executor %s: calls wait for more than %g s for one of %d threads, further"
                " ones get 503. The database is slow, or needs more threads.",
                self._name,
                timeout / 2,
                self._max_threads,
            )

    def _expire(self, call: Call) -> None:
        database = call.database
        if database is None:
            call.is_expired = True
        elif is_waiting(database):
            call.checks += 1
            if call.checks >= CHECKS:
                call.is_expired = True
                # First, for the interrupted call may be repeated at once, by a thread with a
                # connection that is as dead.
                availability.failed("no answer before a deadline", hung=True)
                _interrupt(call)
        else:
            call.checks = 0
        if call.is_expired:
            has_started = self.max_wait is not None and call.thread is not None
            seconds = call.expires - (call.started_at if has_started else call.submitted_at)
            call.fail(DatabaseTimeout(f"The database did not answer within {seconds:.1f} s."))

    def close(self, timeout: float) -> None:
        """Close the connections and stop the threads, once their calls have ended. Blocks.

        Calls that have not after `timeout` seconds are interrupted.
        """
        with self._lock:
            self._is_closed = True
        for _ in self._threads:
            self.queue.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            log.warning(
                "Database executor %s: queries still running after %.0f s, they are interrupted.",
                self._name,
                timeout,
            )
        for call in list(self.calls):
            call.is_expired = True
            _interrupt(call)
            call.cancel()
        watchdog.remove(self)


def _interrupt(call: Call) -> None:
    """Make the query of a call fail, if one is in progress."""
    thread = call.thread
    if thread is None:
        return
    with thread.lock:
        database = call.database
        if database is not None and is_waiting(database):
            interrupt(database)


class DatabaseThread(threading.Thread):
    """Runs calls one after the other."""

    def __init__(self, pool: DatabaseThreads, name: str) -> None:
        # Python waits at its end for threads that are no daemons, and so for queries that hang.
        super().__init__(name=name, daemon=True)
        self.call: Call | None = None
        self.lock = threading.Lock()
        """Held while `call` is replaced, and while its query is interrupted."""
        self.pool = pool
        self.hangs = availability.hangs
        """As `Availability.hangs`, when its connection was known to work."""
        self._wrapper: Any = None
        self._cannot_connect = False

    @property
    def database(self) -> Any:
        """The thread's connection as psycopg's object; None while there is none."""
        return self._wrapper and self._wrapper.connection

    def run(self) -> None:
        enter_working_directory()
        self._wrapper = connections[DEFAULT_DB_ALIAS]
        self._wrapper.execute_wrappers.append(_note_answer)
        while (call := self.pool.queue.get()) is not None:
            if not call.done():  # its caller has left, or it has waited too long
                self._run_call(call)
            self.pool.calls.pop(call, None)
            del call  # and with it, what its work refers to
            if self._cannot_connect and self.pool.has_connection:
                time.sleep(CONNECT_PAUSE)
        connection.close()

    def _run_call(self, call: Call) -> None:
        self._set_call(call)
        call.started_at = time.monotonic()
        if self.pool.max_wait is not None:
            call.expires = call.started_at + self.pool.timeout
        call.thread = self  # last, for the watchdog
        self._cannot_connect = False
        try:
            call.finish(call.work())
        except BaseException as error:
            self._cannot_connect = isinstance(error, ConnectionLost) and not error.was_connected
            call.fail(error)
        finally:
            self._set_call(None)
            call.thread = None
            del call  # a cycle: its exception refers to this frame

    def _set_call(self, call: Call | None) -> None:
        with self.lock:
            self.call = call


def _note_answer(execute: Callable[..., T], *arguments: Any) -> T:
    """Execute a statement, and note the answer of the database; a wrapper of Django's cursors."""
    result = execute(*arguments)
    availability.answered()
    return result


def current_thread() -> DatabaseThread | None:
    """Return this thread, if it is one of a pool."""
    thread = threading.current_thread()
    return thread if isinstance(thread, DatabaseThread) else None


def current_call() -> Call | None:
    """Return the call that this thread runs, if it is one of a pool."""
    thread = current_thread()
    return thread.call if thread else None


def extend_deadline(seconds: float) -> None:
    """Move the deadline of the current call to `seconds` from now, if it is earlier."""
    if call := current_call():
        call.expires = max(call.expires, time.monotonic() + seconds)


@contextmanager
def limit_deadline(seconds: float) -> Iterator[None]:
    """Limit the deadline of the current call to `seconds` from now, during the block."""
    call = current_call()
    if call is None:
        yield
        return
    expires = call.expires
    call.expires = min(expires, time.monotonic() + seconds)
    try:
        yield
    finally:
        call.expires, call.checks = expires, 0


def _limit_statements(**_: object) -> None:
    if thread := current_thread():
        limit_statements(max(thread.pool.timeout, LISTING_TIMEOUT))


connection_created.connect(_limit_statements)
