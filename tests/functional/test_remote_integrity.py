"""Integrity of downloads: no response completes with bytes that do not match the digest."""

import asyncio
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from django.db import transaction

from tests.support import remote_server
from tests.support.instance import wait_until
from tests.support.remote_server import PausedResponse

pytestmark = pytest.mark.slow

SIZE = 700_000


async def another(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send another file of the same size."""
    return web.Response(body=random.Random(1).randbytes(len(data)))


async def part_of_another(request: web.Request, data: bytes) -> web.StreamResponse:
    return await remote_server.ranges(request, random.Random(2).randbytes(len(data)))


async def too_short(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data[:-1])


GOOD = [
    remote_server.plain,
    remote_server.ranges,
    remote_server.chunked,
    remote_server.gzip_encoded,
    remote_server.without_length(remote_server.plain),
]
BAD = [
    remote_server.wrong_bytes,
    remote_server.without_length(remote_server.wrong_bytes),
    remote_server.too_long,
    too_short,
    remote_server.without_length(too_short),
    remote_server.truncated(300_000),
    remote_server.mislabelled_as_gzip,
    another,
    part_of_another,
    remote_server.status(500),
    remote_server.status(204),
    remote_server.status(206),
]
RANGES = ["", "bytes=0-", "bytes=-1000", "bytes=600000-", f"bytes=1-{SIZE}", "bytes=0-0,-5"]


@dataclass
class Received:
    """A complete response, with the Range that was requested."""

    requested: str
    status: int
    body: bytes


async def receive(
    client: httpx.AsyncClient, url: str, requested: str, method: str
) -> Received | None:
    headers = {"Range": requested} if requested else {}
    try:
        answer = await client.request(method, url, headers=headers)
    except httpx.RemoteProtocolError:
        return None
    return None if method == "HEAD" else Received(requested, answer.status_code, answer.content)


def expected_ranges(data: bytes) -> dict[str, bytes]:
    return {
        "": data,
        "bytes=0-": data,
        "bytes=-1000": data[-1000:],
        "bytes=600000-": data[600_000:],
        f"bytes=1-{SIZE}": data[1:],
    }


@pytest.mark.parametrize("unknown", [{}, {"size": None}, {"sha256": None}])
def test_digest_mismatch_is_never_served_by_any_mix_of_remotes(
    instance, remote_file, unknown: dict[str, Any]
):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    files = []
    with transaction.atomic():
        for _ in range(5):
            policies = chance.choices(["on_demand", "streamed", "immediate"], k=3)
            file = remote_file(SIZE, policy=policies[0])
            for policy in policies[1:]:
                file.add_source(policy=policy)
            for source in range(3):
                file.set_behaviour(chance.choice([*BAD, chance.choice(GOOD)]), source)
            fields = dict(unknown)
            if "sha256" in fields:  # the digest that is known instead
                fields["sha512"] = hashlib.sha512(file.data).hexdigest()
            file.content_artifact.remoteartifact_set.update(**fields)
            files.append(file)

    async def ask_all() -> list[tuple[Any, Received | None]]:
        limits = httpx.Limits(max_connections=None)
        requested = [
            (file, chance.choice(RANGES), chance.choice(["GET", "GET", "GET", "HEAD"]))
            for file in [*files] * 10
        ]
        async with httpx.AsyncClient(limits=limits) as client:
            answers = await asyncio.gather(
                *(
                    receive(client, instance.content_url + file.path, *how)
                    for file, *how in requested
                )
            )
        return [(file, got) for (file, *_), got in zip(requested, answers, strict=True)]

    for _ in range(2):  # in the second round, failed remotes cool down and good files may be saved
        for file, got in asyncio.run(ask_all()):
            if got is None:
                continue
            assert got.status in (200, 206, 502), (got.requested, got.status)
            if got.status == 200:
                assert got.body == file.data
            elif got.status == 206 and got.requested in expected_ranges(file.data):
                assert got.body == expected_ranges(file.data)[got.requested]
            elif got.status == 206:
                assert file.data[-5:] in got.body
    wait_until(lambda: files[0].upstream.open == 0)
    for file in files:
        if file.artifact is not None:
            assert file.artifact.sha256 == hashlib.sha256(file.data).hexdigest()
            assert file.artifact.file.read() == file.data


@pytest.mark.parametrize(
    "requested", ["bytes=-1", "bytes=600000-", f"bytes=0-{SIZE}", "bytes=0-0,-1"]
)
def test_range_with_the_last_byte_waits_for_verification(content, remote_file, requested):
    """Responses that fit in one read are refused, larger ones are cut before the end."""
    file = remote_file(SIZE)
    file.set_behaviour(remote_server.wrong_bytes)
    with suppress(httpx.RemoteProtocolError):
        assert content.get(file.path, headers={"Range": requested}).status_code == 502
    assert file.remote_artifacts[0].failed_at
    early = content.get(file.path, headers={"Range": "bytes=0-9"})
    assert early.status_code == 502, "nothing is served after the mismatch"


def test_range_with_the_last_byte_waits_for_the_end_of_the_remote(instance, remote_file):
    """The size is unknown until the remote's response ends, though all bytes have arrived."""
    file = remote_file(SIZE)
    file.upstream.files[file.sources[0]] = random.randbytes(SIZE)
    paused = PausedResponse(SIZE, with_length=False)
    file.set_behaviour(paused)
    folder = Path(instance.state.working_directory)
    get = partial(httpx.get, instance.content_url + file.path)
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(get, headers={"Range": "bytes=-1"})
        wait_until(lambda: SIZE in [path.stat().st_size for path in folder.glob("content-*")])
        assert get(headers={"Range": "bytes=0-9"}).status_code == 206, "before verification"
        paused.release()
        assert asking.result().status_code == 502


def test_range_is_cut_when_the_whole_file_fails_verification(instance, remote_file):
    """Although all bytes of the range had arrived, and might be right."""
    file = remote_file(30_000_000)
    file.set_behaviour(remote_server.wrong_bytes)
    headers = {"Range": "bytes=0-28999999"}
    with httpx.stream("GET", instance.content_url + file.path, headers=headers) as answer:
        assert answer.status_code == 206
        chunks = answer.iter_raw()
        next(chunks)
        wait_until(lambda: file.remote_artifacts[0].failed_at)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in chunks:
                pass
    assert file.artifact is None


@pytest.mark.parametrize("algorithm", ["sha224", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("behaviour", [remote_server.plain, another])
def test_streamed_file_is_verified_by_the_digest_that_is_known(
    content, remote_file, algorithm, behaviour
):
    """Of a file that is not saved, no other digest is calculated."""
    file = remote_file(SIZE, policy="streamed")
    digest = hashlib.new(algorithm, file.data).hexdigest()
    file.set(**{"sha256": None, algorithm: digest})
    file.set_behaviour(behaviour)
    if behaviour is another:
        with pytest.raises(httpx.RemoteProtocolError):
            content.get(file.path)
    else:
        assert content.get(file.path).content == file.data
    assert file.artifact is None


def test_file_saved_after_a_streaming_remote_failed_has_all_digests(content, remote_file):
    from pulpcore.app.models import Artifact

    file = remote_file(SIZE, policy="streamed")
    file.set_behaviour(remote_server.truncated(300_000))
    file.add_source(policy="on_demand")
    assert content.get(file.path).content == file.data
    file.wait_until_saved()
    for algorithm in Artifact.DIGEST_FIELDS:
        digest = hashlib.new(algorithm, file.data).hexdigest()
        assert getattr(file.artifact, algorithm) == digest
