"""The API with settings of Django's connections, while the database restarts or has none left."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import httpx
import pytest

from tests.support.cluster import Cluster, cluster
from tests.support.instance import Instance, wait_until
from tests.support.server import serving

pytestmark = pytest.mark.slow

THREADS = 4
GUARDS = "/pulp/api/v3/contentguards/core/header/"
SETTINGS = {
    "pool": '"OPTIONS": {"pool": {"timeout": 15}}',
    "pool smaller than the threads": (
        '"OPTIONS": {"pool": {"min_size": 1, "max_size": 2, "timeout": 15}}'
    ),
    "no persistent connections": '"CONN_MAX_AGE": 0',
    "60 s with checks": '"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": true',
    "unlimited": '"CONN_MAX_AGE": null',
}
EXHAUSTED_POOL = '"OPTIONS": {"pool": {"min_size": 1, "max_size": 2, "timeout": 1}}'


@pytest.fixture(scope="module")
def database(instance) -> Iterator[Cluster]:
    with cluster() as copy:
        copy.start()
        yield copy


@contextmanager
def api(instance: Instance, database: Cluster, options: str) -> Iterator[httpx.Client]:
    """Run a server with `options` of its connections; yield a client that is logged in."""
    databases = database.databases(instance).replace('"ENGINE"', f'{options}, "ENGINE"')
    assert options in databases
    environ = {
        "PULP_DATABASES": databases,
        "PULP_CONTENT_STAR_API_THREADS": str(THREADS),
    }
    with serving(instance, **environ) as server, instance.client(server.url) as client:
        yield client


def create(client: httpx.Client, name: str) -> httpx.Response:
    body = {"name": name, "header_name": "X-Secret", "header_value": "c2VjcmV0"}
    return client.post(GUARDS, json=body)


@dataclass
class Load:
    """Requests of clients until `done`, by kind, and the guards that they have created."""

    client: httpx.Client
    succeeded: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    created: set[str] = field(default_factory=set)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.done.is_set():
            for path in ("/pulp/api/v3/status/", f"{GUARDS}?limit=5"):
                self.note("read", self.client.get(path), 200)
            name = uuid4().hex
            if self.note("write", create(self.client, name), 201):
                self.created.add(name)

    def note(self, kind: str, response: httpx.Response, expected: int) -> bool:
        """Count a response; return whether the request succeeded."""
        if response.status_code == expected:
            self.succeeded[kind] += 1
        elif response.status_code == 503 and response.headers.get("Retry-After"):
            self.refused[kind] += 1
        else:
            self.unexpected.append(f"{kind} {response.status_code} {response.text[:500]}")
        return response.status_code == expected

    def wait_for(self, counts: Counter[str], more: int) -> None:
        """Wait until `counts` has some more reads and writes."""
        before = counts.copy()
        wait_until(
            lambda: all(counts[kind] >= before[kind] + more for kind in ("read", "write")),
            explain=lambda: f"{self}",
        )


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_api_returns_503_while_the_database_is_away_and_recovers(instance, database, options):
    """Objects whose creation returned 201 exist; before and after, no request fails."""
    with api(instance, database, options) as client, ThreadPoolExecutor(THREADS) as threads:
        load = Load(client)
        jobs = [threads.submit(load.run) for _ in range(THREADS)]
        try:
            load.wait_for(load.succeeded, 10)
            assert not load.refused
            database.stop()
            load.wait_for(load.refused, 1)
            database.start()
            load.wait_for(load.succeeded, 10)
        finally:
            load.done.set()
        for job in jobs:
            job.result(300)
        assert load.unexpected == []
        for name in load.created:
            assert client.get(GUARDS, params={"name": name}).json()["count"] == 1


def test_api_returns_503_while_the_pool_has_no_connection(instance, database):
    """Two requests wait for a table, and have both connections."""
    with api(instance, database, EXHAUSTED_POOL) as client, ThreadPoolExecutor(2) as threads:
        with database.connect() as locking, locking.transaction():
            locking.execute("LOCK TABLE core_contentguard IN ACCESS EXCLUSIVE MODE")
            waiting = [threads.submit(partial(create, client, uuid4().hex)) for _ in range(2)]
            wait_until(lambda: client.get("/pulp/api/v3/tasks/").status_code == 503)
            refused = create(client, uuid4().hex)
            assert (refused.status_code, refused.text) == (503, "The database is not available.")
            assert int(refused.headers["Retry-After"]) > 0
        assert [job.result(300).status_code for job in waiting] == [201, 201]
        assert client.get("/pulp/api/v3/tasks/").status_code == 200
        assert create(client, uuid4().hex).status_code == 201
