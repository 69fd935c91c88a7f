"""On-demand content: fetched from remotes that fail, stall and lie, streamed and saved."""

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from django.conf import settings
from django.utils import timezone
from starlette.responses import PlainTextResponse

from pulpcore.content_star.responses.source import CHUNK_SIZE
from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.pulp import API, Pulp, unique
from tests.support.remote_files import spooled
from tests.support.remote_server import PausedResponse, Upstream
from tests.support.resources import get_with_resources
from tests.support.server import Server, serving

BIG = 3_000_000
HUGE = 30_000_000


@dataclass
class Mirror:
    """An on-demand file, and its path on the remote server."""

    path: str
    """Below the root of the content app."""

    source: str
    """Below the root of the server."""

    upstream: Upstream

    @property
    def data(self) -> bytes:
        return self.upstream.files[self.source]

    @property
    def gets(self) -> int:
        return self.upstream.gets[self.source]

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()}"'

    def set_behaviour(self, behaviour: remote_server.Behaviour) -> None:
        self.upstream.behaviours[self.source] = behaviour


@pytest.fixture(scope="module")
def mirrors(instance, server: Upstream) -> Iterator[Callable[[int, str], Mirror]]:
    """Return a function that hands out unused files, synced once for the module."""
    pulp = instance.pulp()
    repositories = {
        policy: SyncedRepository(pulp, server, policy) for policy in ("on_demand", "streamed")
    }
    yield lambda size, policy: repositories[policy].take(size)
    pulp.cleanup()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory in ALLOWED_IMPORT_PATHS, which remotes with file:// URLs may read."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def own(instance, folder) -> Iterator[Server]:
    """A server for this module, for tests that read its log."""
    with serving(instance, PULP_ALLOWED_IMPORT_PATHS=f'["{folder}"]') as running:
        yield running


@pytest.fixture
def mirror(mirrors, orm) -> Callable[..., Mirror]:
    """Return a function that takes an on-demand file, whose remote retries once."""

    def take(size: int, policy: str = "on_demand") -> Mirror:
        from pulpcore.app.models import ContentArtifact

        taken = mirrors(size, policy)
        # Another test may have saved the artifact of an empty file.
        known = ContentArtifact.objects.filter(remoteartifact__in=remote_artifacts(taken))
        known.update(artifact=None)
        return taken

    return take


class SyncedRepository:
    """A repository of many on-demand files, synced from the remote server; each is taken once."""

    SIZES: ClassVar = {
        "on_demand": {0: 1, 1: 1, 5000: 30, 400_000: 9, BIG: 18, HUGE: 2},
        "streamed": {BIG: 6},
    }

    def __init__(self, pulp: Pulp, server: Upstream, policy: str) -> None:
        folder = unique("mirror")
        self._server = server
        self._left: dict[int, list[str]] = {}
        for size, count in self.SIZES[policy].items():
            self._left[size] = [f"{folder}/{size}-{index}" for index in range(count)]
            for path in self._left[size]:
                server.files[path] = random.randbytes(size)
        lines = server.manifest(*(path for paths in self._left.values() for path in paths))
        server.files[f"{folder}/PULP_MANIFEST"] = lines.replace(f"{folder}/".encode(), b"")
        remote = pulp.create(
            "remotes/file/file/",
            name=unique("remote"),
            url=f"{server.url}{folder}/PULP_MANIFEST",
            policy=policy,
            max_retries=1,
        )
        repository = pulp.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        pulp.task(pulp.http.post(f"{repository}sync/", json=sync))
        self._base = pulp.distribute(repository=repository)

    def take(self, size: int) -> Mirror:
        path = self._left[size].pop()
        return Mirror(f"{self._base}/{path.rpartition('/')[2]}", path, self._server)


def remote_artifacts(mirror: Mirror):
    from pulpcore.app.models import RemoteArtifact

    return RemoteArtifact.objects.filter(url__endswith=mirror.source)


def saved(mirror: Mirror) -> bool:
    from pulpcore.app.models import ContentArtifact

    return ContentArtifact.objects.filter(
        remoteartifact__in=remote_artifacts(mirror), artifact__isnull=False
    ).exists()


def read_cut_response(content: httpx.Client, path: str) -> bytes:
    """GET `path`, whose response must be cut, and return the bytes that were received."""
    got = b""
    with pytest.raises(httpx.RemoteProtocolError), content.stream("GET", path) as response:
        assert response.status_code == 200
        for chunk in response.iter_raw():
            got += chunk
    return got


@pytest.mark.parametrize("size", [0, 1, 5000, BIG])
def test_on_demand_file_is_fetched_served_and_saved(content, mirror, instance, size):
    m = mirror(size)
    first = content.get(m.path)
    assert first.status_code == 200
    assert first.content == m.data
    assert first.headers["ETag"] == m.etag
    assert first.headers["Content-Length"] == str(size)
    assert first.headers["Content-Type"] == "application/octet-stream"
    wait_until(lambda: saved(m))
    again = content.get(m.path)
    assert again.content == m.data
    assert m.gets == 1
    volatile = {"date", "correlation-id", "cache-status"}
    assert {k: v for k, v in first.headers.items() if k not in volatile} == {
        k: v for k, v in again.headers.items() if k not in volatile
    }
    wait_until(lambda: spooled(instance) == [])


def test_streamed_file_is_served_and_not_saved(content, mirror, instance):
    m = mirror(BIG, policy="streamed")
    assert content.get(m.path).content == m.data
    assert content.get(m.path).content == m.data
    assert m.gets == 2
    assert not saved(m)
    wait_until(lambda: spooled(instance) == [])


def test_hundred_clients_of_one_file_cause_one_fetch(instance, mirror):
    m = mirror(BIG)
    paused = PausedResponse(1_000_000)
    m.set_behaviour(paused)

    async def get_all() -> list[bytes]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits) as client:
            url = instance.content_url + m.path
            started = 0

            async def get() -> bytes:
                nonlocal started
                async with client.stream("GET", url) as response:
                    started += 1
                    if started == 100:
                        paused.release()
                    return await response.aread()

            return await asyncio.gather(*(get() for _ in range(100)))

    for body in asyncio.run(get_all()):
        assert body == m.data
    assert m.gets == 1


def test_small_file_requested_by_hundred_clients_is_fetched_once(instance, mirror):
    m = mirror(5000)

    async def get_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits) as client:
            url = instance.content_url + m.path
            return await asyncio.gather(*(client.get(url) for _ in range(100)))

    assert {response.content for response in asyncio.run(get_all())} == {m.data}
    assert m.gets == 1


def test_file_saved_after_the_lookup_is_served_from_storage(content, mirror, orm):
    from pulpcore.content_star.remote.on_demand import on_demand_request
    from pulpcore.content_star.remote.response import OnDemandResponse

    m = mirror(5000)
    known = remote_artifacts(m).get().content_artifact
    file = on_demand_request(known, known.content.pulp_domain)
    assert content.get(m.path).content == m.data
    wait_until(lambda: saved(m))
    late = OnDemandResponse(
        file, lambda: PlainTextResponse("saved"), filename="f", last_modified=None, headers={}
    )
    assert get_with_resources(late, "/").text == "saved"
    assert m.gets == 1


def test_client_disconnect_of_the_first_client_keeps_the_fetch_for_others(content, mirror):
    m = mirror(BIG)
    paused = PausedResponse(1_000_000)
    m.set_behaviour(paused)
    with content.stream("GET", m.path) as first:
        next(first.iter_raw(1))
    with content.stream("GET", m.path) as second:
        paused.release()
        assert second.read() == m.data
    wait_until(lambda: saved(m))
    assert m.gets == 1


def test_client_disconnect_of_all_clients_does_not_stop_saving(content, mirror):
    m = mirror(BIG)
    paused = PausedResponse(1_000_000)
    m.set_behaviour(paused)
    with content.stream("GET", m.path) as only:
        next(only.iter_raw(1))
    paused.release()
    wait_until(lambda: saved(m))


def test_client_disconnect_of_all_clients_ends_a_streamed_fetch(content, mirror, instance):
    m = mirror(BIG, policy="streamed")
    m.set_behaviour(PausedResponse(1_000_000))
    with content.stream("GET", m.path) as only:
        next(only.iter_raw(1))
    wait_until(lambda: m.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_client_disconnect_before_the_first_byte_ends_a_streamed_fetch(content, mirror):
    m = mirror(BIG, policy="streamed")
    m.set_behaviour(PausedResponse(0))
    url = content.base_url.join(m.path)
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(f"GET {url.path} HTTP/1.1\r\nHost: pulp\r\n\r\n".encode())
        wait_until(lambda: m.upstream.open)
    wait_until(lambda: not m.upstream.open)
    assert m.gets == 1


def test_slow_client_delays_neither_other_clients_nor_saving(content, mirror):
    m = mirror(HUGE)
    with content.stream("GET", m.path) as slow:
        chunks = slow.iter_raw()
        got = next(chunks)
        assert content.get(m.path).content == m.data
        wait_until(lambda: saved(m))
        assert got + b"".join(chunks) == m.data
    assert m.gets == 1


@pytest.mark.parametrize("size", [5000, BIG])
@pytest.mark.parametrize(
    "behaviour", [remote_server.wrong_bytes, remote_server.too_long], ids=["wrong", "too long"]
)
def test_digest_mismatch_cuts_the_response_and_saves_nothing(
    content, mirror, instance, behaviour, size
):
    m = mirror(size)
    m.set_behaviour(behaviour)
    if size == BIG:
        assert len(read_cut_response(content, m.path)) < size
    else:
        assert content.get(m.path).status_code == 502
    wait_until(lambda: remote_artifacts(m).get().failed_at is not None)
    assert not saved(m)
    wait_until(lambda: spooled(instance) == [])
    assert content.get(m.path).status_code == 502, "no second request during the cooldown"
    assert m.gets == 1


def truncate_once(m, behaviour):
    """Truncate the remote's next response, and set its behaviour for those after it."""

    async def once(request, data):
        m.set_behaviour(behaviour)
        return await remote_server.truncated(1_000_000)(request, data)

    m.set_behaviour(once)


def test_truncated_download_is_resumed_by_a_retry(content, mirror):
    m = mirror(BIG)
    truncate_once(m, remote_server.plain)
    assert content.get(m.path).content == m.data
    assert m.gets == 2
    wait_until(lambda: saved(m))


def test_truncated_download_is_resumed_from_another_remote(content, mirror):
    m = mirror(BIG)
    other = second_source(m)
    m.set_behaviour(remote_server.truncated(1_000_000))
    other.set_behaviour(remote_server.truncated(1_000_000))
    plain_one = second_source(m)
    assert content.get(m.path).content == m.data
    assert plain_one.gets == 1


def test_resumed_download_requests_a_range_from_the_remote(content, mirror):
    m = mirror(BIG)
    truncate_once(m, remote_server.ranges)
    assert content.get(m.path).content == m.data
    start = int(m.upstream.seen[-1].headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_000_000
    wait_until(lambda: saved(m))


def test_resumed_download_of_a_changed_file_is_not_served_whole(content, mirror):
    m = mirror(BIG)

    async def once(request, data):
        m.upstream.files[m.source] = random.randbytes(BIG)
        m.set_behaviour(remote_server.ranges)
        return await remote_server.truncated(1_000_000)(request, data)

    m.set_behaviour(once)
    assert len(read_cut_response(content, m.path)) < BIG
    wait_until(lambda: remote_artifacts(m).get().failed_at is not None)
    assert not saved(m)


@pytest.mark.parametrize("code", [403, 404, 500])
def test_remote_error_status_fails_over_to_the_next_remote(content, mirror, code):
    m = mirror(5000)
    m.set_behaviour(remote_server.status(code))
    other = second_source(m)
    assert content.get(m.path).content == m.data
    assert other.gets == 1


def test_unreachable_remote_fails_over_to_the_next_remote(content, mirror):
    m = mirror(5000)
    other = second_source(m)
    remote_artifacts(m).update(url=f"http://127.0.0.1:9/{m.source}")
    assert content.get(m.path).content == m.data
    assert other.gets == 1


def test_failure_of_all_remotes_returns_502_without_secrets(own, mirror):
    m = mirror(5000)
    m.set_behaviour(remote_server.status(500))
    remote_artifacts(m).update(url=f"{m.upstream.url}{m.source}?signature=s3cr3t")
    response = httpx.get(own.content_url + m.path)
    assert response.status_code == 502
    assert "s3cr3t" not in own.said() + response.text
    assert "500" in own.said()


@pytest.mark.parametrize("code", [401, 403])
def test_remote_credentials_that_are_refused_are_not_logged(own, mirror, code):
    m = mirror(5000)
    m.set_behaviour(remote_server.status(code))
    other = second_source(m)
    other.set_behaviour(remote_server.status(code))
    remote = remote_artifacts(other).get().remote.cast()
    remote.username, remote.password = "some-user", "some-password"
    remote.headers = [{"X-Key": "some-key"}]
    remote.save()
    response = httpx.get(own.content_url + m.path)
    assert response.status_code == 502
    assert m.upstream.seen[-1].headers["X-Key"] == "some-key"
    basic = httpx.BasicAuth("some-user", "some-password")._auth_header.split()[1]
    for secret in ("some-user", "some-password", "some-key", basic, m.upstream.url):
        assert secret not in own.said() + response.text + str(response.headers)
    assert str(code) in own.said()


def test_failed_remote_is_tried_again_after_its_cooldown(content, mirror):
    m = mirror(5000)
    cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
    remote_artifacts(m).update(failed_at=timezone.now() - cooldown / 2)
    assert content.get(m.path).status_code == 502
    assert m.gets == 0
    remote_artifacts(m).update(failed_at=timezone.now() - 2 * cooldown)
    assert content.get(m.path).content == m.data


def second_source(mirror: Mirror) -> Mirror:
    """Add a remote with the same file, which is tried after the existing ones."""
    from pulp_file.app.models import FileRemote

    from pulpcore.app.models import RemoteArtifact

    known = RemoteArtifact.objects.filter(url__endswith=mirror.source).get()
    path = f"{unique('second')}/file"
    mirror.upstream.files[path] = mirror.data
    remote = FileRemote(name=unique("second"), url=mirror.upstream.url, policy="on_demand")
    remote.max_retries = 0
    remote.save()
    RemoteArtifact.objects.create(
        content_artifact=known.content_artifact,
        remote=remote,
        url=mirror.upstream.url + path,
        sha256=known.sha256,
        size=known.size,
    )
    return Mirror(mirror.path, path, mirror.upstream)


def test_alternate_content_source_is_tried_first(content, mirror):
    from pulp_file.app.models import FileAlternateContentSource

    m = mirror(5000)
    other = second_source(m)
    acs = FileAlternateContentSource.objects.create(
        name=unique("acs"), remote=remote_artifacts(other).get().remote
    )
    try:
        assert content.get(m.path).content == m.data
        assert (m.gets, other.gets) == (0, 1)
    finally:
        acs.delete()


def test_remote_receives_its_own_credentials_and_headers(content, mirror):
    m = mirror(5000)
    remote_artifacts(m).update(failed_at=timezone.now())
    other = second_source(m)
    remote = remote_artifacts(other).get().remote.cast()
    remote.username, remote.password, remote.headers = "somebody", "secret", [{"X-Key": "value"}]
    remote.save()
    assert content.get(m.path).content == m.data
    assert m.gets == 0
    request = m.upstream.seen[-1]
    assert request.headers["Authorization"] == httpx.BasicAuth("somebody", "secret")._auth_header
    assert request.headers["X-Key"] == "value"


def set_file_url(mirror: Mirror, folder: Path, data: bytes) -> Path:
    """Write `data` below `folder` and make it the file:// URL of the remote artifact."""
    file = folder / mirror.source
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    remote_artifacts(mirror).update(url=f"file://{file}")
    return file


def test_file_url_of_remote_is_read_and_saved(own, mirror, folder):
    m = mirror(5000)
    file = set_file_url(m, folder, m.data)
    part = {"Range": "bytes=1000-1999"}
    get = partial(httpx.get, own.content_url + m.path)
    assert get(headers=part).content == m.data[1000:2000]
    wait_until(lambda: saved(m))
    file.unlink()
    assert get().content == m.data


def test_file_url_of_remote_with_digest_mismatch_returns_502(own, mirror, folder):
    m = mirror(5000)
    set_file_url(m, folder, random.randbytes(5000))
    assert httpx.get(own.content_url + m.path).status_code == 502
    assert remote_artifacts(m).get().failed_at
    assert not saved(m)


def test_on_demand_file_of_a_domain_is_saved_in_its_storage(domains, server, orm, tmp_path):
    from pulp_file.app.models import FileContent, FileRemote

    from pulpcore.app.contexts import with_domain
    from pulpcore.app.models import Content, ContentArtifact, RemoteArtifact

    data = random.randbytes(5000)
    server.files["domain/file"] = data
    digest = hashlib.sha256(data).hexdigest()
    domain = orm.domain(location=str(tmp_path))
    with with_domain(domain):
        unit = FileContent.objects.create(relative_path="file", digest=digest)
        known = ContentArtifact.objects.create(content=unit, relative_path="file")
        remote = FileRemote.objects.create(name=unique("remote"), url=server.url)
        url = f"{server.url}domain/file"
        RemoteArtifact.objects.create(
            content_artifact=known, remote=remote, url=url, sha256=digest, size=5000
        )
        version = orm.version({})
        with version.repository.cast().new_version() as version:
            version.add_content(Content.objects.filter(pk=unit.pk))
        base = orm.distribution(from_publication=False, repository_version=version)
        address = f"{domains.content_url}{domain.name}/{base}/file"
        assert httpx.get(address).content == data
        wait_until(lambda: ContentArtifact.objects.get(pk=known.pk).artifact)
        stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert stored == [data]
        orm.cleanup()
        artifact = ContentArtifact.objects.get(pk=known.pk).artifact
        unit.delete()
        artifact.delete()
        remote.delete()
        domain.delete()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_bytes_of_a_slow_remote_are_sent_before_a_whole_chunk_has_arrived(content, mirror, size):
    m = mirror(BIG)
    paused = PausedResponse(size)
    m.set_behaviour(paused)
    with content.stream("GET", m.path) as response:
        body = response.iter_raw()
        received = b""
        while len(received) < size:
            received += next(body)
        assert received == m.data[:size]
        paused.release()
        assert received + b"".join(body) == m.data


def test_range_during_the_fetch_returns_206_and_the_file_is_saved(content, mirror):
    m = mirror(BIG)
    paused = PausedResponse(1_000_000)
    m.set_behaviour(paused)
    response = content.get(m.path, headers={"Range": "bytes=1000-299999"})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes 1000-299999/{BIG}"
    assert response.content == m.data[1000:300_000]
    paused.release()
    tail = content.get(m.path, headers={"Range": "bytes=-500"})
    assert tail.content == m.data[-500:]
    wait_until(lambda: saved(m))
    assert m.gets == 1


def test_on_demand_file_is_sent_without_copying_while_it_is_fetched(instance, mirror):
    """Bytes that have arrived are sent by the kernel; the last one is withheld until the end."""
    root = str(Path(__file__).parents[2])
    app = "tests.support.sendfile_counts_app:application"
    with serving(instance, app=app, PYTHONPATH=root) as server:

        def sent() -> int:
            return int(httpx.get(f"{server.url}/sendfile-bytes").text)

        file = mirror(HUGE, "on_demand")
        behaviour = PausedResponse(HUGE // 2)
        file.set_behaviour(behaviour)
        with httpx.stream("GET", server.content_url + file.path) as response:
            body = response.iter_raw()
            received = next(body)
            while len(received) < HUGE // 2:
                received += next(body)
            assert sent() >= HUGE // 4, "sent before the rest has arrived"
            behaviour.release()
            received += b"".join(body)
        assert received == file.data
        # The first and the last bytes are read and copied: less than a chunk each.
        assert sent() > HUGE - 2 * CHUNK_SIZE


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"If-None-Match": "{etag}"}, 304),
        ("GET", {"If-Match": '"other"'}, 412),
        ("GET", {"Range": "bytes=5000-"}, 416),
    ],
)
def test_head_and_conditional_requests_fetch_nothing(content, mirror, method, headers, status):
    m = mirror(5000)
    values = {name: value.format(etag=m.etag) for name, value in headers.items()}
    response = content.request(method, m.path, headers=values)
    assert response.status_code == status
    assert m.gets == 0
    if method == "HEAD":
        assert response.headers["Content-Length"] == "5000"
        assert response.headers["ETag"] == m.etag
    assert response.headers["Cache-Status"] == "pulp; fwd=miss"


def test_cache_status_says_whether_a_file_comes_from_a_remote(content, mirror, instance):
    m = mirror(5000)
    assert content.get(m.path).headers["Cache-Status"] == "pulp; fwd=miss"
    wait_until(lambda: saved(m))
    assert "Cache-Status" not in content.get(m.path).headers


@pytest.mark.parametrize(
    "behaviour", [remote_server.plain, remote_server.chunked, remote_server.gzip_encoded]
)
@pytest.mark.parametrize("unknown", ["size", "sha256", "size sha256"])
def test_unknown_size_or_digest_is_computed_by_the_fetch(content, mirror, unknown, behaviour):
    m = mirror(400_000)
    m.set_behaviour(behaviour)
    remote_artifacts(m).update(**dict.fromkeys(unknown.split()))
    response = content.get(m.path, headers={"Range": "bytes=100-"})
    assert response.status_code == 206
    assert response.content == m.data[100:]
    assert response.headers.get("ETag") in ({m.etag, None} if "sha256" in unknown else {m.etag})
    assert m.upstream.seen[-1].headers["Accept-Encoding"] == "identity"
    wait_until(lambda: saved(m))
    assert m.gets == 1


def test_existing_artifact_is_used_for_a_fetched_file(content, mirror, pulp):
    from pulpcore.app.models import Artifact

    m = mirror(5000)
    pulp.http.post(f"{API}artifacts/", files={"file": m.data}).raise_for_status()
    assert content.get(m.path).content == m.data
    wait_until(lambda: saved(m))
    assert Artifact.objects.filter(sha256=m.etag.strip('"')).count() == 1


@pytest.mark.parametrize("policy", ["on_demand", "streamed"])
def test_shutdown_during_a_fetch_leaves_no_temporary_file(instance, mirror, policy):
    m = mirror(BIG, policy=policy)
    m.set_behaviour(PausedResponse(1_000_000))
    with serving(instance, "--timeout-graceful-shutdown", "1") as own:
        with httpx.stream("GET", own.content_url + m.path) as response:
            next(response.iter_raw(1))
            own.process.terminate()
            own.process.wait(300)
        assert "Traceback" not in own.said().replace("CancelledError", "")
    wait_until(lambda: spooled(instance) == [])
    wait_until(lambda: m.upstream.open == 0)
