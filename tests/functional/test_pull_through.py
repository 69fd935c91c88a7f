"""Pull-through: distributions with a remote, which fetch missing paths from it."""

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.invalidation import settle
from tests.support.pulp import unique
from tests.support.remote_files import spooled
from tests.support.remote_server import PausedResponse, Upstream
from tests.support.server import Server, serving

BIG = 3_000_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory in ALLOWED_IMPORT_PATHS, which remotes with file:// URLs may read."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def own(instance, folder) -> Iterator[Server]:
    """A server with pull-through in pulp_file."""
    environ = {"PYTHONPATH": str(ROOT), "PULP_ALLOWED_IMPORT_PATHS": f'["{folder}"]'}
    with serving(instance, app="tests.support.pull_through_app:application", **environ) as running:
        yield running


@pytest.fixture(scope="module")
def other(instance) -> Iterator[Server]:
    """A second process with pull-through."""
    with serving(
        instance, app="tests.support.pull_through_app:application", PYTHONPATH=str(ROOT)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(own: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.content_url) as client:
        yield client


@dataclass
class Mirror:
    """A distribution with only a remote, and the folder of the remote server that it points at."""

    base: str
    folder: str
    upstream: Upstream
    remote: Any
    repository: Any
    paths: list[str] = field(default_factory=list)

    def add(
        self, path: str, data: bytes | int, behaviour: remote_server.Behaviour | None = None
    ) -> str:
        """Add a file to the remote, and return its path below the content root."""
        source = f"{self.folder}/{path}"
        self.upstream.files[source] = random.randbytes(data) if isinstance(data, int) else data
        self.set_behaviour(path, behaviour or remote_server.plain)
        return f"{self.base}/{path}"

    def set_behaviour(self, path: str, behaviour: remote_server.Behaviour) -> None:
        self.upstream.behaviours[f"{self.folder}/{path}"] = behaviour

    def data(self, path: str) -> bytes:
        return self.upstream.files[f"{self.folder}/{path}"]

    def gets(self, path: str) -> int:
        return self.upstream.gets[f"{self.folder}/{path}"]

    def seen(self, path: str) -> list[web.Request]:
        return [each for each in self.upstream.seen if each.path == f"/{self.folder}/{path}"]

    def saved(self, path: str) -> bool:
        from pulpcore.app.models import ContentArtifact

        return ContentArtifact.objects.filter(
            remoteartifact__remote=self.remote, relative_path=path, artifact__isnull=False
        ).exists()


@pytest.fixture
def mirror(orm, server: Upstream) -> Callable[..., Mirror]:
    def make(policy: str = "on_demand", repository: bool = False, **fields: Any) -> Mirror:
        from pulp_file.app.models import FileRemote

        folder = unique("folder")
        remote = orm._save(
            FileRemote(
                **{
                    "name": unique("remote"),
                    "url": f"{server.url}{folder}/",
                    "policy": policy,
                    "max_retries": 1,
                    **fields,
                }
            )
        )
        version = orm.version({}) if repository else None
        target = version.repository.cast() if version else None
        base = orm.distribution(from_publication=False, remote=remote, repository=target)
        return Mirror(base, folder, server, remote, target)

    return make


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


async def gather(url: str, count: int, begun: Callable[[], None] = bool) -> list[bytes]:
    """GET `url` `count` times concurrently; call `begun` when all responses have begun."""
    started = 0

    async def get(client: httpx.AsyncClient) -> bytes:
        nonlocal started
        async with client.stream("GET", url) as response:
            started += 1
            if started == count:
                begun()
            return await response.aread()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits) as client:
        return await asyncio.gather(*(get(client) for _ in range(count)))


# Content


@pytest.mark.parametrize("policy", ["on_demand", "immediate"])
@pytest.mark.parametrize("size", [0, 5000, BIG])
def test_pull_through_file_is_served_and_saved(client, mirror, instance, policy, size):
    m = mirror(policy)
    path = m.add("a.bin", size)
    first = client.get(path)
    assert first.status_code == 200
    assert first.content == m.data("a.bin")
    assert first.headers["Content-Type"] == "application/octet-stream"
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert 'filename="a.bin"' in first.headers["Content-Disposition"]
    wait_until(lambda: m.saved("a.bin"))
    again = client.get(path)
    assert again.content == m.data("a.bin")
    assert again.headers["ETag"] == etag(m.data("a.bin"))
    assert client.get(path, headers={"If-None-Match": again.headers["ETag"]}).status_code == 304
    assert m.gets("a.bin") == 1
    wait_until(lambda: spooled(instance) == [])


def test_facts_about_a_file_are_known_after_its_fetch_and_cause_none(client, mirror):
    here = mirror()
    path = here.add("a.bin", 100)
    for query in ("info", "checksum=sha256"):
        assert client.get(f"{path}?{query}").status_code == 404
    assert here.gets("a.bin") == 0
    assert client.get(path).content == here.data("a.bin")
    wait_until(lambda: here.saved("a.bin"))
    facts = client.get(f"{path}?info", headers={"Accept": "application/json"}).json()
    assert facts["size"] == 100
    assert hashlib.sha256(here.data("a.bin")).hexdigest() == facts["digests"]["sha256"]
    assert client.get(f"{here.base}/?use").status_code == 200


def test_streamed_file_is_not_saved(client, mirror, instance):
    m = mirror("streamed")
    path = m.add("a.bin", BIG)
    for _ in range(2):
        assert client.get(path).content == m.data("a.bin")
    assert m.gets("a.bin") == 2
    assert not m.saved("a.bin")
    wait_until(lambda: spooled(instance) == [])


def test_hundred_clients_of_one_file_cause_one_fetch(own, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000)
    path = m.add("a.bin", BIG, paused)

    bodies = asyncio.run(gather(own.content_url + path, 100, paused.release))
    assert set(bodies) == {m.data("a.bin")}
    assert m.gets("a.bin") == 1


def test_client_disconnect_of_the_first_client_keeps_the_fetch_for_others(client, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000)
    path = m.add("a.bin", BIG, paused)
    with client.stream("GET", path) as first:
        next(first.iter_raw(1))
    with client.stream("GET", path) as second:
        paused.release()
        assert second.read() == m.data("a.bin")
    wait_until(lambda: m.saved("a.bin"))
    assert m.gets("a.bin") == 1


def test_client_disconnect_of_all_clients_does_not_stop_saving(client, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000)
    with client.stream("GET", m.add("a.bin", BIG, paused)) as only:
        next(only.iter_raw(1))
    paused.release()
    wait_until(lambda: m.saved("a.bin"))


def test_client_disconnect_of_all_clients_ends_a_streamed_fetch(client, mirror, instance):
    m = mirror("streamed")
    with client.stream("GET", m.add("a.bin", BIG, PausedResponse(1_000_000))) as only:
        next(only.iter_raw(1))
    wait_until(lambda: m.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_repository_gets_the_pulled_through_content(client, mirror):
    m = mirror(repository=True)
    path = m.add("dir/a.bin", 5000)
    assert client.get(path).content == m.data("dir/a.bin")
    wait_until(lambda: m.repository.latest_version().number == 1)
    settle()  # the worker's write
    assert client.get(path).headers["Last-Modified"], "served from the repository"
    assert "a.bin" in client.get(f"{m.base}/dir/").text
    assert m.gets("dir/a.bin") == 1


def test_task_of_repository_runs_in_a_worker(client, mirror, own):
    """An API process would run an immediate task itself, in a working directory of its own."""
    m = mirror(repository=True)
    assert client.get(m.add("a.bin", 5000)).status_code == 200
    wait_until(lambda: m.repository.latest_version().number == 1)
    assert "Starting task" not in own.said()


def test_repository_gets_content_that_another_distribution_pulled_through(client, mirror, orm):
    m = mirror()
    path = m.add("a.bin", 5000)
    assert client.get(path).content == m.data("a.bin")
    wait_until(lambda: m.saved("a.bin"))
    repository = orm.version({}).repository.cast()
    other = orm.distribution(from_publication=False, remote=m.remote, repository=repository)
    for _ in range(5):
        assert client.get(f"{other}/a.bin").content == m.data("a.bin")
    wait_until(lambda: repository.latest_version().number == 1)
    assert m.gets("a.bin") == 1


@pytest.mark.parametrize("is_known", [False, True])
def test_repository_gets_one_task_for_concurrent_clients(own, mirror, orm, is_known):
    from pulpcore.app.models import Task

    m = mirror(repository=True)
    path = m.add("a.bin", 5000)
    if is_known:  # through another distribution, which has no repository
        first = orm.distribution(from_publication=False, remote=m.remote)
        assert httpx.get(f"{own.content_url}{first}/a.bin").status_code == 200
        wait_until(lambda: m.saved("a.bin"))
    assert set(asyncio.run(gather(own.content_url + path, 100))) == {m.data("a.bin")}
    wait_until(lambda: m.repository.latest_version().number == 1)
    tasks = Task.objects.filter(name__endswith="add_and_remove").order_by("-pulp_created")
    pk = str(m.repository.pk)
    mine = [task for task in tasks[:200] if pk in str(task.reserved_resources_record)]
    assert len(mine) == 1
    assert m.gets("a.bin") == 1


def test_repository_claim_is_released_when_adding_content_fails(orm, instance, monkeypatch):
    from pulp_file.app.models import FileRepository

    from pulpcore.content_star.remote.pull_through.repository import add_to_repository, claim

    version = orm.version({"a": b"a"})
    [file] = version.content.get().contentartifact_set.all()

    def fail(repository, file):
        raise ConnectionError

    monkeypatch.setattr(FileRepository, "pull_through_add_content", fail)
    repository = version.repository.pk
    assert claim(repository, file)
    assert not claim(repository, file)
    with pytest.raises(ConnectionError):
        add_to_repository(repository, file)
    assert claim(repository, file)


def test_repository_content_precedes_the_remote(client, mirror, orm):
    from pulpcore.app.models import Distribution

    m = mirror()
    path = m.add("a.bin", b"of the remote")
    version = orm.version({"a.bin": b"of the repository"})
    Distribution.objects.filter(base_path=m.base).update(repository_version=version)
    assert client.get(path).content == b"of the repository"
    assert m.gets("a.bin") == 0


def test_existing_content_and_artifact_are_used(client, mirror, orm):
    """The content exists without its artifact, which other content has."""
    from pulpcore.app.models import Artifact, ContentArtifact

    m = mirror()
    path = m.add("known.bin", 5000)
    content = orm.content({"known.bin": m.data("known.bin")}).get()
    ContentArtifact.objects.filter(content=content).update(artifact=None)
    assert client.get(path).content == m.data("known.bin")
    wait_until(lambda: m.saved("known.bin"))
    assert ContentArtifact.objects.get(remoteartifact__remote=m.remote).content_id == content.pk
    digest = hashlib.sha256(m.data("known.bin")).hexdigest()
    assert Artifact.objects.filter(sha256=digest).count() == 1


def test_reclaimed_file_is_on_demand_content_with_etag_and_digest(client, mirror):
    from pulpcore.app.models import ContentArtifact, RemoteArtifact

    m = mirror()
    path = m.add("a.bin", 5000)
    assert client.get(path).status_code == 200
    wait_until(lambda: m.saved("a.bin"))
    known = RemoteArtifact.objects.filter(remote=m.remote)
    ContentArtifact.objects.filter(remoteartifact__in=known).update(artifact=None)
    known.update(sha256=hashlib.sha256(m.data("a.bin")).hexdigest(), size=5000)
    assert client.head(path).headers["ETag"] == etag(m.data("a.bin"))
    assert m.gets("a.bin") == 1
    m.set_behaviour("a.bin", remote_server.wrong_bytes)
    assert client.get(path).status_code == 502, "the digest is checked"


def test_remote_with_changed_url_updates_the_remote_artifact(client, mirror):
    from pulpcore.app.models import RemoteArtifact

    m = mirror()
    path = m.add("a.bin", 5000)
    data = client.get(path).content
    wait_until(lambda: m.saved("a.bin"))
    m.folder = unique("moved")
    m.remote.url = f"{m.upstream.url}{m.folder}"
    m.remote.save()
    m.add("a.bin", data)
    assert client.get(path).content == data
    offer = RemoteArtifact.objects.get(remote=m.remote)
    wait_until(lambda: offer.refresh_from_db() or m.folder in offer.url)
    assert client.get(path).headers["ETag"] == etag(data)
    assert m.gets("a.bin") == 1


def test_content_with_several_files_is_saved_file_by_file(client, mirror):
    from pulpcore.app.models import ContentArtifact

    m = mirror()
    path = m.add("a.gem", 5000)
    m.add("a.gemspec", 100)
    assert client.get(path).content == m.data("a.gem")
    wait_until(lambda: m.saved("a.gem"))
    assert ContentArtifact.objects.filter(remoteartifact__remote=m.remote).count() == 2
    assert client.get(f"{path}spec").content == m.data("a.gemspec")
    wait_until(lambda: m.saved("a.gemspec"))


def test_fetch_lock_lets_two_processes_fetch_each_file_once(own, other, mirror):
    from pulpcore.app.models import Artifact, ContentArtifact

    m = mirror()
    paths = [m.add(f"{index}.bin", 400_000) for index in range(10)]
    urls = [root + path for path in paths for root in (own.content_url, other.content_url)]

    async def get_all() -> list[httpx.Response]:
        async with httpx.AsyncClient() as client:
            return await asyncio.gather(*(client.get(url) for url in urls))

    for response, url in zip(asyncio.run(get_all()), urls, strict=True):
        assert response.content == m.data(url.rpartition("/")[2])
    for index in range(10):
        wait_until(lambda name=f"{index}.bin": m.saved(name))
        assert m.gets(f"{index}.bin") == 1
    assert "could not be saved" not in own.said() + other.said()
    saved = ContentArtifact.objects.filter(remoteartifact__remote=m.remote)
    assert saved.count() == 10
    digests = [hashlib.sha256(m.data(f"{index}.bin")).hexdigest() for index in range(10)]
    assert Artifact.objects.filter(sha256__in=digests).count() == 10


def test_fetch_lock_makes_a_second_process_wait_for_the_fetch(own, other, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000)
    path = m.add("a.bin", BIG, paused)
    with (
        ThreadPoolExecutor(2) as clients,
        httpx.stream("GET", own.content_url + path) as first,
    ):
        chunks = first.iter_raw()
        start = next(chunks)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(other.content_url + path, timeout=1)
        waiting = clients.submit(httpx.get, other.content_url + path)
        paused.release()
        assert start + b"".join(chunks) == m.data("a.bin")
        response = waiting.result()
        assert response.content == m.data("a.bin")
        assert response.headers["ETag"] == etag(m.data("a.bin"))
    assert m.gets("a.bin") == 1


def test_fetch_lock_is_taken_over_from_a_killed_process(own, mirror, instance):
    m = mirror()
    path = m.add("a.bin", BIG, PausedResponse(1_000_000))
    with serving(
        instance, app="tests.support.pull_through_app:application", PYTHONPATH=str(ROOT)
    ) as other:
        url = other.content_url + path
        with httpx.stream("GET", url) as first:
            next(first.iter_raw())
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(own.content_url + path, timeout=1)
            m.set_behaviour("a.bin", remote_server.plain)
            other.process.kill()
            response = httpx.get(own.content_url + path)
            assert response.content == m.data("a.bin")
    assert m.gets("a.bin") == 2
    wait_until(lambda: m.saved("a.bin"))


def test_pull_through_in_a_domain_is_saved_in_its_storage(instance, server, orm, tmp_path):
    from pulp_file.app.models import FileContent, FileRemote

    from pulpcore.app.contexts import with_domain
    from pulpcore.app.models import Artifact, ContentArtifact

    folder = unique("folder")
    data = server.files[f"{folder}/a.bin"] = random.randbytes(5000)
    domain = orm.domain(location=str(tmp_path))
    environ = {"PULP_DOMAIN_ENABLED": "true", "PYTHONPATH": str(ROOT)}
    with with_domain(domain):
        remote = FileRemote.objects.create(
            name=folder, url=f"{server.url}{folder}", policy="on_demand"
        )
        repository = orm.version({}).repository.cast()
        base = orm.distribution(from_publication=False, remote=remote, repository=repository)
        saved = Artifact.objects.filter(pulp_domain=domain)
        with serving(instance, app="tests.support.pull_through_app:application", **environ) as own:
            address = f"{own.content_url}{domain.name}/{base}/a.bin"
            assert httpx.get(address).content == data
            wait_until(saved.exists)
            wait_until(lambda: repository.latest_version().number == 1)
            settle()
            assert httpx.get(address).headers["Last-Modified"]
        [file] = ContentArtifact.objects.filter(remoteartifact__remote=remote)
        assert file.content.pulp_domain == domain
        stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert stored == [data]
        orm.cleanup()
        remote.delete()
        FileContent.objects.filter(_pulp_domain=domain).delete()
        saved.get().delete()
        domain.delete()


# Responses of remotes


async def page(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data, content_type="text/html")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("simple/star.broken", "text/html"),  # content to the plugin, which cannot parse it
        ("simple/star", "text/html"),
        ("star.xml.gz", "application/gzip"),  # by the file's name
        ("index.json", "text/html"),  # metadata: the remote's type
    ],
)
def test_content_type_is_of_the_file_name_or_else_of_the_remote(
    client, mirror, path, content_type, method
):
    m = mirror()
    response = client.request(method, m.add(path, 5000, page))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == content_type
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize("path", ["dir/star.rpm", "star.tar.gz", "dir/é b", "star.html.txt"])
def test_headers_are_the_same_before_and_after_the_save(client, mirror, path):
    m = mirror()
    url = m.add(path, 5000, remote_server.chunked if "é" in path else None)
    answers = [client.get(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    cold, saved, again = (answer.headers for answer in answers)
    differ = {"date", "correlation-id", "etag", "content-length", "transfer-encoding"}
    differ |= {"accept-ranges", "x-pulp-artifact-size", "last-modified"}
    assert cold["Cache-Status"] == "pulp; fwd=miss"
    differ.add("cache-status")
    for headers in (saved, again):
        names = {*cold, *headers} - differ
        assert {name: cold.get(name) for name in names} == {
            name: headers.get(name) for name in names
        }
    assert cold["X-Plugin"]


@pytest.mark.parametrize("behaviour", [remote_server.chunked, remote_server.gzip_encoded])
def test_content_encoding_of_the_remote_is_decoded_before_sending_and_saving(
    client, mirror, behaviour
):
    m = mirror()
    path = m.add("a.bin", BIG, behaviour)
    response = client.get(path)
    assert response.status_code == 200
    assert response.content == m.data("a.bin")
    assert "Content-Encoding" not in response.headers
    wait_until(lambda: m.saved("a.bin"))
    assert client.get(path).content == m.data("a.bin")
    assert m.seen("a.bin")[0].headers["Accept-Encoding"] == "identity"


def test_unknown_length_is_streamed_without_etag_and_ranges(client, mirror):
    m = mirror()
    paused = PausedResponse(BIG - 1000, with_length=False)
    path = m.add("a.bin", BIG, paused)
    with client.stream("GET", path, headers={"Range": "bytes=0-9"}) as response:
        assert response.status_code == 200, "the size is not known yet"
        assert {"Content-Length", "ETag", "Accept-Ranges"}.isdisjoint(response.headers)
        chunks = response.iter_raw()
        got = next(chunks)
        paused.release()
        assert got + b"".join(chunks) == m.data("a.bin")
    wait_until(lambda: m.saved("a.bin"))
    assert client.get(path, headers={"Range": "bytes=0-9"}).status_code == 206


def test_range_of_known_size_returns_206_during_the_fetch(client, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000)
    path = m.add("a.bin", BIG, paused)
    response = client.get(path, headers={"Range": "bytes=1000-299999"})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes 1000-299999/{BIG}"
    assert response.content == m.data("a.bin")[1000:300_000]
    paused.release()
    wait_until(lambda: m.saved("a.bin"))
    assert m.gets("a.bin") == 1


def test_redirect_of_the_remote_is_followed(client, mirror):
    m = mirror()
    m.add("elsewhere.bin", 5000)

    async def redirect(request, data):
        raise web.HTTPFound(f"/{m.folder}/elsewhere.bin")

    path = m.add("a.bin", b"", redirect)
    assert client.get(path).content == m.data("elsewhere.bin")
    wait_until(lambda: m.saved("a.bin"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503])
@pytest.mark.parametrize("name", ["a.bin", "index.html"])
def test_error_status_of_the_remote_is_passed_on_without_secrets(client, mirror, own, status, name):
    m = mirror(username="someone", password="do-not-tell")
    path = m.add(name, 5000, remote_server.status(status))
    for method in ("GET", "HEAD"):
        response = client.request(method, path)
        assert response.status_code == status
        assert "127.0.0.1" not in response.text
    assert not m.saved(name)
    assert "do-not-tell" not in own.said()
    assert f"{m.folder}/" not in own.said()


def test_unreachable_remote_returns_502_without_secrets(client, mirror, own):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/secret/", f"https://127.0.0.1:{port}/secret/"):
        m = mirror(url=url)
        assert client.get(f"{m.base}/a.bin").status_code == 502
    m = mirror(url=m.upstream.url.replace("http:", "https:"))
    assert client.get(f"{m.base}/a.bin").status_code == 502
    assert "/secret/" not in own.said()


def test_read_timeout_of_the_remote_returns_504(client, mirror):
    m = mirror(sock_read_timeout=0.2)
    path = m.add("a.bin", BIG, PausedResponse(0))
    assert client.get(path).status_code == 504
    wait_until(lambda: m.upstream.open == 0)


STALLS = {"connect": None, "answer": remote_server.hanging, "body": PausedResponse(1_000_000)}


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("kind", ["on_demand", "streamed", "a.bin", "index.html"])
def test_stalled_remote_ends_at_a_timeout_for_all_clients(
    own, instance, mirror, remote_file, silent, kind, stall
):
    """`kind` is the policy of an on-demand file, or the name of a pull-through file."""
    # Long enough for the part before the stall, on a busy machine.
    read = 2.0 if stall == "body" else 0.3
    limits = {"sock_connect_timeout": 0.3, "sock_read_timeout": read}
    if kind in ("on_demand", "streamed"):
        file = remote_file(BIG, policy=kind, **limits)
        path, server = file.path, file.upstream
        if behaviour := STALLS[stall]:
            file.set_behaviour(behaviour)
        else:
            file.set(url=f"{silent}{file.sources[0]}")
    else:
        m = mirror(**limits, **({} if STALLS[stall] else {"url": silent}))
        path, server = m.add(kind, BIG, STALLS[stall]), m.upstream

    def get() -> int:
        try:
            return httpx.get(own.content_url + path).status_code
        except httpx.RemoteProtocolError:
            return 0

    with ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(get) for _ in range(3)]
        assert {answer.result() for answer in answers} == {0 if stall == "body" else 504}
    wait_until(lambda: server.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_truncated_response_of_the_remote_cuts_ours_and_saves_nothing(client, mirror, instance):
    m = mirror()
    path = m.add("a.bin", BIG, remote_server.truncated(1_500_000))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(path)
    assert not m.saved("a.bin")
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("status", [204, 206, 300, 304])
@pytest.mark.parametrize("name", ["a.bin", "index.html"])
def test_success_status_other_than_200_of_the_remote_returns_502(client, mirror, status, name):
    m = mirror()
    path = m.add(name, 5000, remote_server.status(status))
    for method in ("GET", "HEAD"):
        assert client.request(method, path).status_code == 502
    assert not m.saved(name)


@pytest.mark.parametrize("part", ["bytes 0-99/*", "bytes 0-99/5000", "bytes 100-199/5000"])
def test_partial_content_without_a_range_request_is_not_saved(client, mirror, part):
    m = mirror()

    async def partial_content(request, data):
        return web.Response(status=206, body=data[:100], headers={"Content-Range": part})

    path = m.add("a.bin", 5000, partial_content)
    with contextlib.suppress(httpx.RemoteProtocolError):
        assert client.get(path).status_code == 502
    assert not m.saved("a.bin")


@pytest.mark.parametrize("name", ["a.bin", "index.html"])
@pytest.mark.parametrize("behaviour", [remote_server.plain, remote_server.gzip_encoded])
def test_head_sends_head_to_the_remote_and_saves_nothing(client, mirror, instance, name, behaviour):
    m = mirror()
    path = m.add(name, BIG, behaviour)
    response = client.head(path)
    assert response.status_code == 200
    expected = str(BIG) if behaviour is remote_server.plain else None
    assert response.headers.get("Content-Length") == expected
    assert not m.saved(name)
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("../other/a.bin", 404),
        ("a/%2e%2e/%2e%2e/a.bin", 404),
        ("../..", 400),
        ("..%2f..%2fetc", 400),
        ("a%2f../b", 400),
        ("..%5Ca.bin", 404),
    ],
)
def test_path_with_dot_segments_does_not_leave_the_remote(own, mirror, path, status):
    m = mirror()
    host, port = own.url.removeprefix("http://").split(":")
    before = len(m.upstream.seen)
    with socket.create_connection((host, int(port)), 30) as raw:  # clients resolve dots themselves
        request = f"GET /pulp/content/{m.base}/{path} HTTP/1.0\r\nHost: a\r\n\r\n"
        raw.sendall(request.encode())
        assert b" %d " % status in raw.makefile("rb").readline()
    assert len(m.upstream.seen) == before


def test_path_is_encoded_in_the_url_of_the_remote(client, mirror):
    m = mirror()
    client.get(f"{m.base}/a%3Fb%23c%2541%20d+e%2Ff")
    assert m.upstream.seen[-1].path == f"/{m.folder}/a?b#c%41 d+e/f"
    assert m.upstream.seen[-1].query_string == ""


def test_plugin_makes_the_remote_url_from_path_and_request(client, mirror):
    m = mirror("streamed")
    path = m.add("a.bin", 5000)
    m.add("b.bin", 5000)
    assert client.get(path).content == m.data("a.bin")
    assert client.get(path, params={"instead": "b.bin"}).content == m.data("b.bin")
    assert client.get(path, params={"instead": ""}).status_code == 404


def test_plugin_makes_the_remote_url_of_saved_files_too(client, mirror, orm):
    from pulpcore.app.models import RemoteArtifact

    m = mirror()
    m.add("a.bin", 5000)
    m.add("b.bin", 5000)
    path = f"{orm.distribution(remote=m.remote)}/a.bin"
    assert client.get(path).content == m.data("a.bin")
    wait_until(lambda: m.saved("a.bin"))
    for _ in range(2):
        assert client.get(path).content == m.data("a.bin")
    assert m.gets("a.bin") == 1
    assert client.get(path, params={"instead": "b.bin"}).content == m.data("b.bin")
    wait_until(lambda: RemoteArtifact.objects.filter(remote=m.remote).count() == 2)


def test_plugin_without_pull_through_streams_and_saves_nothing(content, mirror):
    """pulp_file as it is released."""
    m = mirror()
    path = m.add("a.bin", 5000)
    for _ in range(2):
        assert content.get(path).content == m.data("a.bin")
    assert not m.saved("a.bin")


def test_file_url_of_remote_outside_of_allowed_import_paths_returns_502(client, mirror, tmp_path):
    m = mirror(url=f"file://{tmp_path}/")
    (tmp_path / "a.bin").write_bytes(b"from a file")
    response = client.get(f"{m.base}/a.bin")
    assert response.status_code == 502


def test_file_url_of_remote_is_served_and_saved(client, mirror, folder):
    (folder / "remote").mkdir()
    (folder / "secret").write_bytes(b"secret")
    (folder / "remote" / "a.bin").write_bytes(b"from a file")
    m = mirror(url=f"file://{folder}/remote/")
    path = f"{m.base}/a.bin"
    assert client.head(path).status_code == 200
    assert client.get(path).content == b"from a file"
    wait_until(lambda: m.saved("a.bin"))
    (folder / "remote" / "a.bin").unlink()
    assert client.get(path).content == b"from a file"
    assert client.get(f"{m.base}/missing.bin").status_code == 404
    assert client.get(f"{m.base}/%2e%2e%2fsecret").status_code == 400


def test_guard_denies_before_the_remote_is_requested(client, mirror, orm):
    from pulpcore.app.models import Distribution, HeaderContentGuard

    m = mirror()
    path = m.add("index.html", b"guarded")
    guard = orm.guard(HeaderContentGuard, header_name="x-key", header_value="open")
    Distribution.objects.filter(base_path=m.base).update(content_guard=guard)
    assert client.get(path).status_code == 403
    assert m.gets("index.html") == 0
    assert client.get(path, headers={"X-Key": "b3Blbg=="}).content == b"guarded"
    assert client.get(path).status_code == 403


# Metadata


def with_etag(tag: str = '"1"', **headers: str) -> remote_server.Behaviour:
    """Return a behaviour that sends `tag` as ETag, and 304 to `If-None-Match` with it."""

    async def answer(request, data):
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304)
        return web.Response(
            body=data,
            headers={
                "ETag": tag,
                "Content-Type": "application/vnd.index+html",
                "Set-Cookie": "a=b",
                "X-Accel-Redirect": "/secret",
                "X-PyPI-Last-Serial": "7",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )

    return answer


def test_metadata_is_passed_on_with_safe_headers_and_not_saved(client, mirror):
    m = mirror()
    path = m.add("simple/", b"<a>index</a>", with_etag(Cache_Control="max-age=0"))
    response = client.get(path)
    assert response.content == b"<a>index</a>"
    assert response.headers["Content-Type"] == "application/vnd.index+html"
    assert response.headers["X-PyPI-Last-Serial"] == "7"
    assert response.headers["ETag"] == '"1"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in response.headers
    assert "X-Accel-Redirect" not in response.headers
    assert not m.saved("simple/")
    assert client.get(path, headers={"If-None-Match": 'W/"1"'}).status_code == 304


def test_metadata_cache_serves_concurrent_clients_from_one_fetch(own, client, mirror):
    m = mirror()
    path = m.add("index.html", 50_000, with_etag())
    bodies = asyncio.run(gather(own.content_url + path, 100))
    assert set(bodies) == {m.data("index.html")}
    assert client.head(path).headers["Content-Length"] == "50000"
    part = client.get(path, headers={"Range": "bytes=10-19"})
    assert part.content == m.data("index.html")[10:20]
    assert m.gets("index.html") == 1


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"'])
def test_metadata_cache_revalidates_with_if_none_match(client, mirror, tag):
    m = mirror()
    path = m.add("index.html", 50_000, with_etag(tag, Cache_Control="max-age=0"))
    bodies = [client.get(path).content for _ in range(3)]
    assert bodies == [m.data("index.html")] * 3
    asked = [each.headers.get("If-None-Match") for each in m.seen("index.html")]
    assert asked == [None, tag, tag]
    m.add("index.html", b"new", with_etag('"2"', Cache_Control="no-cache"))
    assert client.get(path).content == b"new"
    assert client.get(path).content == b"new"
    assert m.seen("index.html")[-1].headers["If-None-Match"] == '"2"'


def test_metadata_cache_updates_headers_from_304(client, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=60", Age="60", X_Keep="a"))
    assert client.get(path).headers["X-PyPI-Last-Serial"] == "7"

    async def unchanged(request, data):
        assert request.headers["If-None-Match"] == '"1"'
        headers = {"ETag": '"1"', "X-PyPI-Last-Serial": "8", "Cache-Control": "max-age=60"}
        return web.Response(status=304, headers=headers)

    m.set_behaviour("index.html", unchanged)
    for _ in range(3):  # the first one revalidates, the others are cache hits
        answer = client.get(path)
        assert answer.content == m.data("index.html")
        assert answer.headers["X-PyPI-Last-Serial"] == "8"
        assert answer.headers["Content-Type"] == "application/vnd.index+html", "not in the 304"
        assert answer.headers["ETag"] == '"1"'
    assert m.gets("index.html") == 2


def test_metadata_cache_drops_the_entry_on_304_with_no_store(client, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=0"))
    client.get(path)

    async def unchanged(request, data):
        if "If-None-Match" not in request.headers:
            return await remote_server.plain(request, data)
        return web.Response(status=304, headers={"Cache-Control": "no-store"})

    m.set_behaviour("index.html", unchanged)
    answer = client.get(path)
    assert answer.content == m.data("index.html")
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.get(path).content == m.data("index.html")
    assert "If-None-Match" not in m.seen("index.html")[-1].headers


@pytest.mark.parametrize(
    ("expires", "gets"),
    [("0", 3), ("Fri, 01 Jan 2010 00:00:00 GMT", 3), ("Fri, 01 Jan 2100 00:00:00 GMT", 1)],
)
def test_metadata_cache_entry_expires_by_expires_header(client, mirror, expires, gets):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Expires=expires))
    for _ in range(3):
        assert client.get(path).content == m.data("index.html")
    assert m.gets("index.html") == gets


def test_conditional_requests_during_a_metadata_fetch_return_304_and_share_it(client, mirror):
    m = mirror()
    paused = PausedResponse(1_000_000, ETag='"1"')
    path = m.add("index.html", BIG, paused)
    for _ in range(3):
        assert client.get(path, headers={"If-None-Match": '"1"'}).status_code == 304
    paused.release()
    assert client.get(path).content == m.data("index.html")
    assert m.gets("index.html") == 1


def test_metadata_cache_revalidates_with_if_modified_since(client, mirror):
    m = mirror()
    date = "Fri, 01 Jan 2010 00:00:00 GMT"

    async def dated(request, data):
        if request.headers.get("If-Modified-Since") == date:
            return web.Response(status=304)
        headers = {"Last-Modified": date, "Cache-Control": "max-age=0"}
        return web.Response(body=data, headers=headers)

    path = m.add("index.html", 100, dated)
    for _ in range(2):
        response = client.get(path)
        assert response.content == m.data("index.html")
        assert response.headers["Last-Modified"] == date
    assert m.seen("index.html")[-1].headers["If-Modified-Since"] == date


def test_head_of_metadata_has_the_headers_of_get(client, mirror):
    m = mirror()
    dates = ["Fri, 01 Jan 2010 00:00:00 GMT", "Sat, 02 Jan 2010 00:00:00 GMT"]

    def dated(date):
        async def answer(request, data):
            if request.headers.get("If-Modified-Since") == date:
                return web.Response(status=304)
            headers = {"Last-Modified": date, "Cache-Control": "max-age=0"}
            return web.Response(body=data, headers=headers)

        return answer

    path = m.add("index.html", 100, dated(dates[0]))
    assert "ETag" not in client.head(path).headers, "not known before a GET"
    of_get = client.get(path).headers
    assert of_get["ETag"] == etag(m.data("index.html"))
    head = client.head(path).headers
    for name in ("ETag", "Last-Modified", "Content-Length"):
        assert head[name] == of_get[name]
    asked = [each.headers.get("If-Modified-Since") for each in m.seen("index.html")]
    assert asked == [None, None, dates[0]], "revalidates as GET does"
    m.add("index.html", 200, dated(dates[1]))
    head = client.head(path).headers
    assert (head["Last-Modified"], head["Content-Length"]) == (dates[1], "200")
    m.set_behaviour("index.html", remote_server.status(404))
    assert [client.request(method, path).status_code for method in ("HEAD", "GET")] == [404, 404]


@pytest.mark.parametrize(
    ("behaviour", "is_forbidden"),
    [
        (remote_server.plain, False),
        (with_etag(Vary="*"), False),
        (with_etag(Cache_Control="no-store"), True),
        (with_etag(Cache_Control="private, max-age=60"), True),
    ],
    ids=["no validators", "vary", "no-store", "private"],
)
def test_metadata_that_must_not_be_cached_is_fetched_each_time(
    client, mirror, behaviour, is_forbidden
):
    m = mirror()
    path = m.add("index.html", 100, behaviour)
    for _ in range(2):
        response = client.get(path)
        assert response.content == m.data("index.html")
        assert ("no-store" in response.headers["Cache-Control"]) == is_forbidden
    assert m.gets("index.html") == 2
    assert "If-None-Match" not in m.seen("index.html")[-1].headers


def test_metadata_cache_serves_stale_entry_on_remote_error(client, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=0"))
    assert client.get(path).status_code == 200
    m.set_behaviour("index.html", remote_server.status(500))
    assert client.head(path).headers["ETag"] == '"1"'
    assert client.get(path).content == m.data("index.html")
    m.set_behaviour("index.html", with_etag(Cache_Control="max-age=0"))
    assert client.get(path).content == m.data("index.html")


def test_metadata_cache_serves_stale_entry_on_remote_timeout(client, mirror):
    m = mirror(sock_read_timeout=0.3)
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=0"))
    assert client.get(path).status_code == 200
    m.set_behaviour("index.html", remote_server.hanging)
    assert client.get(path).content == m.data("index.html")
    wait_until(lambda: m.upstream.open == 0)


def test_metadata_cache_with_ttl_0_revalidates_each_time(instance, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag())
    with serving(instance, PULP_CONTENT_STAR_METADATA_TTL="0") as strict:
        for _ in range(3):
            answer = httpx.get(strict.content_url + path)
            assert answer.content == m.data("index.html")
    asked = [each.headers.get("If-None-Match") for each in m.seen("index.html")]
    assert asked == [None, '"1"', '"1"']


def test_metadata_cache_drops_the_entry_on_404(client, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=0"))
    assert client.get(path).status_code == 200
    m.set_behaviour("index.html", remote_server.status(404))
    assert client.get(path).status_code == 404
    m.set_behaviour("index.html", remote_server.status(500))
    assert client.get(path).status_code == 500, "no stale entry is left"


def test_metadata_cache_with_must_revalidate_serves_no_stale_entry(client, mirror):
    m = mirror()
    path = m.add("index.html", 100, with_etag(Cache_Control="max-age=0, must-revalidate"))
    assert client.get(path).status_code == 200
    m.set_behaviour("index.html", remote_server.status(500))
    assert client.get(path).status_code == 500


def test_metadata_cache_is_separate_for_changed_credentials(client, mirror):
    m = mirror(username="one", password="1")

    async def by_user(request, data):
        return web.Response(text=request.headers["Authorization"], headers={"ETag": '"1"'})

    path = m.add("index.html", b"", by_user)
    first = client.get(path).text
    assert client.get(path).text == first
    m.remote.username = "two"
    m.remote.save()
    assert client.get(path).text != first
    assert "If-None-Match" not in m.seen("index.html")[-1].headers


@pytest.mark.parametrize("name", ["a.bin", "index.html"])
def test_remotes_with_the_same_url_share_neither_cache_nor_saved_files(client, mirror, name):
    """Their credentials differ, and therefore what they may serve."""

    async def by_user(request, data):
        user = request.headers.get("Authorization")
        if user is None:
            return web.Response(status=401)
        return web.Response(text=user, headers={"ETag": '"1"'})

    one, two = mirror(username="one", password="1"), mirror(username="two", password="2")
    none = mirror()
    path = one.add(name, b"", by_user)
    for each in (two, none):
        each.remote.url = one.remote.url
        each.remote.save()
    answers = [client.get(f"{each.base}/{name}") for each in (one, two, none)]
    if name == "a.bin":
        wait_until(lambda: one.saved(name) and two.saved(name))
    answers += [client.get(f"{each.base}/{name}") for each in (one, two, none)]
    assert [answer.status_code for answer in answers] == [200, 200, 401] * 2
    assert answers[0].text == answers[3].text == client.get(path).text
    assert answers[1].text == answers[4].text != answers[0].text


@pytest.mark.parametrize("name", ["a.bin", "index.html"])
def test_guard_denies_files_fetched_by_an_unguarded_distribution(client, mirror, orm, name):
    from pulpcore.app.models import HeaderContentGuard

    m = mirror()
    path = m.add(name, b"data", with_etag())
    guard = orm.guard(HeaderContentGuard, header_name="x-key", header_value="open")
    guarded = orm.distribution(from_publication=False, remote=m.remote, content_guard=guard)
    assert client.get(path).content == b"data"
    if name == "a.bin":
        wait_until(lambda: m.saved(name))
    for headers in ({}, {"If-None-Match": "*"}, {"If-None-Match": '"1"'}, {"Range": "bytes=0-1"}):
        for method in ("GET", "HEAD"):
            answer = client.request(method, f"{guarded}/{name}", headers=headers)
            assert answer.status_code == 403
            assert "ETag" not in answer.headers
    allowed = client.get(f"{guarded}/{name}", headers={"X-Key": "b3Blbg=="})
    assert allowed.content == b"data"
    assert "max-age=0" in allowed.headers["Cache-Control"], "shared caches revalidate"
    assert m.gets(name) == 1


def test_headers_of_the_remote_that_are_invalid_are_dropped(client, mirror):
    m = mirror()

    async def odd(request, data):
        response = web.Response(body=data, headers={"ETag": "x", "Link": "caf\u00e9 \u2192"})
        response.content_type = "text/odd"
        return response

    path = m.add("index.html", 100, odd)
    for _ in range(2):
        response = client.get(path)
        assert response.content == m.data("index.html")
        assert response.headers["Content-Type"] == "text/odd"
        assert "Link" not in response.headers
        assert response.headers["ETag"] != "x"


def test_metadata_cache_size_is_bounded(instance, mirror):
    m = mirror()
    paths = [m.add(f"{index}.html", 100, with_etag()) for index in range(6)]
    large = m.add("large.html", 113, with_etag())  # over a quarter of the cache size
    with serving(instance, PULP_CONTENT_STAR_METADATA_SIZE="450") as limited:
        for path in [*paths, paths[5], paths[0], large, large]:
            assert httpx.get(limited.content_url + path).status_code == 200
    assert m.gets("5.html") == 1
    assert m.gets("0.html") == 2, "evicted"
    assert m.gets("large.html") == 2
