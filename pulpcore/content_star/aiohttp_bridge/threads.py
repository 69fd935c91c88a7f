"""Where the blocking calls of asynchronous plugin code run, and with which database connections.

Plugins call the ORM as upstream does: `await sync_to_async(...)`, `await Model.objects.aget(...)`.
asgiref would do all that in one thread for the whole process, or in a new one, with a database
connection of its own, for each request. Here each call has a thread of a `DatabaseExecutor` for as
long as it lasts: no connection waits for a slow client, and there are never more than threads.

Calls of one request may come to different threads. Django allows no transaction to stay open
between two of them anyway.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from pulpcore.content_star.database.executor import DatabaseExecutor

# Never entered, and so never left: tasks that go on after the response keep it.
_context = ThreadSensitiveContext()


@contextmanager
def threads_of(executor: DatabaseExecutor) -> Iterator[None]:
    """Have plugin code block in the threads of `executor`."""
    SyncToAsync.context_to_thread_executor[_context] = executor.executor()
    try:
        yield
    finally:
        SyncToAsync.context_to_thread_executor.pop(_context, None)


def use_threads() -> None:
    """Have the current task, and those that it starts, block in those threads."""
    SyncToAsync.thread_sensitive_context.set(_context)
