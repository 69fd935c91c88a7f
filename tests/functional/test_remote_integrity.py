"""Whatever remotes do, nobody gets a whole body, or the end of one, that is not the file's."""

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

from tests.support import remote_server as behave
from tests.support.instance import wait_until
from tests.support.remote_server import Held

SIZE = 700_000


async def another(request: web.Request, data: bytes) -> web.StreamResponse:
    """Another file of the same size."""
    return web.Response(body=random.Random(1).randbytes(len(data)))


async def part_of_another(request: web.Request, data: bytes) -> web.StreamResponse:
    return await behave.ranges(request, random.Random(2).randbytes(len(data)))


async def too_short(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data[:-1])


GOOD = [behave.plain, behave.ranges, behave.chunked, behave.encoded, behave.in_chunks(behave.plain)]
BAD = [
    behave.wrong,
    behave.in_chunks(behave.wrong),
    behave.too_long,
    too_short,
    behave.in_chunks(too_short),
    behave.truncated(300_000),
    behave.said_to_be_encoded,
    another,
    part_of_another,
    behave.status(500),
    behave.status(204),
    behave.status(206),
]
RANGES = ["", "bytes=0-", "bytes=-1000", "bytes=600000-", f"bytes=1-{SIZE}", "bytes=0-0,-5"]


@dataclass
class Got:
    """What a client got, if it got all that was announced."""

    asked: str
    status: int
    body: bytes


async def ask(client: httpx.AsyncClient, url: str, asked: str, method: str) -> Got | None:
    headers = {"Range": asked} if asked else {}
    try:
        answer = await client.request(method, url, headers=headers)
    except httpx.RemoteProtocolError:
        return None
    return None if method == "HEAD" else Got(asked, answer.status_code, answer.content)


def ends_of(data: bytes) -> dict[str, bytes]:
    return {
        "": data,
        "bytes=0-": data,
        "bytes=-1000": data[-1000:],
        "bytes=600000-": data[600_000:],
        f"bytes=1-{SIZE}": data[1:],
    }


@pytest.mark.parametrize("unknown", [{}, {"size": None}, {"sha256": None}])
def test_nobody_gets_wrong_bytes(instance, remote_file, unknown: dict[str, Any]):
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
                file.behave(chance.choice([*BAD, chance.choice(GOOD)]), source)
            fields = dict(unknown)
            if "sha256" in fields:  # by which they know it instead
                fields["sha512"] = hashlib.sha512(file.data).hexdigest()
            file.content_artifact.remoteartifact_set.update(**fields)
            files.append(file)

    async def ask_all() -> list[tuple[Any, Got | None]]:
        limits = httpx.Limits(max_connections=None)
        asked = [
            (file, chance.choice(RANGES), chance.choice(["GET", "GET", "GET", "HEAD"]))
            for file in [*files] * 10
        ]
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:
            answers = await asyncio.gather(
                *(ask(client, instance.content_url + file.path, *how) for file, *how in asked)
            )
        return [(file, got) for (file, *_), got in zip(asked, answers, strict=True)]

    for _ in range(2):  # the second time, bad ones are left out and good ones may be saved
        for file, got in asyncio.run(ask_all()):
            if got is None:
                continue
            assert got.status in (200, 206, 502), (got.asked, got.status)
            if got.status == 200:
                assert got.body == file.data
            elif got.status == 206 and got.asked in ends_of(file.data):
                assert got.body == ends_of(file.data)[got.asked]
            elif got.status == 206:
                assert file.data[-5:] in got.body
    wait_until(lambda: files[0].upstream.open == 0)
    for file in files:
        if file.artifact is not None:
            assert file.artifact.sha256 == hashlib.sha256(file.data).hexdigest()
            assert file.artifact.file.read() == file.data


@pytest.mark.parametrize("asked", ["bytes=-1", "bytes=600000-", f"bytes=0-{SIZE}", "bytes=0-0,-1"])
def test_the_end_waits_until_all_is_verified(content, remote_file, asked):
    """What is small enough to be read at once is refused; of the rest the end is missing."""
    file = remote_file(SIZE)
    file.behave(behave.wrong)
    with suppress(httpx.RemoteProtocolError):
        assert content.get(file.path, headers={"Range": asked}).status_code == 502
    assert file.remote_artifacts[0].failed_at
    early = content.get(file.path, headers={"Range": "bytes=0-9"})
    assert early.status_code == 502, "nothing of it is served from then on"


def test_the_end_is_kept_back_though_it_has_come(instance, remote_file):
    """It might be all, and nobody knows before the remote ends."""
    file = remote_file(SIZE)
    file.upstream.files[file.sources[0]] = random.randbytes(SIZE)
    held = Held(SIZE, tells_length=False)
    file.behave(held)
    folder = Path(instance.state.working_directory)
    get = partial(httpx.get, instance.content_url + file.path, trust_env=False, timeout=60)
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(get, headers={"Range": "bytes=-1"})
        wait_until(lambda: SIZE in [path.stat().st_size for path in folder.glob("content-*")])
        assert get(headers={"Range": "bytes=0-9"}).status_code == 206, "which no one can verify"
        held.release()
        assert asking.result().status_code == 502


def test_a_part_is_cut_as_soon_as_the_whole_is_known_to_be_wrong(instance, remote_file):
    """Though all of its bytes had come, and might be right."""
    file = remote_file(30_000_000)
    file.behave(behave.wrong)
    headers = {"Range": "bytes=0-28999999"}
    with httpx.stream(
        "GET", instance.content_url + file.path, headers=headers, trust_env=False, timeout=60
    ) as answer:
        assert answer.status_code == 206
        chunks = answer.iter_raw()
        next(chunks)
        wait_until(lambda: file.remote_artifacts[0].failed_at)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in chunks:
                pass
    assert file.artifact is None
