"""The fetch lock: one fetch among several processes, waiters, and takeover of the lock."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from django.db import connection

from pulpcore.content_star.database.availability import Availability
from pulpcore.content_star.remote import lock
from pulpcore.content_star.remote.lock import APPLICATION_NAME, FetchLocks, LockRequest, key_of
from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.pgbouncer import pgbouncer
from tests.support.pulp import unique
from tests.support.remote_server import PausedResponse
from tests.support.server import Server, serving

pytestmark = pytest.mark.slow

BIG = 3_000_000


@pytest.fixture(scope="module")
def other(instance) -> Iterator[Server]:
    """A second process on the instance."""
    with serving(instance) as server:
        yield server


def connections() -> list[int]:
    """Return the pids of PostgreSQL's processes for fetch locks."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    return [pid for (pid,) in rows(query, APPLICATION_NAME)]


def is_locked(key: int) -> bool:
    """Return whether a process holds the advisory lock `key`."""
    query = (
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
        " AND (classid::bigint << 32) | objid::bigint = %s"
    )
    return bool(rows(query, key))


def rows(query: str, *arguments: object) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall()


def key_for(file) -> int:
    return key_of(f"content artifact {file.content_artifact.pk}")


class Client(threading.Thread):
    """A thread that GETs a file, and keeps status, body and error."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.status = 0
        self.body = b""
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("GET", self.url) as response:
                self.status = response.status_code
                for chunk in response.iter_raw():
                    self.body += chunk
        except httpx.HTTPError as error:
            self.error = error

    def result(self) -> bytes:
        self.join(300)
        assert not self.is_alive()
        return self.body


def test_fetch_lock_makes_a_second_process_wait_for_the_fetch(instance, other, remote_file):
    file = remote_file(BIG)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    first = Client(instance.content_url + file.path)
    wait_until(lambda: first.body)
    assert is_locked(key_for(file))
    second = Client(other.content_url + file.path)
    third = httpx.Client()
    with pytest.raises(httpx.ReadTimeout):
        third.get(other.content_url + file.path, timeout=1)
    assert second.status == 0
    paused.release()
    assert first.result() == second.result() == file.data
    assert file.gets == [1]
    wait_until(lambda: not is_locked(key_for(file)))


def test_client_disconnect_while_waiting_for_fetch_lock_causes_no_fetch(
    instance, other, remote_file
):
    file = remote_file(BIG)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    first = Client(instance.content_url + file.path)
    wait_until(lambda: first.body)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(other.content_url + file.path, timeout=0.5)
    paused.release()
    assert first.result() == file.data
    file.wait_until_saved()
    assert file.gets == [1]
    wait_until(lambda: not connections())


def test_fetch_lock_is_taken_over_from_a_killed_process(instance, other, remote_file):
    file = remote_file(BIG)
    file.set_behaviour(PausedResponse(1_000_000))
    with serving(instance) as dying:
        first = Client(dying.content_url + file.path)
        wait_until(lambda: first.body)
        second = Client(other.content_url + file.path)
        wait_until(lambda: len(connections()) == 2)
        file.set_behaviour(remote_server.plain)
        os.kill(dying.process.pid, signal.SIGKILL)
    assert second.result() == file.data
    first.join(300)
    assert first.error is not None
    assert file.gets == [2]
    file.wait_until_saved()


def test_fetch_lock_is_taken_over_from_a_process_whose_fetch_fails(instance, other, remote_file):
    file = remote_file(BIG)
    refused = threading.Event()

    async def refuse(request, data):
        await asyncio.to_thread(refused.wait, 60)
        file.set_behaviour(remote_server.plain)
        return await remote_server.status(404)(request, data)

    file.set_behaviour(refuse)
    first = Client(instance.content_url + file.path)
    wait_until(lambda: file.gets == [1])
    second = Client(other.content_url + file.path)
    wait_until(lambda: len(connections()) == 2)
    refused.set()
    assert second.result() == file.data
    first.join(300)
    assert first.status == 502
    assert file.gets == [2]


def test_fetch_lock_held_beyond_timeout_is_fetched_without(get_in_process, remote_file):
    file = remote_file(BIG)
    [[mine]] = rows("SELECT pg_try_advisory_lock(%s)", key_for(file))
    assert mine, "by the connection of this test"
    try:
        assert get_in_process(file.path, fetch_lock_timeout=0.3).content == file.data
    finally:
        rows("SELECT pg_advisory_unlock(%s)", key_for(file))
    assert file.gets == [1]


def test_streamed_policy_takes_no_fetch_lock(instance, other, remote_file):
    file = remote_file(BIG, policy="streamed")
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    clients = [Client(url + file.path) for url in (instance.content_url, other.content_url)]
    wait_until(lambda: all(client.body for client in clients))
    assert not is_locked(key_for(file))
    paused.release()
    assert [client.result() for client in clients] == [file.data, file.data]


def test_fetch_lock_lost_with_its_connection_allows_a_second_fetch(instance, other, remote_file):
    file = remote_file(BIG)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    first = Client(instance.content_url + file.path)
    wait_until(lambda: first.body)
    for pid in connections():
        rows("SELECT pg_terminate_backend(%s, 60000)", pid)
    file.set_behaviour(remote_server.plain)
    assert Client(other.content_url + file.path).result() == file.data
    paused.release()
    assert first.result() == file.data
    later = remote_file(5000)
    assert Client(instance.content_url + later.path).result() == later.data
    later.wait_until_saved()
    wait_until(lambda: not connections())


def test_hundred_clients_of_four_workers_cause_one_fetch(instance, orm, server, remote_file):
    """Of an on-demand file, and of a pull-through file."""
    from pulp_file.app.models import FileRemote

    file = remote_file(BIG)
    folder = unique("folder")
    data = server.files[f"{folder}/a.bin"] = os.urandom(BIG)
    remote = orm._save(
        FileRemote(name=folder, url=f"{server.url}{folder}/", policy="on_demand", max_retries=1)
    )
    pulled = f"{orm.distribution(from_publication=False, remote=remote)}/a.bin"
    wanted = {file.path: file.data, pulled: data}

    async def get_all(root: str) -> list[tuple[str, bytes]]:
        limits = httpx.Limits(max_connections=None)
        paths = [*wanted] * 100
        async with httpx.AsyncClient(limits=limits) as client:
            answers = await asyncio.gather(*(client.get(root + path) for path in paths))
        return [(path, each.content) for path, each in zip(paths, answers, strict=True)]

    app = {
        # A machine that is slower than this many clients need is not the subject.
        "PULP_CONTENT_STAR_DATABASE_TIMEOUT": "60",
        "app": "tests.support.pull_through_app:application",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with serving(instance, "--workers", "4", **app) as workers:
        # All workers, so that the connections are spread.
        wait_until(lambda: workers.said().count("Application startup complete") == 4)
        for path, body in asyncio.run(get_all(workers.content_url)):
            assert body == wanted[path], workers.said()
        assert file.gets == [1], workers.said()
        assert server.gets[f"{folder}/a.bin"] == 1, workers.said()


def test_transaction_pooler_disables_fetch_lock(instance, remote_file, tmp_path):
    file = remote_file(BIG)
    paused = PausedResponse(1_000_000)
    file.set_behaviour(paused)
    with pgbouncer(instance, tmp_path) as pooler:
        environ = pooler.environ
        with serving(instance, **environ) as one, serving(instance, **environ) as two:
            clients = [Client(server.content_url + file.path) for server in (one, two)]
            wait_until(lambda: file.gets == [2], explain=lambda: one.said() + two.said())
            assert not is_locked(key_for(file))
            paused.release()
            assert [client.result() for client in clients] == [file.data, file.data]
            file.wait_until_saved()
            assert "pooler" in one.said()


def test_fetch_lock_requests_of_one_process_queue_behind_the_holder(instance, orm):
    """One key requested twice in the holder's process and once in another."""

    async def never() -> None:
        pass

    async def acquire_all() -> list[str]:
        mine, theirs = FetchLocks(), FetchLocks()
        acquired = []
        try:
            first, same, foreign = (LockRequest("a", "file a") for _ in range(3))
            await mine.acquire(first, never)

            async def wait(locks: FetchLocks, request: LockRequest, name: str) -> None:
                await locks.acquire(request, never)
                acquired.append(name)
                locks.release(request)

            waiting = asyncio.create_task(wait(theirs, foreign, "foreign"))
            own = asyncio.create_task(wait(mine, same, "same"))
            await mine.acquire(LockRequest("b", "file b"), never)  # another key is free
            mine.release(same)  # a waiter's release frees nothing
            await asyncio.sleep(0)
            assert acquired == []
            mine.release(first)
            await asyncio.gather(waiting, own)
        finally:
            await mine.close()
            await theirs.close()
        return acquired

    assert sorted(asyncio.run(acquire_all())) == ["foreign", "same"]
    wait_until(lambda: not connections())


@pytest.mark.parametrize(
    ("answers", "message"), [(True, "did not answer"), (False, "are unavailable")]
)
def test_fetch_lock_with_database_unreachable_fetches_without_lock(caplog, answers, message):
    def unreachable() -> dict[str, object]:
        return {"host": "127.0.0.1", "port": port, "dbname": "pulp", "user": "pulp"}

    async def never() -> None:
        pytest.fail("no other process held the lock")

    async def acquire_twice() -> FetchLocks:
        mine = FetchLocks(query_timeout=0.2, connection_parameters=unreachable)
        await mine.acquire(LockRequest("a", "file a"), never)
        await mine.acquire(LockRequest("a", "file a"), never)
        await mine.close()
        return mine

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        if answers:
            silent.listen()
        mine = asyncio.run(acquire_twice())
    assert caplog.text.count(message) == 1
    mine._executor.shutdown()  # `close` does not wait for its threads


async def never() -> None:
    pytest.fail("no other process held the lock")


def test_fetch_lock_is_acquired_while_the_event_loop_is_busy(orm, monkeypatch):
    """For longer than the database may take: the answer has come, and is used."""
    monkeypatch.setattr(lock, "availability", Availability())

    async def acquire() -> bool:
        mine = FetchLocks(query_timeout=0.5)
        request = LockRequest("a", "file a")
        acquiring = asyncio.create_task(mine.acquire(request, never))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the task has sent the query
        wait_until(lambda: request.key in mine._held)  # blocks the event loop
        threading.Event().wait(0.6)
        await acquiring
        try:
            return request.key in mine._held
        finally:
            await mine.close()

    assert asyncio.run(acquire())


def test_fetch_lock_is_not_waited_for_during_an_outage(orm, monkeypatch):
    """The circuit breaker knows of it before the timeout of a query, here of ten minutes."""
    state = Availability()
    monkeypatch.setattr(lock, "availability", state)

    async def acquire() -> None:
        silent = {"host": "127.0.0.1", "port": port, "dbname": "pulp", "user": "pulp"}
        mine = FetchLocks(query_timeout=600, connection_parameters=lambda: silent)
        acquiring = asyncio.create_task(mine.acquire(LockRequest("a", "file a"), never))
        await asyncio.to_thread(listener.accept)
        state.failed("no reply to a ping", hung=True)
        await acquiring
        await mine.acquire(LockRequest("b", "file b"), never)
        mine._query_timeout = 0.1  # `close` waits for the attempt
        await mine.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        asyncio.run(acquire())


def test_fetch_lock_keys_are_distinct_64_bit_integers():
    keys = {key_of(f"{number}") for number in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)
