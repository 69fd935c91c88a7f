"""The database of the session's Pulp: executors of its calls, and the connections that it has."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection

from pulpcore.content_star.database.executor import DatabaseExecutor


@contextmanager
def opened_executor(
    threads: int = 2, timeout: float | None = None
) -> Iterator[tuple[DatabaseExecutor, Callable[..., Any]]]:
    """Yield an executor with an event loop of its own, and the loop's `run`."""
    with asyncio.Runner() as runner:
        executor = DatabaseExecutor(threads, timeout=timeout)
        try:
            yield executor, runner.run
        finally:
            runner.run(executor.close())


def backend_pid() -> int:
    """Return the pid of PostgreSQL's process for this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


async def run_by_orm(executor: DatabaseExecutor, work: Callable[..., Any], *args: object) -> Any:
    """Call `work` with asgiref's defaults, as asynchronous queries do, in the executor."""
    with executor.asynchronous_orm():
        return await sync_to_async(work)(*args)


WAYS = {
    "run": DatabaseExecutor.run,
    "run_once": DatabaseExecutor.run_once,
    "run_directly": DatabaseExecutor.run_directly,
    "asynchronous_orm": run_by_orm,
}


def terminate(condition: str, *parameters: object) -> int:
    """Terminate other connections that match a condition on `pg_stat_activity`; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity"
            f" WHERE pid <> pg_backend_pid() AND {condition}",
            parameters,
        )
        return cursor.fetchone()[0]


def count_waiting(application: str) -> int:
    """Count the connections of an application that wait for a lock."""
    with connection.cursor() as cursor:
        # A transaction sees the statistics of its first look.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %s AND wait_event_type = 'Lock'",
            [application],
        )
        return cursor.fetchone()[0]
