"""Limits of downloads: maximum size, compression ratio and free disk space."""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from pulpcore.content_star.remote import spool
from pulpcore.content_star.remote.decoding import RATIO_FREE
from tests.functional.test_pull_through import client, folder, mirror, own  # noqa: F401
from tests.support.instance import wait_until
from tests.support.remote_files import spooled
from tests.support.remote_server import Behaviour, PausedResponse, chunked
from tests.support.server import Server, serving
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.slow

MAX_SIZE = 1_000_000
BOMB = 50_000_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def limited(instance) -> Iterator[Server]:
    """A server with pull-through that fetches files of up to MAX_SIZE bytes."""
    environ = {
        "PYTHONPATH": str(ROOT),
        "PULP_CONTENT_STAR_REMOTE_MAX_SIZE": str(MAX_SIZE),
    }
    with serving(instance, app="tests.support.pull_through_app:application", **environ) as running:
        yield running


def read(url: str, **headers: str) -> tuple[int, int, bool]:
    """GET `url`; return the status, the bytes received, and whether the response was complete."""
    with httpx.stream("GET", url, headers=headers) as response:
        length = 0
        try:
            for chunk in response.iter_raw():
                length += len(chunk)
        except httpx.RemoteProtocolError:
            return response.status_code, length, False
        return response.status_code, length, True


def sent_as(encoding: str, encode: Callable[[bytes], bytes]) -> Behaviour:
    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(body=encode(data), headers={"Content-Encoding": encoding})

    return respond


def members(data: bytes) -> bytes:
    """Compress `data` as a sequence of gzip members."""
    step = 1_000_000
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    return b"".join(map(gzip.compress, parts))


def endless(part: bytes, **headers: str) -> Behaviour:
    """Send `part` repeatedly until the client closes the connection."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        with suppress(ConnectionError):
            while request.transport is not None and not request.transport.is_closing():
                await response.write(part)
        return response

    return respond


BOMBS = {
    "gzip": sent_as("gzip", gzip.compress),
    "members": sent_as("gzip", members),
    "deflate": sent_as("deflate", zlib.compress),
}


@pytest.mark.parametrize("name", ["a.bin", "index.json"], ids=["content", "metadata"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bomb_is_not_decompressed(own, mirror, instance, name, bomb):  # noqa: F811
    m = mirror()
    path = m.add(name, bytes(BOMB), BOMBS[bomb])
    status, length, is_complete = read(own.content_url + path)
    assert (status, is_complete) == (200, False), "cut after it had begun"
    assert length <= RATIO_FREE
    said = own.said().splitlines()
    assert any(m.remote.name in line and "more than 100 times its size" in line for line in said)
    assert not m.saved(name)
    wait_until(lambda: spooled(instance) == [])


def test_decompression_bomb_with_a_known_digest_returns_502(content, remote_file):
    """The digest could be verified only after the disk had been filled."""
    file = remote_file(0)
    file.upstream.files[file.sources[0]] = bytes(BOMB)
    file.set_behaviour(BOMBS["gzip"])
    file.set(size=None, sha256="1" * 64)
    assert content.get(file.path).status_code == 502
    assert file.remote_artifacts[0].failed_at


def test_decompression_over_the_ratio_is_allowed_up_to_the_known_size(content, remote_file):
    file = remote_file(0)
    file.data = bytes(BOMB)
    file.upstream.files[file.sources[0]] = file.data
    file.set_behaviour(BOMBS["gzip"])
    file.set(size=BOMB, sha256=hashlib.sha256(file.data).hexdigest())
    assert content.get(file.path).content == file.data


ENDLESS = {
    "plain": endless(bytes(50_000)),
    "announced": endless(bytes(50_000), **{"Content-Length": str(10**15)}),
    "empty members": endless(gzip.compress(b"") * 100, **{"Content-Encoding": "gzip"}),
    "members": endless(gzip.compress(b"a") * 100, **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", ["a.bin", "index.json"], ids=["content", "metadata"])
@pytest.mark.parametrize("body", ENDLESS)
def test_endless_body_is_cut_at_the_maximum_size(limited, mirror, instance, name, body):  # noqa: F811
    m = mirror()
    path = m.add(name, b"", ENDLESS[body])
    status, length, is_complete = read(limited.content_url + path)
    assert not is_complete or status == 502
    assert length <= MAX_SIZE
    said = limited.said().splitlines()
    assert any(m.remote.name in line and "CONTENT_STAR_REMOTE_MAX_SIZE" in line for line in said)
    wait_until(lambda: m.upstream.open == 0)
    wait_until(lambda: spooled(instance) == [])


@pytest.mark.parametrize("is_chunked", [False, True])
def test_file_of_maximum_size_is_fetched_and_no_larger_one(limited, mirror, is_chunked):  # noqa: F811
    m = mirror()
    path = m.add("a.bin", MAX_SIZE, chunked if is_chunked else None)
    assert read(limited.content_url + path) == (200, MAX_SIZE, True)
    path = m.add("b.bin", MAX_SIZE + 1, chunked if is_chunked else None)
    status, _, is_complete = read(limited.content_url + path)
    assert (status, is_complete) != (200, True)


def test_known_size_replaces_the_maximum_size(limited, remote_file):
    file = remote_file(3 * MAX_SIZE)
    url = limited.content_url + file.path
    assert httpx.get(url).content == file.data


def test_disk_reserve_refuses_downloads_with_503(get_in_process, remote_file, monkeypatch):
    """The reserve is set to more than the disk has."""
    file = remote_file(5000)
    monkeypatch.setattr(spool, "RESERVE", 2**62)
    monkeypatch.setattr(spool, "RESERVE_PART", 1)
    assert get_in_process(file.path).status_code == 503
    assert file.remote_artifacts[0].failed_at is None, "not the remote's fault"
    monkeypatch.undo()
    assert get_in_process(file.path).content == file.data


def test_full_working_directory_stops_downloads_alone(instance, orm, remote_file):
    """A download under way is cut, further ones get 503, and all is well once there is space."""
    base = orm.distribution(publication=orm.publication({"small": b"small", "large": bytes(BOMB)}))
    cut, whole = remote_file(6_000_000), remote_file(5000)
    paused = PausedResponse(1_000_000)
    cut.set_behaviour(paused)
    with small_disk(16 << 20) as disk:
        directory = str(disk.path)
        with serving(
            instance, PULP_WORKING_DIRECTORY=directory, PULP_FILE_UPLOAD_TEMP_DIR=directory
        ) as server:
            url = server.content_url
            with httpx.stream("GET", url + cut.path) as response:
                chunks = response.iter_raw()
                next(chunks)
                disk.fill()
                paused.release()
                with pytest.raises(httpx.RemoteProtocolError):
                    list(chunks)
            wait_until(disk.free)  # the temporary file is removed, and closed
            disk.fill()
            refused = httpx.get(url + whole.path)
            assert refused.status_code == 503 and refused.headers["Retry-After"]
            assert "WORKING_DIRECTORY" in server.said()
            assert httpx.get(f"{url}{base}/small").content == b"small"
            assert httpx.get(f"{url}{base}/large").content == bytes(BOMB)
            assert httpx.get(f"{url}{base}/").status_code == 200
            assert httpx.get(f"{server.url}/pulp/api/v3/status/").status_code == 200
            wait_until(lambda: not list(disk.path.glob("content-*")))
            disk.clear()
            for file in (cut, whole):
                assert httpx.get(url + file.path).content == file.data
                assert file.artifact, "when the response ends"
            wait_until(lambda: not list(disk.path.glob("content-*")))


def test_full_media_root_saves_no_part_of_a_file(instance, remote_file):
    """Clients get files from remotes, which are saved once there is space."""
    files = [remote_file(5000), remote_file(6_000_000)]
    with (
        small_disk(16 << 20) as disk,
        serving(instance, PULP_MEDIA_ROOT=str(disk.path)) as server,
    ):
        disk.fill()
        for file in files:
            assert httpx.get(server.content_url + file.path).content == file.data
            assert file.artifact is None
        assert server.said().count("could not be saved: No space left on device.") == len(files)
        assert [each.name for each in disk.path.rglob("*") if each.is_file()] == ["filler"]
        disk.clear()
        for file in files:
            assert httpx.get(server.content_url + file.path).content == file.data
            assert (disk.path / file.artifact.file.name).read_bytes() == file.data
            saved = httpx.get(server.content_url + file.path)
            assert saved.content == file.data
