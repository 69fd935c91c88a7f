"""Threads and database connections for blocking calls of asynchronous plugin code.

Plugins use the ORM as upstream does: `await sync_to_async(...)`, `await Model.objects.aget(...)`.
By default asgiref runs these in one thread of the process, or in a new one per request with its own
database connection. Here each call runs in a thread of a `DatabaseExecutor`: no connection is held
for a slow client, and there are no more connections than threads.

Calls of one request may run in different threads; Django does not support transactions across
them in any case.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from pulpcore.content_star.database.executor import DatabaseExecutor

# Never entered, and so never exited: tasks may continue after the response.
_context = ThreadSensitiveContext()


@contextmanager
def threads_of(executor: DatabaseExecutor) -> Iterator[None]:
    """Run blocking calls of plugin code in the threads of `executor` during the block."""
    SyncToAsync.context_to_thread_executor[_context] = executor.executor()
    try:
        yield
    finally:
        SyncToAsync.context_to_thread_executor.pop(_context, None)


def use_threads() -> None:
    """Run blocking calls of the current task, and of tasks it starts, in those threads."""
    SyncToAsync.thread_sensitive_context.set(_context)
