"""Threads of the database executors: that cannot be started, or whose calls are interrupted."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import psycopg
import pytest
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper

from pulpcore.content_star.database import threads
from pulpcore.content_star.database.availability import (
    ConnectionLost,
    DatabaseOverloaded,
    availability,
)
from pulpcore.content_star.database.connection import MAX_CANCEL_REQUESTS
from pulpcore.content_star.database.deadline import DatabaseTimeout, Watchdog
from pulpcore.content_star.database.executor import DatabaseExecutor
from tests.functional.test_database_faults import CLIENT_TIMEOUT, hang, is_running
from tests.support.database import backend_pid, opened_executor
from tests.support.instance import wait_until

pytestmark = [pytest.mark.usefixtures("orm")]

FailStarts = Callable[[str, int], None]


@pytest.fixture
def fail_starts(monkeypatch) -> FailStarts:
    """Function that makes the next starts of threads fail, by begin of the name and number."""
    left: dict[str, int] = {}
    start = threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        for name in [name for name in left if thread.name.startswith(name) and left[name]]:
            left[name] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    return lambda name, number: left.update({name: number})


def sleep(seconds: float) -> float:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
    return seconds


def test_calls_fail_while_no_thread_can_be_started(fail_starts, caplog):
    """And not after it: systemd's TasksMax, or pids of a container, may be reached for a while."""
    fail_starts("content-db", 2)
    with opened_executor(2) as (executor, run):
        for _ in range(2):
            with pytest.raises(DatabaseOverloaded):
                run(executor.run(backend_pid))
        assert run(executor.run(backend_pid))
    assert caplog.text.count("can't start new thread, there are 0 of 2.") == 1


def test_calls_wait_for_the_threads_that_could_be_started(fail_starts):
    with opened_executor(2) as (executor, run):

        async def pids(number: int) -> set[int]:
            return set(await asyncio.gather(*[executor.run(backend_pid) for _ in range(number)]))

        run(executor.run(backend_pid))
        fail_starts("content-db", 3)  # at most one for each call
        assert len(run(pids(3))) == 1
        fail_starts("content-db", 0)
        barrier = threading.Barrier(2)

        async def meet() -> None:
            meetings = [executor.run(barrier.wait, CLIENT_TIMEOUT) for _ in range(2)]
            await asyncio.gather(*meetings)

        run(meet())  # in two threads


def test_deadlines_hold_after_their_thread_could_not_be_started(fail_starts, monkeypatch):
    monkeypatch.setattr(threads, "watchdog", Watchdog())
    fail_starts("deadlines-db", 1)
    with opened_executor(1, timeout=0.5) as (executor, run):
        with pytest.raises(DatabaseOverloaded):
            run(executor.run(backend_pid))
        with pytest.raises(DatabaseTimeout):
            run(executor.run(hang, []))


def test_query_ends_at_its_deadline_without_a_thread_for_the_cancel_request(fail_starts):
    """PostgreSQL ends it later; the number of cancel requests at a time is not reached by it."""
    pids: list[int] = []
    fail_starts("cancel-db", 2 * MAX_CANCEL_REQUESTS)
    with opened_executor(1, timeout=0.5) as (executor, run):
        for _ in range(MAX_CANCEL_REQUESTS + 1):
            with pytest.raises(DatabaseTimeout):
                run(executor.run(hang, pids))
        fail_starts("cancel-db", 0)
        with pytest.raises(DatabaseTimeout):
            run(executor.run(hang, pids))
        wait_until(lambda: not is_running(pids[-1]))
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [pids[:-1]])


def test_call_that_cannot_be_repeated_is_not_interrupted_after_an_outage(monkeypatch):
    """A query at its deadline looks like one where no listener shows that the database answers."""
    monkeypatch.setattr("pulpcore.content_star.database.availability.REVIVAL_TIME", 0)
    attempts: list[int] = []

    def slow() -> float:
        attempts.append(backend_pid())
        return sleep(6 * threads.CHECKS * 0.25)

    async def main(executor: DatabaseExecutor) -> list[float]:
        calls = [asyncio.create_task(way(slow)) for way in (executor.run_once, executor.run)]
        await asyncio.to_thread(wait_until, lambda: len(attempts) == 2)
        availability.last_answer = float("-inf")
        availability.failed("test", hung=True)
        availability.answered()
        return await asyncio.gather(*calls)

    with opened_executor(2, timeout=CLIENT_TIMEOUT) as (executor, run):
        assert len(run(main(executor))) == 2
    assert len(attempts) == 3, "that by `run` was interrupted and repeated"


def test_interrupt_does_not_reach_the_next_call_of_the_thread(monkeypatch):
    """A call ends while the watchdog looks at it; the next one's query is in progress soon."""
    is_looked_at, is_next = threading.Event(), threading.Event()

    def look_slowly(database: object) -> bool:
        is_looked_at.set()
        is_next.wait(1)  # with the lock that the thread needs for it, in vain
        return True

    def first() -> None:
        backend_pid()
        assert is_looked_at.wait(CLIENT_TIMEOUT)

    def second() -> float:
        is_next.set()
        return sleep(1)

    async def main(executor: DatabaseExecutor) -> float:
        await executor.run(backend_pid)
        call = executor._pool.submit(first)
        following = asyncio.create_task(executor.run_once(second))
        await asyncio.to_thread(wait_until, lambda: call.thread is not None)
        await asyncio.to_thread(threads._interrupt, call)
        return await following

    monkeypatch.setattr(threads, "is_waiting", look_slowly)
    with opened_executor(1) as (executor, run):
        assert run(main(executor)) == 1


def test_work_goes_to_the_fallback_while_no_connection_is_left(monkeypatch):
    """Without an outage for others, and back when there is one again."""
    failed: list[object] = []
    monkeypatch.setattr(availability, "failed", lambda reason, **_: failed.append(reason))
    connect = DatabaseWrapper.get_new_connection
    is_full = True

    def connect_or_fail(wrapper: DatabaseWrapper, parameters: object) -> object:
        if is_full and threading.current_thread().name.startswith("page-db"):
            raise psycopg.OperationalError("too many clients already")
        return connect(wrapper, parameters)

    monkeypatch.setattr(DatabaseWrapper, "get_new_connection", connect_or_fail)
    with opened_executor(1) as (executor, run):
        pages = DatabaseExecutor(1, "page-db", fallback=executor)
        try:
            with pytest.raises(ConnectionLost):
                run(pages.run_directly(backend_pid))
            assert failed, "the fallback has no connection"
            failed.clear()
            pid = run(executor.run(backend_pid))
            assert run(pages.run_directly(backend_pid)) == pid
            is_full = False
            assert run(pages.run_directly(backend_pid)) != pid
            assert not failed
        finally:
            run(pages.close())


def test_work_goes_to_the_fallback_while_no_thread_can_be_started(fail_starts):
    fail_starts("page-db", 2)
    with opened_executor(1) as (executor, run):
        pages = DatabaseExecutor(1, "page-db", fallback=executor)
        try:
            with pytest.raises(DatabaseOverloaded):
                run(pages.run_directly(backend_pid))
            pid = run(executor.run(backend_pid))
            assert run(pages.run_directly(backend_pid)) == pid
            assert run(pages.run_directly(backend_pid)) != pid
        finally:
            run(pages.close())


def test_fallback_runs_only_what_its_own_work_does_not_wait_for(fail_starts):
    fail_starts("page-db", 10)
    may_end = threading.Event()

    async def main(executor: DatabaseExecutor, pages: DatabaseExecutor) -> list[object]:
        await executor.run(backend_pid)
        running = [pages.run_directly(may_end.wait, CLIENT_TIMEOUT) for _ in range(10)]
        tasks = [asyncio.create_task(each) for each in running]
        refused, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        may_end.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each.exception()) for each in refused} == {DatabaseOverloaded}
        return done

    with opened_executor(2) as (executor, run):
        pages = DatabaseExecutor(1, "page-db", fallback=executor)
        try:
            done = run(main(executor, pages))
            assert [each for each in done if each is True] == [True, True]
            assert sum(isinstance(each, DatabaseOverloaded) for each in done) == 8
        finally:
            run(pages.close())


def test_cancelled_call_in_the_queue_holds_nothing():
    """Clients that leave while all threads are busy would fill the memory with their requests."""

    class Held:
        def look(self) -> None:
            pass

    async def main(executor: DatabaseExecutor) -> bool:
        is_running, may_end = threading.Event(), threading.Event()

        def occupy() -> None:
            is_running.set()
            may_end.wait(CLIENT_TIMEOUT)

        busy = asyncio.create_task(executor.run(occupy))
        await asyncio.to_thread(is_running.wait, CLIENT_TIMEOUT)
        held = Held()
        for way in (executor.run, executor.run_once, executor.run_directly):
            waiting = asyncio.create_task(way(held.look))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        found = weakref.ref(held)
        del held, waiting
        gc.collect()
        is_held = found() is not None
        may_end.set()
        await busy
        return is_held

    with opened_executor(1) as (executor, run):
        assert not run(main(executor))
