"""Health probes, with database and storage available and unavailable."""

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
def test_probe_returns_200(content, path):
    response = content.get(path)
    assert (response.status_code, response.text) == (200, "ok\n")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Vary"] == "Accept"
    assert content.head(path).status_code == 200
    assert content.post(path).status_code == 405


@pytest.mark.parametrize("name", ["livez", "readyz"])
@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json"])
def test_probe_with_a_query_that_is_too_long_returns_414(content, name, accept):
    for method in ("GET", "HEAD", "OPTIONS"):
        answer = content.request(method, f"{name}?{'x' * 8191}", headers={"Accept": accept})
        assert answer.status_code == 414


@pytest.mark.parametrize("name", ["livez", "readyz"])
def test_probe_hides_no_distribution_of_its_name(content, orm, name):
    orm.distribution(name, publication=orm.publication({"a.txt": b"a", f"{name}": b"b"}))
    assert content.get(name).text == "ok\n"
    assert content.get(f"{name}/a.txt").content == b"a"
    assert content.get(f"{name}/{name}").content == b"b"
    assert "a.txt" in content.get(f"{name}/").text
    assert f'"{name}/"' in content.get("").text


def test_probe_precedes_a_domain_of_its_name(domains, orm):
    from pulpcore.app.models import Domain

    domain = Domain(name="livez", storage_class="pulpcore.app.models.storage.FileSystem")
    orm._save(domain)
    assert httpx.get(f"{domains.content_url}livez").text == "ok\n"
    assert "Index of /pulp/content/livez/" in httpx.get(f"{domains.content_url}livez/").text


def test_readyz_with_unavailable_database_returns_503(instance, tmp_path):
    """The server reaches PostgreSQL's socket through a symbolic link, which is removed."""
    link = tmp_path / "link"
    link.symlink_to(instance.address.socket_dir)
    databases = instance.environ["PULP_DATABASES"].replace(instance.address.socket_dir, str(link))
    app = "pulpcore.routing:content_application"
    with serving(instance, app=app, PULP_DATABASES=databases) as server:
        # Content has no connection yet: an open one would survive without the link.
        link.unlink()
        response = httpx.get(f"{server.content_url}readyz")
        assert (response.status_code, response.text) == (503, "The database is not available.\n")
        assert httpx.get(f"{server.content_url}livez").status_code == 200
        link.symlink_to(instance.address.socket_dir)
        wait_until(lambda: httpx.get(f"{server.content_url}readyz").status_code == 200)


def test_readyz_with_database_timeout_returns_503(instance, tmp_path):
    """The database accepts connections and sends nothing."""
    link, silent = tmp_path / "link", tmp_path / "silent"
    link.symlink_to(instance.address.socket_dir)
    silent.mkdir()
    databases = instance.environ["PULP_DATABASES"].replace(instance.address.socket_dir, str(link))
    app = "pulpcore.routing:content_application"
    # Without a cache there is no listener, so that only the probe connects.
    environ = {"PULP_DATABASES": databases, "PULP_CONTENT_STAR_CACHE_ENTRIES": "0"}
    with (
        serving(instance, app=app, **environ) as server,
        closing(socket.socket(socket.AF_UNIX)) as database,
    ):
        database.bind(str(silent / ".s.PGSQL.5432"))
        database.listen()
        link.unlink()
        link.symlink_to(silent)
        get = partial(httpx.get, timeout=300)
        with ThreadPoolExecutor() as pool:
            responses = list(pool.map(get, [f"{server.content_url}readyz"] * 5))
        for response in responses:
            text = "The database is not available.\n"  # after `connect_timeout`
            assert (response.status_code, response.text) == (503, text)
        received = messages(database)
        assert len(received) == 1, f"one check for all: {received} {server.said()}"
        assert httpx.get(f"{server.content_url}livez").status_code == 200
        database.close()


def messages(listener: socket.socket) -> list[bytes]:
    """Accept all pending connections; return the first message of each."""
    received = []
    listener.setblocking(False)
    # Closed only after all are accepted: a client that loses its connection reconnects at once.
    with ExitStack() as taken, suppress(BlockingIOError):
        while True:
            connection = taken.enter_context(listener.accept()[0])
            connection.settimeout(300)
            received.append(connection.recv(4096))
    return received


def test_readyz_of_concurrent_clients_returns_200(content):
    """The next check begins while clients still wait for the first one's result."""
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: content.get("readyz").status_code, range(800)))
    assert codes == [200] * 800


def test_readyz_with_unavailable_storage_returns_503(instance, tmp_path):
    media = tmp_path / "media"
    app = "pulpcore.routing:content_application"
    with serving(instance, app=app, PULP_MEDIA_ROOT=str(media)) as server:
        response = httpx.get(f"{server.content_url}readyz")
        assert (response.status_code, response.text) == (503, "The storage is not available.\n")
        media.mkdir()
        assert httpx.get(f"{server.content_url}readyz").status_code == 200
