"""Outages of a real PostgreSQL under clients that compare bodies."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from django.db import connection

from tests.functional.test_remote_saved import saving_blocked
from tests.support.cluster import Cluster, cluster
from tests.support.database import count_waiting, terminate
from tests.support.database_proxy import database_proxy, databases_through
from tests.support.instance import wait_until
from tests.support.namespace import network_namespace
from tests.support.pgbouncer import pgbouncer
from tests.support.remote_files import RemoteFile, spooled
from tests.support.remote_server import PausedResponse
from tests.support.server import Server, free_port, running, serving
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("orm")]

ENABLED = "Response cache enabled"
OUTAGE = "The database does not answer, content"

get = partial(httpx.get, timeout=60)


@dataclass
class Clients:
    """Clients that download files over and over, and compare them."""

    url: str
    files: dict[str, bytes]
    failures: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def download(self, name: str) -> None:
        with httpx.Client(timeout=60) as client:
            while not self.done.is_set():
                response = client.get(f"{self.url}/{name}")
                if response.status_code != 200 or response.content != self.files[name]:
                    self.failures.append(f"{name}: {response.status_code} {response.text[:100]}")
                self.counts[name] = self.counts.get(name, 0) + 1

    def wait(self) -> None:
        """Wait until each client has had some more responses, or one has failed."""
        before = dict(self.counts)
        wait_until(
            lambda: (
                self.failures
                or all(self.counts.get(name, 0) > before.get(name, 0) + 10 for name in self.files)
            )
        )


@contextlib.contextmanager
def downloading(url: str, files: dict[str, bytes]) -> Iterator[Clients]:
    """Run a client for each file during the block, in which none may fail."""
    clients = Clients(url, files)
    threads = [threading.Thread(target=clients.download, args=[name]) for name in files]
    for thread in threads:
        thread.start()
    try:
        clients.wait()
        yield clients
        clients.wait()
    finally:
        clients.done.set()
        for thread in threads:
            thread.join(300)
    assert clients.failures == []


@contextlib.contextmanager
def serving_on(database: Cluster, instance, **options: str) -> Iterator[Server]:
    with serving(instance, PULP_DATABASES=database.databases(instance), **options) as server:
        yield server


def wait_for(server: Server, text: str, count: int = 1) -> None:
    wait_until(lambda: server.said().count(text) >= count, explain=server.said)


FILES = {"small": b"small" * 100, "large": bytes(range(256)) * 2000}


class RunningDownload:
    """A client of an on-demand file that has received the first bytes; the remote waits."""

    def __init__(self, server: Server, file: RemoteFile) -> None:
        self._file = file
        self._paused = PausedResponse(len(file.data) // 2)
        file.set_behaviour(self._paused)
        self._closing = contextlib.ExitStack()
        stream = httpx.stream("GET", server.content_url + file.path)
        self._chunks = self._closing.enter_context(stream).iter_raw()
        self._taken = next(self._chunks)

    def finish(self) -> None:
        """Receive the rest, and compare."""
        self._paused.release()
        with self._closing:
            assert self._taken + b"".join(self._chunks) == self._file.data


def is_saved(database: Cluster, file: RemoteFile) -> bool:
    with database.connect() as session:
        query = "SELECT artifact_id FROM core_contentartifact WHERE pulp_id = %s"
        return session.execute(query, [file.content_artifact.pk]).fetchone() != (None,)


def test_cached_files_and_downloads_survive_faults_of_postgresql(instance, orm, remote_file):
    """SIGSTOP, fast and immediate restarts, and a crash, with one server and the same clients.

    Each happens during a download from a remote: it ends, and its file is saved by a later one.
    """
    base = orm.distribution(publication=orm.publication({**FILES, "other": b"other"}))
    remote_files = [remote_file(1_000_000) for _ in range(4)]
    with cluster() as database:
        database.start()
        with serving_on(database, instance) as server:
            wait_for(server, ENABLED)
            url = server.content_url + base
            with downloading(url, FILES) as clients:
                for number, (fail, recover) in enumerate(
                    (
                        (database.suspend, database.resume),
                        (partial(database.stop, signal.SIGINT), database.start),
                        (partial(database.stop, signal.SIGQUIT), database.start),
                        (partial(database.stop, signal.SIGKILL), database.start),
                    ),
                    start=1,
                ):
                    file = remote_files[number - 1]
                    download = RunningDownload(server, file)
                    fail()
                    wait_for(server, OUTAGE, number)
                    uncached = f"{url}/none{number}"
                    wait_until(lambda uncached=uncached: get(uncached).status_code == 503)
                    download.finish()
                    wait_for(server, "could not be saved", number)
                    wait_until(lambda: spooled(instance) == [])
                    clients.wait()
                    recover()
                    wait_for(server, ENABLED, number + 1)
                    assert get(f"{url}/other").content == b"other"
                    assert get(uncached).status_code == 404
                    assert not is_saved(database, file)
                    assert get(server.content_url + file.path).content == file.data
                    assert is_saved(database, file)
                    clients.wait()


def test_save_is_repeated_after_a_terminated_connection(instance, remote_file):
    """While saving waits for a row: one download of the remote is enough."""
    file = remote_file(1_000_000)
    with serving(instance, PGAPPNAME="saving") as server, ThreadPoolExecutor(1) as clients:
        with saving_blocked(file):
            response = clients.submit(get, server.content_url + file.path)
            wait_until(lambda: count_waiting("saving"))
            assert terminate("application_name = 'saving'")
            wait_until(lambda: count_waiting("saving"))
        assert response.result().content == file.data
        file.wait_until_saved()
        wait_until(lambda: spooled(instance) == [])
        assert "could not be saved" not in server.said()
    assert file.gets == [1]


def test_files_are_served_while_the_volume_of_postgresql_is_full(instance, orm):
    """It refuses writes, and answers reads: also of files that are not cached."""
    base = orm.distribution(publication=orm.publication(FILES))
    with small_disk(400 << 20) as disk, cluster(directory=disk.path) as database:
        database.start()
        with serving_on(database, instance, PULP_CONTENT_STAR_CACHE_ENTRIES="0") as server:
            disk.fill()
            with database.connect() as session, pytest.raises(psycopg.errors.DiskFull):
                session.execute("CREATE TABLE content_star_test AS SELECT generate_series(1, 9999)")
            with downloading(server.content_url + base, FILES):
                pass
            assert OUTAGE not in server.said()
            assert get(f"{server.content_url}readyz").status_code == 200
            disk.clear()


def test_files_are_served_while_no_connection_is_left(instance, orm):
    """Others take all connections: those of files go on, also for uncached ones and pages."""
    base = orm.distribution(publication=orm.publication({**FILES, "directory/file": b""}))
    with cluster() as database, contextlib.ExitStack() as taken:
        database.start("-c", "max_connections=30", "-c", "superuser_reserved_connections=0")
        options = {"PULP_CONTENT_STAR_CACHE_ENTRIES": "0", "PULP_CONTENT_APP_TTL": "4"}
        with serving_on(database, instance, **options) as server:
            url = server.content_url + base
            assert get(f"{url}/small").content == FILES["small"]
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(contextlib.closing(database.connect()))
            with downloading(url, FILES):
                for _ in range(3):
                    assert "file" in get(f"{url}/directory/").text
            assert OUTAGE not in server.said()
            taken.close()
            assert get(f"{url}/large").content == FILES["large"]


def test_files_are_served_from_a_standby(instance, orm):
    """It refuses writes and LISTEN: the heartbeat complains, and there is no cache."""
    base = orm.distribution(publication=orm.publication(FILES))
    with cluster(standby=True) as database:
        database.start()
        with serving_on(database, instance) as server:
            url = server.content_url + base
            with downloading(url, FILES):
                wait_for(server, "the database is a standby")
            wait_for(server, "cannot write its row")
            assert OUTAGE not in server.said()
            assert get(f"{server.content_url}readyz").status_code == 200


def test_cached_files_survive_dropped_packets(instance, orm):
    """Of a network namespace: nothing is acknowledged, and no connection is refused or reset."""
    base = orm.distribution(publication=orm.publication({**FILES, "other": b"other"}))
    with network_namespace() as space, database_proxy(space.ours) as proxy:
        port = free_port()
        uvicorn = str(Path(sys.executable).with_name("uvicorn"))
        command = [*space.prefix, uvicorn, "pulpcore.routing:application"]
        command += ["--host", space.address, "--port", str(port)]
        databases = databases_through(instance, proxy, space.ours)
        url = f"http://{space.address}:{port}"
        with running(instance, command, url, PULP_DATABASES=databases) as server:
            wait_for(server, ENABLED)
            files = server.content_url + base
            with downloading(files, FILES) as clients:
                space.drop(proxy.port)
                wait_for(server, OUTAGE)
                wait_until(lambda: get(f"{files}/none").status_code == 503)
                clients.wait()
                space.restore()
                wait_for(server, ENABLED, 2)
                assert get(f"{files}/other").content == b"other"
            assert server.process.poll() is None


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_files_are_served_through_a_pooler_that_restarts(instance, orm, tmp_path, mode):
    """Cached files during its absence in session mode; there is no cache in the other one."""
    base = orm.distribution(publication=orm.publication(FILES))
    with contextlib.ExitStack() as first:
        pooler = first.enter_context(pgbouncer(instance, tmp_path, mode))
        with serving(instance, **pooler.environ) as server:
            url = server.content_url + base
            for name, data in FILES.items():
                assert get(f"{url}/{name}").content == data
            cached = FILES if mode == "session" else {}
            wait_for(server, ENABLED if cached else "notifications of the database do not arrive")
            with downloading(url, cached) as clients:
                first.close()
                wait_until(lambda: get(f"{url}/none").status_code == 503, explain=server.said)
                clients.wait()
                with pgbouncer(instance, tmp_path, mode, port=pooler.port):
                    wait_until(lambda: get(f"{url}/none2").status_code == 404)
                    clients.wait()
                    for name, data in FILES.items():
                        assert get(f"{url}/{name}").content == data


def test_files_are_served_while_a_table_is_altered(instance, orm):
    """The exclusive lock stops lookups, not what is cached; then lookups go on."""
    base = orm.distribution(publication=orm.publication({**FILES, "other": b"other"}))
    options = {"PULP_CONTENT_STAR_DATABASE_TIMEOUT": "1"}
    with serving(instance, **options) as server:
        wait_for(server, ENABLED)
        url = server.content_url + base
        for name in FILES:
            assert get(f"{url}/{name}").content == get(f"{url}/{name}").content == FILES[name]
        parameters = connection.get_connection_params()
        names = ("host", "port", "dbname", "user")
        known = {name: parameters[name] for name in names if name in parameters}
        with psycopg.connect(**known) as altering:
            altering.execute("ALTER TABLE core_contentartifact ADD COLUMN content_star_test int")
            with downloading(url, FILES) as clients:
                assert get(f"{url}/other").status_code == 503
                clients.wait()
                altering.rollback()
                assert get(f"{url}/other").content == b"other"
