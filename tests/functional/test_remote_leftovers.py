"""Leaks of downloads: files, connections, descriptors, threads and objects after all have ended."""

import asyncio
import os
import random
import signal
import threading
from pathlib import Path

import httpx
import pytest
from django.db import connection, transaction

from pulpcore.content_star.remote.lock import APPLICATION_NAME
from pulpcore.content_star.remote.temporary_file import remove_abandoned
from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.orm import artifact
from tests.support.pulp import unique
from tests.support.remote_files import spooled
from tests.support.remote_server import PausedResponse, Upstream
from tests.support.server import Server, serving

pytestmark = pytest.mark.slow

BIG = 3_000_000

# As in docs/database.md: four threads for content, a heartbeat, two for saving. The connections
# of the cache listener and the fetch locks have other application names.
DATABASE_CONNECTIONS = 7
ROOT = Path(__file__).parents[2]


def connections(application_name: str) -> int:
    with connection.cursor() as cursor:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        cursor.execute(query, [application_name])
        return cursor.fetchone()[0]


def descriptors(server: Server) -> list[str]:
    folder = Path(f"/proc/{server.process.pid}/fd")
    found = []
    for fd in os.listdir(folder):
        try:
            found.append(os.readlink(folder / fd))
        except FileNotFoundError:
            continue  # already closed
    return sorted(found)


def left_in_memory(server: Server) -> dict[str, int]:
    left: dict[str, int] = httpx.get(f"{server.url}/left-in-memory").json()
    return left


def threads(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def pulled_through(orm, server: Upstream) -> list[str]:
    """Return paths of pull-through files whose remote answers in different ways."""
    from pulp_file.app.models import FileRemote

    found = []
    for policy in ("on_demand", "streamed"):
        folder = unique("folder")
        url = f"{server.url}{folder}/"
        remote = FileRemote(name=folder, url=url, policy=policy, max_retries=1)
        base = orm.distribution(from_publication=False, remote=orm._save(remote))
        for name, behaviour in {
            "a.bin": remote_server.plain,
            "chunked.bin": remote_server.chunked,
            "broken.bin": remote_server.truncated(1_000_000),
            "refused.bin": remote_server.status(403),
            "index.html": remote_server.chunked,
        }.items():
            server.files[f"{folder}/{name}"] = random.randbytes(BIG)
            server.behaviours[f"{folder}/{name}"] = behaviour
            found.append(f"{base}/{name}")
    return found


def test_downloads_of_all_kinds_leak_no_resources(instance, remote_file, server, orm):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kinds = {
        "good": {},
        "streamed": {"policy": "streamed"},
        "wrong": {},
        "refused": {},
        "cut": {},
        "hanging": {"sock_read_timeout": 0.1, "max_retries": 1},
        "encoded": {},
        "no TLS validation": {"tls_validation": False},
    }
    behaviours = {
        "wrong": remote_server.wrong_bytes,
        "refused": remote_server.status(404),
        "cut": remote_server.truncated(1_000_000),
        "hanging": remote_server.hanging,
        "encoded": remote_server.gzip_encoded,
    }
    files = []
    for kind in [*kinds] * 2:
        file = remote_file(BIG, **kinds[kind])
        if kind in behaviours:
            file.set_behaviour(behaviours[kind])
        files.append(file)
    paths = [file.path for file in files] + pulled_through(orm, server)
    name = unique("app")
    environ = {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "always::ResourceWarning",
        "PULP_CONTENT_STAR_METADATA_SIZE": "0",  # cached metadata would count as a leak
    }
    with serving(
        instance, app="tests.support.fetch_counts_app:application", PGAPPNAME=name, **environ
    ) as own:

        async def visit(client: httpx.AsyncClient) -> None:
            url = own.content_url + chance.choice(paths)
            method = chance.choice(["GET", "GET", "GET", "HEAD"])
            headers = chance.choice([{}, {}, {"Range": "bytes=1000-1999"}])
            limit = chance.choice([-1, 0, 1000, 500_000, BIG])
            timeout = httpx.Timeout(chance.choice([0.05, 60]), pool=60)
            try:
                async with client.stream(method, url, headers=headers, timeout=timeout) as response:
                    got = 0
                    async for chunk in response.aiter_raw():
                        got += len(chunk)
                        if got > limit:
                            return
            except (
                httpx.RemoteProtocolError,
                httpx.ConnectTimeout,
                httpx.ReadTimeout,
                httpx.WriteTimeout,
            ):
                pass

        async def visit_all(count: int) -> None:
            limits = httpx.Limits(max_connections=50)
            async with httpx.AsyncClient(limits=limits) as client:
                await asyncio.gather(*(visit(client) for _ in range(count)))

        def wait_until_idle() -> None:
            wait_until(lambda: spooled(instance) == [], explain=lambda: str(spooled(instance)))
            wait_until(lambda: server.connected() == 0, explain=lambda: str(server.connected()))
            wait_until(lambda: connections(APPLICATION_NAME) == 0)
            wait_until(
                lambda: not any(left_in_memory(own).values()),
                explain=lambda: str(left_in_memory(own)),
            )

        asyncio.run(visit_all(25))
        wait_until_idle()
        before = len(descriptors(own)) - connections(name)
        asyncio.run(visit_all(200))
        wait_until_idle()
        # Connections of the database pools are opened on demand, and counted separately.
        wait_until(
            lambda: len(descriptors(own)) - connections(name) <= before,
            explain=lambda: "\n".join(descriptors(own)),
        )
        wait_until(lambda: not any("content-star" in target for target in descriptors(own)))
        assert connections(name) <= DATABASE_CONNECTIONS
        assert threads(own) < 100
        said = own.said()
        assert "Unclosed" not in said
        assert "was never awaited" not in said
        assert "never retrieved" not in said
        # Pulp's own model field does not close the file it reads; Python does so at once.
        unclosed = [line for line in said.splitlines() if "ResourceWarning: unclosed" in line]
        assert [line for line in unclosed if "BufferedReader" not in line] == []


def test_temporary_files_of_a_killed_process_are_removed_by_the_next_start(instance, remote_file):
    wait_until(lambda: spooled(instance) == [])
    files = [remote_file(BIG), remote_file(BIG)]
    paused = PausedResponse(1_000_000)
    for file in files:
        file.set_behaviour(paused)
    with (
        serving(instance) as killed,
        httpx.stream("GET", killed.content_url + files[0].path) as first,
        httpx.stream("GET", instance.content_url + files[1].path) as second,
    ):
        chunks = second.iter_raw()
        got = next(chunks)
        next(first.iter_raw(1))
        both = spooled(instance)
        assert len(both) == 2
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        assert spooled(instance) == both
        with serving(instance):
            left = spooled(instance)
            assert len(left) == 1
            assert set(left) < set(both)
        paused.release()
        assert got + b"".join(chunks) == files[1].data
    files[1].wait_until_saved()
    wait_until(lambda: spooled(instance) == [])


def test_files_of_other_programs_are_not_removed(tmp_path):
    names = ["content-mine", "other", "content-star-link"]
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "content-mine").write_bytes(b"")
    (tmp_path / "content-star-link").symlink_to(tmp_path / "other")
    (tmp_path / "content-star-left").write_bytes(b"")
    remove_abandoned(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT"])
def test_shutdown_waits_until_a_fetched_file_is_saved(instance, remote_file, way):
    file = remote_file()
    old = artifact(file.data)
    locked, over = threading.Event(), threading.Event()

    def lock_artifact() -> None:
        """Lock the artifact's row, so that saving has to wait."""
        with transaction.atomic():
            type(old).objects.select_for_update().get(pk=old.pk)
            locked.set()
            over.wait(300)
        connection.close()

    holding = threading.Thread(target=lock_artifact)
    holding.start()
    locked.wait(300)
    with serving(instance) as own:
        answer = httpx.get(own.content_url + file.path)
        assert answer.content == file.data
        assert spooled(instance)
        own.process.send_signal(getattr(signal, way))
        wait_until(lambda: "Waiting for application shutdown" in own.said())
        assert own.process.poll() is None
        over.set()
        own.process.wait(300)
    holding.join()
    assert file.artifact == old
    wait_until(lambda: spooled(instance) == [])
