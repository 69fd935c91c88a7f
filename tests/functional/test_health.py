"""Probes of the real process, with what they ask for there and away."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial

import httpx
import pytest

from tests.support.instance import wait_until
from tests.support.server import serving

TEXT = "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["livez", "readyz"])
def test_probes(content, path):
    response = content.get(path)
    assert (response.status_code, response.text) == (200, "ok\n")
    assert response.headers["Cache-Control"] == "no-store"
    assert content.head(path).status_code == 200
    assert content.post(path).status_code == 405


@pytest.mark.parametrize("name", ["livez", "readyz"])
def test_probes_hide_no_content(content, orm, name):
    orm.distribution(name, publication=orm.publication({"a.txt": b"a", f"{name}": b"b"}))
    assert content.get(name).text == "ok\n"
    assert content.get(f"{name}/a.txt").content == b"a"
    assert content.get(f"{name}/{name}").content == b"b"
    assert "a.txt" in content.get(f"{name}/").text
    assert f'"{name}/"' in content.get("").text


def test_probes_are_above_domains(instance, orm):
    from pulpcore.app.models import Domain

    domain = Domain(name="livez", storage_class="pulpcore.app.models.storage.FileSystem")
    orm._save(domain)
    with serving(instance, PULP_DOMAIN_ENABLED="true") as server:
        assert httpx.get(f"{server.content_url}livez").text == "ok\n"
        assert "Index of /pulp/content/livez/" in httpx.get(f"{server.content_url}livez/").text


def test_a_database_that_is_away(instance, tmp_path):
    """The socket's directory is a link here, and the link goes away for a while."""
    road = tmp_path / "road"
    road.symlink_to(instance.address.socket_dir)
    databases = instance.environ["PULP_DATABASES"].replace(instance.address.socket_dir, str(road))
    app = "pulpcore.routing:content_application"
    with serving(instance, app=app, PULP_DATABASES=databases) as server:
        # No connection yet is in the pool of content: it could live on without the link.
        road.unlink()
        response = httpx.get(f"{server.content_url}readyz", timeout=30)
        assert (response.status_code, response.text) == (503, "The database is not available.\n")
        assert httpx.get(f"{server.content_url}livez").status_code == 200
        road.symlink_to(instance.address.socket_dir)
        wait_until(lambda: httpx.get(f"{server.content_url}readyz", timeout=30).status_code == 200)


def test_a_database_that_does_not_answer(instance, tmp_path):
    """It accepts connections and says nothing."""
    road, silent = tmp_path / "road", tmp_path / "silent"
    road.symlink_to(instance.address.socket_dir)
    silent.mkdir()
    databases = instance.environ["PULP_DATABASES"].replace(instance.address.socket_dir, str(road))
    app = "pulpcore.routing:content_application"
    # Nobody but the probe is to connect: without plans, nobody listens.
    environ = {"PULP_DATABASES": databases, "PULP_CONTENT_STAR_CACHE_ENTRIES": "0"}
    with (
        serving(instance, app=app, **environ) as server,
        closing(socket.socket(socket.AF_UNIX)) as database,
    ):
        database.bind(str(silent / ".s.PGSQL.5432"))
        database.listen()
        road.unlink()
        road.symlink_to(silent)
        patient = partial(httpx.get, timeout=30)
        with ThreadPoolExecutor() as pool:
            responses = list(pool.map(patient, [f"{server.content_url}readyz"] * 5))
        for response in responses:
            assert (response.status_code, response.text) == (
                503,
                "The check of database and storage took over 5 s.\n",
            )
        heard = messages(database)
        assert len(heard) == 1, f"however many ask: {heard} {server.said()}"
        assert httpx.get(f"{server.content_url}livez").status_code == 200
        database.close()


def messages(listener: socket.socket) -> list[bytes]:
    """Take all connections that wait to be accepted; return what each of them has begun with."""
    heard = []
    listener.setblocking(False)
    # None is closed before all are taken: who loses a connection tries again at once.
    with ExitStack() as taken, suppress(BlockingIOError):
        while True:
            connection = taken.enter_context(listener.accept()[0])
            connection.settimeout(30)
            heard.append(connection.recv(4096))
    return heard


def test_readyz_asked_by_many_at_once_returns_200(content):
    """Each check ends, and the next begins, while others still wait for the first."""
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: content.get("readyz").status_code, range(800)))
    assert codes == [200] * 800


def test_a_storage_that_is_away(instance, tmp_path):
    media = tmp_path / "media"
    app = "pulpcore.routing:content_application"
    with serving(instance, app=app, PULP_MEDIA_ROOT=str(media)) as server:
        response = httpx.get(f"{server.content_url}readyz")
        assert (response.status_code, response.text) == (503, "The storage is not available.\n")
        media.mkdir()
        assert httpx.get(f"{server.content_url}readyz").status_code == 200
