"""The database executor, with connections that a real PostgreSQL terminates."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import hashlib
import itertools
import os
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import ProgrammingError, connection, transaction
from django.test import override_settings

from pulpcore.app.models import AppStatus
from pulpcore.content_star.database.availability import availability
from pulpcore.content_star.database.executor import ConnectionLost, DatabaseExecutor
from tests.support.database import (
    WAYS,
    backend_pid,
    count_waiting,
    opened_executor,
    run_by_orm,
    terminate,
)
from tests.support.instance import wait_until
from tests.support.server import serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("orm")]


def test_executor_thread_keeps_its_connection_between_runs():
    with opened_executor(1) as (executor, run):
        assert run(executor.run(backend_pid)) == run(executor.run(backend_pid))


def test_executor_copies_the_context_of_the_caller():
    variable = contextvars.ContextVar("variable", default="none")
    with opened_executor() as (executor, run):

        async def run_in_context() -> str:
            variable.set("mine")
            return await executor.run(variable.get)

        assert run(run_in_context()) == "mine"


def test_executor_threads_have_the_working_directory_of_pulp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened_executor() as (executor, run):
        assert run(executor.run(os.getcwd)) == settings.WORKING_DIRECTORY
        assert run(executor.run_directly(os.getcwd)) == settings.WORKING_DIRECTORY
        assert run(run_by_orm(executor, os.getcwd)) == settings.WORKING_DIRECTORY
        assert Path.cwd() == tmp_path


def test_executor_threads_share_the_directory_without_unshare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with override_settings(CONTENT_STAR_UNSHARE=False), opened_executor(1) as (executor, run):
        assert run(executor.run(os.getcwd)) == str(tmp_path)
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_connection_lost_while_idle_is_replaced(way):
    with opened_executor(1) as (executor, run):
        lost = run(way(executor, backend_pid))
        assert terminate("pid = %s", lost) == 1
        assert run(way(executor, backend_pid)) != lost


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_async_to_sync_in_an_executor_thread_leaves_the_server_event_loop_alone(way):
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main(executor: DatabaseExecutor) -> None:
        await run_by_orm(executor, backend_pid)  # asgiref notes the server's loop in the thread
        # In the thread, since asgiref 3.8 keeps the loop in which `async_to_sync` is called.
        own = await way(executor, lambda: async_to_sync(loop)())
        # `sync_to_async` of third-party code keeps its own rule.
        assert (own is asyncio.get_running_loop()) == (way is run_by_orm)

    with opened_executor(1) as (executor, run):
        run(main(executor))


def test_asynchronous_queries_of_many_tasks_use_the_connections_of_the_executor():
    async def count() -> int:
        await AppStatus.objects.filter(name="").acount()
        return await sync_to_async(backend_pid)()

    async def main(executor: DatabaseExecutor) -> set[int]:
        with executor.asynchronous_orm():
            pids = await asyncio.gather(*(count() for _ in range(20)))
        outside = await sync_to_async(threading.current_thread)()
        assert not outside.name.startswith("content-db")
        return set(pids)

    with opened_executor(2) as (executor, run):
        assert 1 <= len(run(main(executor))) <= 2


def test_executor_runs_no_more_work_at_once_than_threads():
    inside, most = 0, 0
    lock = threading.Lock()
    barrier = threading.Barrier(2)

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        barrier.wait(300)
        with lock:
            inside -= 1

    with opened_executor(2) as (executor, run):

        async def six() -> None:
            await asyncio.gather(*(executor.run(work) for _ in range(6)))

        run(six())
    assert most == 2


def test_executor_repeats_work_whose_connection_is_lost():
    calls = []

    def work() -> int:
        pid = backend_pid()
        calls.append(pid)
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return backend_pid()

    with opened_executor(1) as (executor, run):
        assert run(executor.run(work)) == calls[1]
    assert len(calls) == 2


def test_executor_repeats_transactions_whose_connection_is_lost(monkeypatch):
    """Also one that has taken longer than retries may, and without an outage: others connect."""
    monkeypatch.setattr("pulpcore.content_star.database.executor.RETRY_TIMEOUT", 0)
    monkeypatch.setattr("pulpcore.content_star.database.availability.RECENT_ANSWER", 0)
    calls = []

    def work() -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            calls.append(backend_pid())
            if len(calls) == 1:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return backend_pid()

    with opened_executor(1) as (executor, run):
        run(executor.run(backend_pid))
        assert run(executor.run(work)) == calls[1]
        assert availability.down_since is None
    assert len(calls) == 2


def test_executor_retries_count_from_the_first_loss(monkeypatch):
    """Work that takes longer than retries may is repeated, also where its repetition is lost."""
    monkeypatch.setattr("pulpcore.content_star.database.executor.RETRY_TIMEOUT", 1)
    calls = []

    def work() -> int:
        calls.append(backend_pid())
        with connection.cursor() as cursor:
            if len(calls) == 1:
                cursor.execute("SELECT pg_sleep(1.1)")
            if len(calls) < 3:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return backend_pid()

    with opened_executor(1) as (executor, run):
        assert run(executor.run(work)) == calls[2]


def test_executor_gives_up_work_that_loses_each_connection():
    calls = []

    def work() -> None:
        calls.append(backend_pid())
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with opened_executor(1) as (executor, run):
        with pytest.raises(ConnectionLost):
            run(executor.run(work))
        assert len(set(calls)) == len(calls) > 1, "a new connection each time"
        assert run(executor.run(backend_pid)) not in calls


def test_executor_does_not_repeat_work_after_other_database_errors():
    calls = []

    def work() -> None:
        calls.append(1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense")

    with opened_executor(1) as (executor, run):
        before = run(executor.run(backend_pid))
        with pytest.raises(ProgrammingError):
            run(executor.run(work))
        assert calls == [1]
        assert run(executor.run(backend_pid)) == before, "the connection is kept"


def test_executor_close_closes_every_connection():
    with opened_executor(3) as (executor, run):

        async def three() -> list[int]:
            barrier = threading.Barrier(3)

            def work() -> int:
                barrier.wait(300)
                return backend_pid()

            return await asyncio.gather(*(executor.run(work) for _ in range(3)))

        pids = run(three())
        assert len(set(pids)) == 3

    def left() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
            return cursor.fetchone()[0]

    wait_until(lambda: left() == 0)


def test_hanging_query_does_not_delay_shutdown(instance):
    options = {"PGAPPNAME": "hanging"}
    with (
        serving(instance, "--timeout-graceful-shutdown", "1", **options) as server,
        concurrent.futures.ThreadPoolExecutor(1) as clients,
    ):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE core_distribution, core_appstatus")
            answer = clients.submit(httpx.get, f"{server.content_url}x/y", timeout=300)
            wait_until(lambda: count_waiting("hanging"))
            server.process.terminate()
            server.process.wait(300)
        assert answer.exception(60) or answer.result().status_code in (500, 503)
    AppStatus.objects.filter(name__startswith=f"{server.process.pid}@").delete()


def test_database_connections_terminated_under_load_fail_no_download(instance, orm):
    """Ten times, with 8 clients; upstream's content app fails a quarter of the requests."""
    files = {f"{n}.bin": f"file {n}".encode() * 1000 for n in range(8)}
    base = orm.distribution(publication=orm.publication(files))
    # Without a cache, so that each request queries the database.
    options = {"PULP_CONTENT_STAR_CACHE_ENTRIES": "0", "PGAPPNAME": "unplugged"}
    done = threading.Event()
    answers: list[int] = []
    failures: list[str] = []

    def download(url: str, path: str, expected: bytes) -> None:
        with httpx.Client(base_url=url) as client:
            while not done.is_set():
                response = client.get(f"{base}/{path}")
                answers.append(response.status_code)
                if response.status_code != 200 or response.content != expected:
                    failures.append(f"{response.status_code}: {response.text[:200]}")

    with (
        serving(instance, "--no-access-log", **options) as server,
        concurrent.futures.ThreadPoolExecutor(8) as clients,
    ):
        jobs = [clients.submit(download, server.content_url, *item) for item in files.items()]
        try:
            for _ in range(10):
                enough = len(answers) + 32
                wait_until(lambda enough=enough: len(answers) >= enough or failures)
                assert terminate_when_busy("unplugged")
        finally:
            done.set()
        for job in jobs:
            job.result(300)
        assert failures == []
        assert server.process.poll() is None
        server.process.terminate()
        server.process.wait(300)
    left = AppStatus.objects.filter(name__startswith=f"{server.process.pid}@")
    assert not left.exists(), "the heartbeat removed its row, though its connection was lost"


def terminate_when_busy(application: str) -> int:
    """Wait until an application has connections, then terminate them all."""
    counts: list[int] = []
    wait_until(lambda: counts.append(terminate("application_name = %s", application)) or counts[-1])
    return sum(counts)


def test_slow_clients_hold_no_database_connection(instance, orm):
    data = b"0123456789abcdef" * (1 << 20)
    base = orm.distribution(publication=orm.publication({"big.bin": data}))
    options = {"PULP_CONTENT_STAR_DATABASE_THREADS": "1"}
    with serving(instance, **options) as server, contextlib.ExitStack() as streams:
        url = f"{server.content_url}{base}/big.bin"
        slow = [streams.enter_context(httpx.stream("GET", url)) for _ in range(10)]
        assert httpx.get(url, headers={"Range": "bytes=0-9"}).content == data[:10]
        for response in slow[:2]:
            digest = hashlib.sha256()
            for chunk in response.iter_raw():
                digest.update(chunk)
            assert digest.digest() == hashlib.sha256(data).digest()


def test_database_pool_of_django_is_shared_with_the_api(instance, orm):
    """Two connections for the API and four threads of content: each is returned to the pool."""
    data = b"pooled" * 1000
    base = orm.distribution(publication=orm.publication({"a.bin": data}))
    databases = instance.environ["PULP_DATABASES"].replace(
        '"ENGINE"', '"OPTIONS": {"pool": {"min_size": 1, "max_size": 2, "timeout": 20}}, "ENGINE"'
    )
    with (
        serving(instance, PULP_DATABASES=databases, PGAPPNAME="pooled") as server,
        concurrent.futures.ThreadPoolExecutor(8) as clients,
    ):
        urls = [f"{server.content_url}{base}/a.bin", f"{server.url}/pulp/api/v3/status/"] * 40
        answers = list(clients.map(partial(httpx.get, timeout=300), urls))
        assert [answer.status_code for answer in answers] == [200] * len(urls)
        assert all(answer.content == data for answer in answers[::2])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pooled'"
            )
            assert cursor.fetchone()[0] <= 2


CONNECTION_SETTINGS = {
    "pool": '"OPTIONS": {"pool": true}',
    "pool with checks": '"OPTIONS": {"pool": true}, "CONN_HEALTH_CHECKS": true',
    "no persistent connections": '"CONN_MAX_AGE": 0',
    "60 s with checks": '"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": true',
    "unlimited": '"CONN_MAX_AGE": null',
}


@pytest.mark.parametrize(
    "connection_settings", CONNECTION_SETTINGS.values(), ids=CONNECTION_SETTINGS
)
def test_terminated_connections_fail_no_request_with_settings_of_django(
    instance, orm, connection_settings
):
    """Of a cached file, and of paths that are looked up each time.

    A connection that is terminated while it is opened is opened again by psycopg's pool after 1, 2
    and 4 s, which is beyond the default deadline.
    """
    base = orm.distribution(publication=orm.publication({"a": b"a" * 1000}))
    databases = instance.environ["PULP_DATABASES"]
    databases = databases.replace('"ENGINE"', f'{connection_settings}, "ENGINE"')
    assert connection_settings in databases
    options = {"PULP_DATABASES": databases, "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "60"}
    done, failures, counts = threading.Event(), [], itertools.count()

    def request(url: str) -> None:
        with httpx.Client(base_url=url) as client:
            while not done.is_set():
                cached, missing = client.get("a"), client.get(f"no-{next(counts)}")
                if (cached.content, missing.status_code) != (b"a" * 1000, 404):
                    failures.append(f"{cached.text[:100]} {missing.text}")

    with (
        serving(instance, PGAPPNAME="varied", **options) as server,
        concurrent.futures.ThreadPoolExecutor(4) as clients,
    ):
        url = f"{server.content_url}{base}/"
        assert httpx.get(f"{url}a").status_code == 200
        jobs = [clients.submit(request, url) for _ in range(4)]
        try:
            for _ in range(3):
                enough = next(counts) + 30
                wait_until(lambda enough=enough: next(counts) > enough or failures)
                assert terminate_when_busy("varied")
        finally:
            done.set()
        for job in jobs:
            job.result(300)
        assert failures == [], server.said()


def test_unavailable_database_returns_503_with_retry_after(instance):
    unavailable = '@json {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "pulp",'
    unavailable += ' "USER": "pulp", "HOST": "/nonexistent"}}'
    with serving(instance, PULP_DATABASES=unavailable) as server:
        response = httpx.get(f"{server.content_url}x/y")
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "nonexistent" not in response.text
        assert "cannot write its row" in server.said(), "by the heartbeat"
