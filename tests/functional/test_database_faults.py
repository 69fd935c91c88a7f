"""A database that hangs, vanishes, and returns: what the executor and running servers do."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from django.db import connection, connections, transaction

from pulpcore.app.models import AppStatus
from pulpcore.content_star.database.availability import (
    Availability,
    ConnectionLost,
    DatabaseUnavailable,
    availability,
)
from pulpcore.content_star.database.connection import interrupt, is_waiting
from pulpcore.content_star.database.deadline import INTERVAL, DatabaseTimeout
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.database.threads import CHECKS, LISTING_TIMEOUT, Call, extend_deadline
from tests.support.database import WAYS, backend_pid, count_waiting, opened_executor
from tests.support.database_proxy import DatabaseProxy, database_proxy, databases_through
from tests.support.instance import wait_until
from tests.support.pgbouncer import pgbouncer
from tests.support.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("orm")]

# Of requests that must not hang: many times any deadline here.
CLIENT_TIMEOUT = 60


# Log line at the start of an outage.
OUTAGE = "The database does not answer, content"


def hang(pids: list[int]) -> None:
    """Run a query that takes ten minutes."""
    pids.append(backend_pid())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(600)")


def is_running(pid: int) -> bool:
    """Return whether a backend of PostgreSQL runs a query."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid])
        return cursor.fetchone() == ("active",)


def setting(name: str) -> str:
    """Return a setting of this thread's session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return cursor.fetchone()[0]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_hanging_query_fails_at_its_deadline_and_frees_the_thread(way):
    pids: list[int] = []
    with opened_executor(1, timeout=0.5) as (executor, run):
        with pytest.raises(DatabaseTimeout):
            run(way(executor, hang, pids))
        assert run(way(executor, backend_pid)) not in pids
    assert len(pids) == 1, "not repeated"
    wait_until(lambda: not is_running(pids[0]))


def test_deadline_includes_the_wait_for_a_thread():
    """The call behind one that takes long without the database fails first, and never runs."""
    ran: list[int] = []
    done = threading.Event()

    with opened_executor(1, timeout=0.5) as (executor, run):

        async def two() -> str:
            first = asyncio.create_task(executor.run(done.wait, CLIENT_TIMEOUT))
            await asyncio.sleep(0)
            with pytest.raises(DatabaseTimeout):
                await executor.run(ran.append, 1)
            assert not first.done()
            done.set()
            return await first

        run(executor.run(backend_pid))  # has a connection
        assert run(two()) is True
        wait_until(lambda: not executor._pool.is_congested)
        run(executor.run(backend_pid))
    assert ran == []


def test_deadline_does_not_count_work_without_the_database():
    """Plugins' code may take longer for other things, before and after its queries."""

    def work() -> int:
        pid = backend_pid()
        time.sleep(0.3 + 4 * INTERVAL)  # past the deadline, for several checks
        assert backend_pid() == pid
        return pid

    with opened_executor(1, timeout=0.1) as (executor, run):
        run(executor.run(backend_pid))
        assert run(executor.run(work)) == run(executor.run(backend_pid))


def test_deadline_of_a_listing_is_later():
    def work() -> str:
        extend_deadline(LISTING_TIMEOUT)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'done' FROM pg_sleep(2)")
            return cursor.fetchone()[0]

    with opened_executor(1, timeout=0.1) as (executor, run):
        assert run(executor.run(work)) == "done"


@pytest.mark.parametrize(
    ("timeout", "used"),
    [(None, "30s"), (60, "1min"), (10_000_000, "2147483s"), (1e300, "2147483s")],
)
def test_statements_of_the_executor_have_a_timeout_on_the_server(timeout, used):
    with opened_executor(1, timeout=timeout) as (executor, run):
        assert run(executor.run(setting, "statement_timeout")) == used


def test_statement_timeout_of_the_operator_takes_precedence(monkeypatch):
    options = {"options": "-c statement_timeout=7777"}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", options)
    with opened_executor(1) as (executor, run):
        assert run(executor.run(setting, "statement_timeout")) == "7777ms"


def test_statement_timeout_is_not_left_in_sessions_of_a_pooler(instance, monkeypatch, tmp_path):
    with pgbouncer(instance, tmp_path, "transaction") as pooler:
        monkeypatch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
        monkeypatch.setitem(connections.settings["default"], "PORT", pooler.port)
        with opened_executor(1) as (executor, run):
            assert run(executor.run(setting, "statement_timeout")) == "0"


def test_hanging_connections_answer_503_and_recover(instance, orm):
    """Content, heartbeat and readiness probe, while nothing is forwarded and after it is again."""
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    with database_proxy() as proxy:
        options = {
            "PULP_DATABASES": databases_through(instance, proxy),
            "PULP_CONTENT_STAR_CACHE_ENTRIES": "0",
            "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "1",
            "PULP_CONTENT_APP_TTL": "4",
        }
        with serving(instance, **options) as server:
            get = partial(httpx.get, f"{server.content_url}{base}/a", timeout=CLIENT_TIMEOUT)
            assert get().content == b"a"
            proxy.stop()
            for _ in range(6):  # more than threads
                response = get()
                assert response.status_code == 503 and response.headers["Retry-After"]
            probe = httpx.get(f"{server.content_url}readyz", timeout=CLIENT_TIMEOUT)
            assert probe.status_code == 503
            wait_until(lambda: "cannot write its row" in server.said(), explain=server.said)
            proxy.resume()
            wait_until(lambda: get().content == b"a", explain=server.said)
            probe = f"{server.content_url}readyz"
            wait_until(lambda: httpx.get(probe).status_code == 200, explain=server.said)
            wait_for_heartbeat(server.process.pid)


def wait_for_heartbeat(pid: int) -> None:
    """Wait for a new heartbeat of the content app in a process."""
    rows = AppStatus.objects.filter(name__startswith=f"{pid}@", app_type="content")
    before = rows.get().last_heartbeat
    wait_until(lambda: rows.get().last_heartbeat > before)


def test_failover_without_fin_fails_no_request(instance, orm):
    """Connections that exist are silent for ever, and new ones reach another server.

    Requests that wait on the old ones are repeated, long before their deadline.
    """
    base = orm.distribution(publication=orm.publication({"a": b"a", "b": b"b"}))
    with database_proxy() as proxy:
        options = {
            "PULP_DATABASES": databases_through(instance, proxy),
            "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "600",
            "PULP_CONTENT_APP_TTL": "4",
        }
        with serving(instance, **options) as server:
            get = partial(httpx.get, timeout=CLIENT_TIMEOUT)
            url = f"{server.content_url}{base}/"
            assert get(f"{url}a").content == b"a"
            wait_until(lambda: "Response cache enabled" in server.said(), explain=server.said)
            proxy.replace()
            assert get(f"{url}b").content == b"b"
            wait_until(
                lambda: server.said().count("Response cache enabled") == 2, explain=server.said
            )
            assert all(get(f"{url}{name}").content == b"b" for name in "bbbb")
            wait_for_heartbeat(server.process.pid)


def test_locked_table_answers_503_at_the_deadline(instance, orm):
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    options = {
        "PULP_CONTENT_STAR_CACHE_ENTRIES": "0",
        "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "1",
        "PGAPPNAME": "locked out",
    }
    with serving(instance, **options) as server:
        get = partial(httpx.get, f"{server.content_url}{base}/a", timeout=CLIENT_TIMEOUT)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE core_distribution IN ACCESS EXCLUSIVE MODE")
            assert get().status_code == 503
            # PostgreSQL has been asked to cancel the queries: none is left in the lock's queue.
            wait_until(lambda: not count_waiting("locked out"))
        assert get().content == b"a"


@pytest.fixture
def proxied(monkeypatch) -> Iterator[DatabaseProxy]:
    """A proxy through which new threads of this process connect to the database."""
    with database_proxy() as proxy:
        monkeypatch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
        monkeypatch.setitem(connections.settings["default"], "PORT", proxy.port)
        yield proxy
    availability.answered()


def test_restart_of_the_database_delays_calls_and_fails_none(proxied, monkeypatch):
    """Calls wait on the event loop, in no thread: there are more than threads."""
    monkeypatch.setattr("pulpcore.content_star.database.availability.MAX_WAIT", CLIENT_TIMEOUT)
    monkeypatch.setattr("pulpcore.content_star.database.executor.RETRY_TIMEOUT", CLIENT_TIMEOUT)

    async def main(executor: DatabaseExecutor) -> list[int]:
        await executor.run(backend_pid)
        proxied.refuse()
        calls = [asyncio.create_task(executor.run_directly(backend_pid)) for _ in range(10)]
        await asyncio.to_thread(wait_until, lambda: availability.down_since)
        assert not any(call.done() for call in calls)
        proxied.accept()
        return await asyncio.gather(*calls)

    with opened_executor(2) as (executor, run):
        assert len(run(main(executor))) == 10
    assert availability.down_since is None


def test_calls_fail_at_once_in_a_long_outage_and_one_in_a_while_tries(proxied, monkeypatch):
    monkeypatch.setattr("pulpcore.content_star.database.availability.MAX_WAIT", 0)
    monkeypatch.setattr("pulpcore.content_star.database.availability.TRY_INTERVAL", 600)

    async def main(executor: DatabaseExecutor) -> None:
        proxied.refuse()
        with pytest.raises(ConnectionLost):
            await executor.run_once(backend_pid)
        with pytest.raises(ConnectionLost):
            await executor.run(backend_pid)  # tries
        tried = proxied.accepted
        for way in WAYS.values():
            with pytest.raises(DatabaseUnavailable):
                await way(executor, backend_pid)
        assert proxied.accepted == tried, "not asked"
        proxied.accept()
        monkeypatch.setattr("pulpcore.content_star.database.availability.TRY_INTERVAL", 0)
        assert await executor.run(backend_pid)

    with opened_executor(2) as (executor, run):
        run(main(executor))
    assert availability.down_since is None


def test_connections_from_before_a_hang_are_replaced(proxied, monkeypatch):
    """Both threads have one; only the first call finds out that it is dead.

    Also by calls that come while the first one is being interrupted.
    """
    barrier, is_repeated = threading.Barrier(2), threading.Event()

    def interrupt_slowly(database: object) -> None:
        interrupt(database)
        is_repeated.wait(CLIENT_TIMEOUT)

    monkeypatch.setattr("pulpcore.content_star.database.threads.interrupt", interrupt_slowly)

    async def main(executor: DatabaseExecutor) -> None:
        def pid() -> int:
            barrier.wait(CLIENT_TIMEOUT)
            is_repeated.set()
            return backend_pid()

        old = set(await asyncio.gather(executor.run(pid), executor.run(pid)))
        is_repeated.clear()
        proxied.replace()
        with pytest.raises(DatabaseTimeout):
            await executor.run(backend_pid)
        new = set(await asyncio.gather(executor.run(pid), executor.run(pid)))
        assert len(new) == 2 and not new & old

    with opened_executor(2, timeout=3) as (executor, run):
        run(main(executor))


def test_failing_connection_is_no_outage_while_others_work():
    """As where PostgreSQL has no connection left: those that exist go on."""
    state = Availability()
    state.answered()
    state.failed("no connection left")
    assert state.down_since is None


def test_query_at_its_deadline_is_no_outage_while_pings_are_answered():
    """Of a client that makes one slow, while a busy process pings late: 0.8 s after the last."""
    state = Availability()
    state.last_answer = time.monotonic() - 0.8
    state.failed("no answer before a deadline", hung=True)
    assert (state.down_since, state.hangs) == (None, 0)
    state.last_answer = time.monotonic() - 1.1
    state.failed("no answer before a deadline", hung=True)
    assert state.down_since is not None and state.hangs == 1


def test_query_at_its_deadline_is_no_outage_while_others_are_answered():
    """Also without a listener: connections that work are kept, and their queries not repeated."""
    pids: list[int] = []

    async def main(executor: DatabaseExecutor) -> None:
        hangs = availability.hangs
        hanging = asyncio.create_task(executor.run(hang, pids))
        while not hanging.done():
            await executor.run(backend_pid)
        with pytest.raises(DatabaseTimeout):
            await hanging
        assert (availability.down_since, availability.hangs) == (None, hangs)

    with opened_executor(2, timeout=0.5) as (executor, run):
        run(main(executor))


def test_deadline_of_a_call_does_not_interrupt_the_next_call_of_its_thread():
    """Which its thread may have begun while the deadline is checked."""
    pids: list[int] = []

    def query() -> str:
        pids.append(backend_pid())
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)::text")
            return cursor.fetchone()[0]

    async def main(executor: DatabaseExecutor) -> None:
        running = asyncio.create_task(executor.run(query))
        pool = executor._pool
        sleeps = partial(wait_until, lambda: pids and is_waiting(pool._threads[0].database))
        await asyncio.to_thread(sleeps)
        over = Call(query, 0)
        over.thread, over.checks = pool._threads[0], CHECKS
        pool._expire(over)
        assert await running == ""

    with opened_executor(1) as (executor, run):
        run(main(executor))
    assert len(pids) == 1, "not repeated"


def test_call_that_tries_during_an_outage_has_an_earlier_deadline(proxied, monkeypatch):
    """The work that follows has its own."""
    monkeypatch.setattr("pulpcore.content_star.database.executor.TRY_TIMEOUT", 0.5)
    monkeypatch.setattr("pulpcore.content_star.database.availability.TRY_INTERVAL", 0)

    async def main(executor: DatabaseExecutor) -> None:
        await executor.run(backend_pid)
        proxied.stop()
        availability.last_answer = float("-inf")
        availability.failed("no reply", hung=True)
        with pytest.raises(DatabaseTimeout, match=r"within 0\.5 s"):
            await executor.run(backend_pid)
        proxied.resume()
        await executor.run(partial(time.sleep, 2))

    with opened_executor(1, timeout=300) as (executor, run):
        run(main(executor))
    assert availability.down_since is None


def test_outage_is_over_with_the_first_answer(caplog):
    state = Availability()
    state.failed("refused")
    state.failed("refused")
    assert state.down_since is not None and state.may_try() and not state.may_try()
    state.answered()
    assert state.down_since is None and state.may_try()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_outage_answers_503_before_deadlines_and_ends_with_the_fault(instance, orm):
    """The deadline is ten minutes: it is the circuit breaker that answers."""
    base = orm.distribution(publication=orm.publication({"a": b"a"}))
    with database_proxy() as proxy:
        options = {
            "PULP_DATABASES": databases_through(instance, proxy),
            "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "600",
            "PULP_CONTENT_STAR_STALE_IF_ERROR": "0",
        }
        with serving(instance, **options) as server:
            get = partial(httpx.get, f"{server.content_url}{base}/no", timeout=CLIENT_TIMEOUT)
            wait_until(lambda: "Response cache enabled" in server.said(), explain=server.said)
            for fail, recover in ((proxy.stop, proxy.resume), (proxy.refuse, proxy.accept)):
                said = server.said().count(OUTAGE)
                fail()
                wait_until(lambda said=said: server.said().count(OUTAGE) > said)
                wait_until(lambda: get().status_code == 503)
                # At once: one in a while tries, and waits for a connection.
                with ThreadPoolExecutor(10) as clients:
                    responses = list(clients.map(lambda _: get(), range(10)))
                for response in responses:
                    assert response.status_code == 503 and response.headers["Retry-After"]
                tried = proxy.accepted
                wait_until(lambda tried=tried: proxy.accepted >= tried + 4, CLIENT_TIMEOUT)
                assert server.said().count(OUTAGE) == said + 1, "logged once"
                recover()
                wait_until(lambda: get().status_code == 404, explain=server.said)
                assert all(get().status_code == 404 for _ in range(10))
                enabled = server.said().count(OUTAGE) + 1
                wait_until(
                    lambda enabled=enabled: server.said().count("cache enabled") == enabled,
                    explain=server.said,
                )
