"""The database door against a real database that is cut off."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import hashlib
import os
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.db import ProgrammingError, connection, transaction

from pulpcore.app.models import AppStatus
from pulpcore.content_star.database.executor import ConnectionLost, DatabaseExecutor
from tests.support.instance import wait_until
from tests.support.server import serving

pytestmark = pytest.mark.usefixtures("orm")


@contextlib.contextmanager
def opened(threads: int = 2):
    """A door in the test's own event loop."""
    with asyncio.Runner() as runner:
        executor = DatabaseExecutor(threads)
        try:
            yield executor, runner.run
        finally:
            runner.run(executor.close())


def backend() -> int:
    """The id of the server process behind this thread's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def terminate(condition: str, *parameters: object) -> int:
    """Cut off all other connections that meet a condition on `pg_stat_activity`; wait for it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity"
            f" WHERE pid <> pg_backend_pid() AND {condition}",
            parameters,
        )
        return cursor.fetchone()[0]


def test_a_thread_keeps_its_connection_from_trip_to_trip():
    with opened(1) as (executor, run):
        assert run(executor.run(backend)) == run(executor.run(backend))


def test_trips_see_the_callers_context():
    variable = contextvars.ContextVar("variable", default="none")
    with opened() as (executor, run):

        async def trip() -> str:
            variable.set("mine")
            return await executor.run(variable.get)

        assert run(trip()) == "mine"


def test_relative_paths_lead_to_the_working_directory_in_trips_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened() as (executor, run):
        assert run(executor.run(os.getcwd)) == settings.WORKING_DIRECTORY
        executor = executor.executor()
        assert executor.submit(os.getcwd).result() == settings.WORKING_DIRECTORY
        assert Path.cwd() == tmp_path


def test_where_threads_can_have_no_directory_of_their_own_they_stay(tmp_path, monkeypatch):
    def refused() -> None:
        raise PermissionError

    monkeypatch.setattr("pulpcore.content_star.database.working_directory._unshare", refused)
    monkeypatch.chdir(tmp_path)
    with opened(1) as (executor, run):
        assert run(executor.run(os.getcwd)) == str(tmp_path)
    assert Path.cwd() == tmp_path


def test_no_more_trips_at_once_than_threads():
    inside, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(2)

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(60)
        with lock:
            inside -= 1

    with opened(2) as (executor, run):

        async def six() -> None:
            await asyncio.gather(*(executor.run(work) for _ in range(6)))

        run(six())
    assert most == 2


def test_a_read_survives_a_connection_that_died_while_idle():
    with opened(1) as (executor, run):
        dead = run(executor.run(backend))
        assert terminate("pid = %s", dead) == 1
        assert run(executor.run(backend)) != dead


def test_a_read_survives_a_connection_that_dies_under_it():
    calls = []

    def work() -> int:
        pid = backend()
        calls.append(pid)
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return backend()

    with opened(1) as (executor, run):
        assert run(executor.run(work)) == calls[1]
    assert len(calls) == 2


def test_work_is_not_done_again_for_ever():
    calls = []

    def work() -> None:
        calls.append(backend())
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with opened(1) as (executor, run):
        with pytest.raises(ConnectionLost):
            run(executor.run(work))
        assert len(set(calls)) == len(calls) > 1, "each time on a fresh connection"
        assert run(executor.run(backend)) not in calls


def test_who_queues_while_the_database_is_away_does_not_wait_for_all_before():
    calls: dict[int, int] = {}

    def work(number: int) -> None:
        calls[number] = calls.get(number, 0) + 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with opened(1) as (executor, run):

        async def five() -> list[object]:
            trips = (executor.run(work, number) for number in range(5))
            return await asyncio.gather(*trips, return_exceptions=True)

        assert all(isinstance(result, ConnectionLost) for result in run(five()))
    assert calls[0] > 2
    # Their first connection may have been a stale one, so a second is tried in any case.
    assert [calls[number] for number in range(1, 5)] == [2, 2, 2, 2]


def test_an_error_that_is_not_the_connections_is_raised_at_once():
    calls = []

    def work() -> None:
        calls.append(1)
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense")

    with opened(1) as (executor, run):
        before = run(executor.run(backend))
        with pytest.raises(ProgrammingError):
            run(executor.run(work))
        assert calls == [1]
        assert run(executor.run(backend)) == before, "the connection was fine and is kept"


def test_closing_the_door_closes_every_connection():
    with opened(3) as (executor, run):

        async def three() -> list[int]:
            together = threading.Barrier(3)

            def work() -> int:
                together.wait(60)
                return backend()

            return await asyncio.gather(*(executor.run(work) for _ in range(3)))

        pids = run(three())
        assert len(set(pids)) == 3

    def left() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
            return cursor.fetchone()[0]

    wait_until(lambda: left() == 0)


def test_a_query_that_hangs_does_not_keep_the_process_from_stopping(instance):
    options = {"PGAPPNAME": "hanging"}
    with (
        serving(instance, "--timeout-graceful-shutdown", "1", **options) as server,
        concurrent.futures.ThreadPoolExecutor(1) as clients,
    ):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE core_distribution, core_appstatus")
            answer = clients.submit(httpx.get, f"{server.content_url}x/y", timeout=60)
            wait_until(lambda: waiting("hanging"))
            server.process.terminate()
            server.process.wait(60)
        assert answer.exception(60) or answer.result().status_code == 500
    AppStatus.objects.filter(name__startswith=f"{server.process.pid}@").delete()


def waiting(application: str) -> int:
    """Count the connections of an application that wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %s AND wait_event_type = 'Lock'",
            [application],
        )
        return cursor.fetchone()[0]


def test_no_download_fails_while_all_connections_are_cut_off(instance, orm):
    """Ten times over, with 8 clients; upstream's content app fails a quarter of the requests."""
    files = {f"{n}.bin": f"file {n}".encode() * 1000 for n in range(8)}
    base = orm.distribution(publication=orm.publication(files))
    # Else all but the first of them would be answered from memory.
    options = {"PULP_CONTENT_STAR_CACHE_ENTRIES": "0", "PGAPPNAME": "unplugged"}
    done = threading.Event()
    answers: list[int] = []
    failures: list[str] = []

    def download(url: str, path: str, expected: bytes) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
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
            job.result(60)
        assert failures == []
        assert server.process.poll() is None
        server.process.terminate()
        server.process.wait(60)
    left = AppStatus.objects.filter(name__startswith=f"{server.process.pid}@")
    assert not left.exists(), "the heartbeat was cut off too, and left nothing behind"


def terminate_when_busy(application: str) -> int:
    """Wait until an application has connections, then cut them all off."""
    counts: list[int] = []
    wait_until(lambda: counts.append(terminate("application_name = %s", application)) or counts[-1])
    return sum(counts)


def test_no_connection_waits_for_a_slow_client(instance, orm):
    data = b"0123456789abcdef" * (1 << 20)
    base = orm.distribution(publication=orm.publication({"big.bin": data}))
    options = {"PULP_CONTENT_STAR_DATABASE_THREADS": "1"}
    with serving(instance, **options) as server, contextlib.ExitStack() as streams:
        url = f"{server.content_url}{base}/big.bin"
        slow = [streams.enter_context(httpx.stream("GET", url, timeout=60)) for _ in range(10)]
        assert httpx.get(url, headers={"Range": "bytes=0-9"}).content == data[:10]
        for response in slow[:2]:
            digest = hashlib.sha256()
            for chunk in response.iter_raw():
                digest.update(chunk)
            assert digest.digest() == hashlib.sha256(data).digest()


def test_a_pool_of_connections_is_shared_with_the_api(instance, orm):
    """Two connections for four threads of content and the API: each is given back in time."""
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
        answers = list(clients.map(partial(httpx.get, timeout=60), urls))
        assert [answer.status_code for answer in answers] == [200] * len(urls)
        assert all(answer.content == data for answer in answers[::2])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pooled'"
            )
            assert cursor.fetchone()[0] <= 2


def test_a_database_that_is_away_is_said_so(instance):
    nowhere = '@json {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "pulp",'
    nowhere += ' "USER": "pulp", "HOST": "/nonexistent"}}'
    with serving(instance, PULP_DATABASES=nowhere) as server:
        response = httpx.get(f"{server.content_url}x/y", timeout=60)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "nonexistent" not in response.text
        assert "cannot write its row" in server.said(), "and the heartbeat goes on trying"
