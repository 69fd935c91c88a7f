"""Content that is not in Pulp yet, fetched from a server that does not always behave."""

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

from pulpcore.content_star.database.executor import DatabaseExecutor
from tests.support import remote_server as behave
from tests.support.asgi import get
from tests.support.instance import wait_until
from tests.support.pulp import API, Pulp, unique
from tests.support.remote_server import Held, Upstream
from tests.support.server import Server, serving

BIG = 3_000_000
HUGE = 30_000_000


@dataclass
class Mirror:
    """A file of the server that Pulp knows and has not saved."""

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

    def behave(self, behaviour: behave.Behaviour) -> None:
        self.upstream.behaviours[self.source] = behaviour


@pytest.fixture(scope="module")
def mirrors(instance, server: Upstream) -> Iterator[Callable[[int, str], Mirror]]:
    """Hand out files that no other test has; syncing once is what takes time."""
    pulp = instance.pulp()
    stock = {policy: Stock(pulp, server, policy) for policy in ("on_demand", "streamed")}
    yield lambda size, policy: stock[policy].take(size)
    pulp.cleanup()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What remotes of files may read."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def own(instance, folder) -> Iterator[Server]:
    """A server whose log can be read."""
    with serving(instance, PULP_ALLOWED_IMPORT_PATHS=f'["{folder}"]') as running:
        yield running


@pytest.fixture
def mirror(mirrors, orm) -> Callable[..., Mirror]:
    """A file of so many bytes in a repository whose remote has the policy and one retry."""

    def take(size: int, policy: str = "on_demand") -> Mirror:
        from pulpcore.app.models import ContentArtifact

        taken = mirrors(size, policy)
        # Of so few bytes as none, another test may have an artifact.
        known = ContentArtifact.objects.filter(remoteartifact__in=remote_artifacts(taken))
        known.update(artifact=None)
        return taken

    return take


class Stock:
    """A repository with many files, synced from the server, for tests to take one each."""

    SIZES: ClassVar = {
        "on_demand": {0: 1, 1: 1, 5000: 30, 400_000: 9, BIG: 18, HUGE: 1},
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


def spooled(instance) -> list[str]:
    """Temporary files of downloads."""
    return [path.name for path in Path(instance.state.working_directory).glob("content-*")]


def broken(content: httpx.Client, path: str) -> bytes:
    """GET a response that is cut, and return what came of it."""
    got = b""
    with pytest.raises(httpx.RemoteProtocolError), content.stream("GET", path) as response:
        assert response.status_code == 200
        for chunk in response.iter_raw():
            got += chunk
    return got


@pytest.mark.parametrize("size", [0, 1, 5000, BIG])
def test_a_file_is_fetched_served_and_saved(content, mirror, instance, size):
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
    volatile = {"date", "correlation-id"}
    assert {k: v for k, v in first.headers.items() if k not in volatile} == {
        k: v for k, v in again.headers.items() if k not in volatile
    }
    wait_until(lambda: spooled(instance) == [])


def test_streamed_files_are_served_and_not_saved(content, mirror, instance):
    m = mirror(BIG, policy="streamed")
    assert content.get(m.path).content == m.data
    assert content.get(m.path).content == m.data
    assert m.gets == 2
    assert not saved(m)
    wait_until(lambda: spooled(instance) == [])


def test_a_hundred_clients_cause_one_fetch(instance, mirror):
    m = mirror(BIG)
    held = Held(1_000_000)
    m.behave(held)

    async def get_all() -> list[bytes]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:
            url = instance.content_url + m.path
            started = 0

            async def get() -> bytes:
                nonlocal started
                async with client.stream("GET", url) as response:
                    started += 1
                    if started == 100:
                        held.release()
                    return await response.aread()

            return await asyncio.gather(*(get() for _ in range(100)))

    for body in asyncio.run(get_all()):
        assert body == m.data
    assert m.gets == 1


def test_latecomers_do_not_fetch_again_what_has_been_saved_meanwhile(instance, mirror):
    m = mirror(5000)

    async def get_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:
            url = instance.content_url + m.path
            return await asyncio.gather(*(client.get(url) for _ in range(100)))

    assert {response.content for response in asyncio.run(get_all())} == {m.data}
    assert m.gets == 1


def test_what_has_been_saved_since_it_was_looked_up_is_looked_up_again(content, mirror, orm):
    from pulpcore.content_star.remote.downloads import downloads
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

    async def app(scope, receive, send):
        async with downloads(executor):
            await late(scope, receive, send)

    executor = DatabaseExecutor(1)
    try:
        assert get(app, "/").text == "saved"
    finally:
        asyncio.run(executor.close())
    assert m.gets == 1


def test_the_first_client_may_leave(content, mirror):
    m = mirror(BIG)
    held = Held(1_000_000)
    m.behave(held)
    with content.stream("GET", m.path) as first:
        next(first.iter_raw(1))
    with content.stream("GET", m.path) as second:
        held.release()
        assert second.read() == m.data
    wait_until(lambda: saved(m))
    assert m.gets == 1


def test_a_fetch_goes_on_to_be_saved_when_all_have_left(content, mirror):
    m = mirror(BIG)
    held = Held(1_000_000)
    m.behave(held)
    with content.stream("GET", m.path) as only:
        next(only.iter_raw(1))
    held.release()
    wait_until(lambda: saved(m))


def test_a_fetch_that_nobody_waits_for_and_nobody_saves_ends(content, mirror, instance):
    m = mirror(BIG, policy="streamed")
    m.behave(Held(1_000_000))
    with content.stream("GET", m.path) as only:
        next(only.iter_raw(1))
    wait_until(lambda: m.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


def test_who_leaves_before_the_first_byte_is_not_waited_for(content, mirror):
    m = mirror(BIG, policy="streamed")
    m.behave(Held(0))
    url = content.base_url.join(m.path)
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(f"GET {url.path} HTTP/1.1\r\nHost: pulp\r\n\r\n".encode())
        wait_until(lambda: m.upstream.open)
    wait_until(lambda: not m.upstream.open)
    assert m.gets == 1


def test_a_slow_client_does_not_hold_up_others_nor_saving(content, mirror):
    m = mirror(HUGE)
    with content.stream("GET", m.path) as slow:
        chunks = slow.iter_raw()
        got = next(chunks)
        assert content.get(m.path).content == m.data
        wait_until(lambda: saved(m))
        assert got + b"".join(chunks) == m.data
    assert m.gets == 1


@pytest.mark.parametrize("size", [5000, BIG])
@pytest.mark.parametrize("behaviour", [behave.wrong, behave.too_long], ids=["wrong", "too long"])
def test_wrong_bytes_are_never_served_whole(content, mirror, instance, behaviour, size):
    m = mirror(size)
    m.behave(behaviour)
    if size == BIG:
        assert len(broken(content, m.path)) < size
    else:
        assert content.get(m.path).status_code == 502
    wait_until(lambda: remote_artifacts(m).get().failed_at is not None)
    assert not saved(m)
    wait_until(lambda: spooled(instance) == [])
    assert content.get(m.path).status_code == 502, "it is not asked again so soon"
    assert m.gets == 1


def test_a_truncated_file_is_gone_on_with_by_trying_again(content, mirror):
    m = mirror(BIG)

    async def once(request, data):
        m.behave(behave.plain)
        return await behave.truncated(1_000_000)(request, data)

    m.behave(once)
    assert content.get(m.path).content == m.data
    assert m.gets == 2
    wait_until(lambda: saved(m))


def test_another_remote_goes_on_where_one_broke(content, mirror):
    m = mirror(BIG)
    other = second_source(m)
    m.behave(behave.truncated(1_000_000))
    other.behave(behave.truncated(1_000_000))
    plain_one = second_source(m)
    assert content.get(m.path).content == m.data
    assert plain_one.gets == 1


def test_the_rest_is_asked_for_where_the_remote_can_send_it(content, mirror):
    m = mirror(BIG)

    async def once(request, data):
        m.behave(behave.ranges)
        return await behave.truncated(1_000_000)(request, data)

    m.behave(once)
    assert content.get(m.path).content == m.data
    start = int(m.upstream.seen[-1].headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_000_000
    wait_until(lambda: saved(m))


def test_a_part_of_another_file_is_not_glued_on(content, mirror):
    m = mirror(BIG)

    async def once(request, data):
        m.upstream.files[m.source] = random.randbytes(BIG)
        m.behave(behave.ranges)
        return await behave.truncated(1_000_000)(request, data)

    m.behave(once)
    assert len(broken(content, m.path)) < BIG
    wait_until(lambda: remote_artifacts(m).get().failed_at is not None)
    assert not saved(m)


@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_remote_that_refuses_makes_way_for_the_next(content, mirror, code):
    m = mirror(5000)
    m.behave(behave.status(code))
    other = second_source(m)
    assert content.get(m.path).content == m.data
    assert other.gets == 1


def test_a_remote_that_cannot_be_reached_makes_way_for_the_next(content, mirror):
    m = mirror(5000)
    other = second_source(m)
    remote_artifacts(m).update(url=f"http://127.0.0.1:9/{m.source}")
    assert content.get(m.path).content == m.data
    assert other.gets == 1


def test_when_all_remotes_fail_the_answer_is_502_and_tells_no_secret(own, mirror):
    m = mirror(5000)
    m.behave(behave.status(500))
    remote_artifacts(m).update(url=f"{m.upstream.url}{m.source}?signature=s3cr3t")
    response = httpx.get(own.content_url + m.path, trust_env=False, timeout=60)
    assert response.status_code == 502
    assert "s3cr3t" not in own.said() + response.text
    assert "500" in own.said()


@pytest.mark.parametrize("code", [401, 403])
def test_a_remote_that_refuses_our_credentials_is_told_without_them(own, mirror, code):
    m = mirror(5000)
    m.behave(behave.status(code))
    other = second_source(m)
    other.behave(behave.status(code))
    remote = remote_artifacts(other).get().remote.cast()
    remote.username, remote.password = "some-user", "some-password"
    remote.headers = [{"X-Key": "some-key"}]
    remote.save()
    response = httpx.get(own.content_url + m.path, trust_env=False, timeout=60)
    assert response.status_code == 502
    assert m.upstream.seen[-1].headers["X-Key"] == "some-key"
    basic = httpx.BasicAuth("some-user", "some-password")._auth_header.split()[1]
    for secret in ("some-user", "some-password", "some-key", basic, m.upstream.url):
        assert secret not in own.said() + response.text + str(response.headers)
    assert str(code) in own.said()


def test_a_remote_is_asked_again_when_its_time_out_is_over(content, mirror):
    m = mirror(5000)
    cooldown = timedelta(seconds=settings.REMOTE_CONTENT_FETCH_FAILURE_COOLDOWN)
    remote_artifacts(m).update(failed_at=timezone.now() - cooldown / 2)
    assert content.get(m.path).status_code == 502
    assert m.gets == 0
    remote_artifacts(m).update(failed_at=timezone.now() - 2 * cooldown)
    assert content.get(m.path).content == m.data


def second_source(mirror: Mirror) -> Mirror:
    """Have another remote with the same file, and be asked after those there are."""
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


def test_alternate_content_sources_are_asked_first(content, mirror):
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


def test_a_remote_gets_its_own_credentials_and_headers(content, mirror):
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


def in_folder(mirror: Mirror, folder: Path, data: bytes) -> Path:
    """Have the file's remote artifact name a file of this machine."""
    file = folder / mirror.source
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    remote_artifacts(mirror).update(url=f"file://{file}")
    return file


def test_a_remote_of_files_is_read(own, mirror, folder):
    m = mirror(5000)
    file = in_folder(m, folder, m.data)
    part = {"Range": "bytes=1000-1999"}
    get = partial(httpx.get, own.content_url + m.path, trust_env=False)
    assert get(headers=part).content == m.data[1000:2000]
    wait_until(lambda: saved(m))
    file.unlink()
    assert get().content == m.data


def test_a_file_of_this_machine_that_is_another_one(own, mirror, folder):
    m = mirror(5000)
    in_folder(m, folder, random.randbytes(5000))
    assert httpx.get(own.content_url + m.path, trust_env=False).status_code == 502
    assert remote_artifacts(m).get().failed_at
    assert not saved(m)


def test_a_file_of_a_domain_is_saved_in_its_storage(domains, server, orm, tmp_path):
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
        assert httpx.get(address, trust_env=False).content == data
        wait_until(lambda: ContentArtifact.objects.get(pk=known.pk).artifact)
        stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert stored == [data]
        orm.cleanup()
        artifact = ContentArtifact.objects.get(pk=known.pk).artifact
        unit.delete()
        artifact.delete()
        remote.delete()
        domain.delete()


def test_ranges_are_answered_while_the_file_is_fetched_which_is_saved(content, mirror):
    m = mirror(BIG)
    held = Held(1_000_000)
    m.behave(held)
    response = content.get(m.path, headers={"Range": "bytes=1000-299999"})
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes 1000-299999/{BIG}"
    assert response.content == m.data[1000:300_000]
    held.release()
    tail = content.get(m.path, headers={"Range": "bytes=-500"})
    assert tail.content == m.data[-500:]
    wait_until(lambda: saved(m))
    assert m.gets == 1


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("HEAD", {}, 200),
        ("GET", {"If-None-Match": "{etag}"}, 304),
        ("GET", {"If-Match": '"other"'}, 412),
        ("GET", {"Range": "bytes=5000-"}, 416),
    ],
)
def test_what_needs_no_bytes_fetches_none(content, mirror, method, headers, status):
    m = mirror(5000)
    values = {name: value.format(etag=m.etag) for name, value in headers.items()}
    response = content.request(method, m.path, headers=values)
    assert response.status_code == status
    assert m.gets == 0
    if method == "HEAD":
        assert response.headers["Content-Length"] == "5000"
        assert response.headers["ETag"] == m.etag


@pytest.mark.parametrize("behaviour", [behave.plain, behave.chunked, behave.encoded])
@pytest.mark.parametrize("unknown", ["size", "sha256", "size sha256"])
def test_what_the_remote_did_not_say_is_found_out(content, mirror, unknown, behaviour):
    m = mirror(400_000)
    m.behave(behaviour)
    remote_artifacts(m).update(**dict.fromkeys(unknown.split()))
    response = content.get(m.path, headers={"Range": "bytes=100-"})
    assert response.status_code == 206
    assert response.content == m.data[100:]
    assert response.headers.get("ETag") in ({m.etag, None} if "sha256" in unknown else {m.etag})
    assert m.upstream.seen[-1].headers["Accept-Encoding"] == "identity"
    wait_until(lambda: saved(m))
    assert m.gets == 1


def test_an_artifact_that_is_there_is_used_again(content, mirror, pulp):
    from pulpcore.app.models import Artifact

    m = mirror(5000)
    pulp.http.post(f"{API}artifacts/", files={"file": m.data}).raise_for_status()
    assert content.get(m.path).content == m.data
    wait_until(lambda: saved(m))
    assert Artifact.objects.filter(sha256=m.etag.strip('"')).count() == 1


@pytest.mark.parametrize("policy", ["on_demand", "streamed"])
def test_shutdown_leaves_nothing(instance, mirror, policy):
    m = mirror(BIG, policy=policy)
    m.behave(Held(1_000_000))
    with serving(instance, "--timeout-graceful-shutdown", "1") as own:
        with httpx.stream("GET", own.content_url + m.path, trust_env=False) as response:
            next(response.iter_raw(1))
            own.process.terminate()
            own.process.wait(60)
        assert "Traceback" not in own.said().replace("CancelledError", "")
    wait_until(lambda: spooled(instance) == [])
    wait_until(lambda: m.upstream.open == 0)
