"""Cases of the benchmark: requests, and the load generator of each."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import httpx

from benchmarks.data import (
    BIG,
    GUARDED,
    LARGE,
    MEDIUM,
    ONE,
    PACKAGES_20K,
    PACKAGES_200,
    PACKAGES_200K,
    Data,
    Repository,
)
from benchmarks.servers import Can

CONNECTIONS = 32
LUA = Path(__file__).with_name("asked.lua")
LONGEST = 120
"""Seconds after which something has gone wrong."""

RANGE = "bytes=1048576-1114111"


@dataclass
class Sample:
    """Figures of some requests."""

    requests: int
    seconds: float
    bytes: float
    p50: float
    """Milliseconds until half of the answers were there as a whole."""

    p99: float
    failed: int = 0
    first_byte: float | None = None
    """Milliseconds until half of the answers began, where that is measured."""


@dataclass
class Target:
    """A server, and what there is to ask it for."""

    url: str
    """Root of the content app, or what stands for it, with a slash at the end."""

    data: Data
    asked: dict[str, int] = field(default_factory=dict)
    """Number of URLs requested so far, by repository, to continue with the next."""


Measure = Callable[[Target, float], Sample]


@dataclass(frozen=True)
class Case:
    """One row of figures for each server that `needs` allows."""

    name: str
    repository: Repository
    needs: Can
    measure: Measure
    is_long: bool = False
    """Whether it is left out when there is little time."""


def same(
    repository: Repository, target: Target, seconds: float, connections: int = CONNECTIONS
) -> Sample:
    """Ask for one file again and again."""
    return _wrk(target.url + repository.path(), seconds, {}, connections=connections)


def distinct_heads(target: Target, seconds: float) -> Sample:
    """Ask for one file again and again, with another header in each request."""
    url = target.url + ONE.path()
    return _wrk(url, seconds, {}, urlsplit(url).path)


def guarded(target: Target, seconds: float) -> Sample:
    """Ask with a password, which takes upstream a quarter of a second to check, one at a time."""
    headers = {"Authorization": target.data.authorization}
    return _wrk(target.url + GUARDED.path(), max(seconds, 5), headers, connections=4)


def part(target: Target, seconds: float) -> Sample:
    return _wrk(target.url + BIG.path(), seconds, {"Range": RANGE})


def unchanged(target: Target, seconds: float) -> Sample:
    """Ask for a file whose ETag is known."""
    url = target.url + ONE.path()
    etag = httpx.head(url, trust_env=False).headers["ETag"]
    assert httpx.get(url, headers={"If-None-Match": etag}, trust_env=False).status_code == 304
    return _wrk(url, seconds, {"If-None-Match": etag})


def distinct(repository: Repository, target: Target, seconds: float) -> Sample:
    """Ask for one file after the other, so that no cache holds it.

    For a while, since upstream answers many at once, and then none for up to some seconds.
    """
    root = urlsplit(target.url)
    number = target.asked.get(repository.name, 0)
    number_of_place = "-%d" if repository.places > 1 else ""
    directory = f"{root.path}{repository.name}{number_of_place}/"
    file = repository.file.replace("*", "%06d")
    counts = [repository.places, repository.count, number]
    sample = _wrk(target.url, max(seconds, 8), {}, directory, file, *map(str, counts))
    target.asked[repository.name] = number + sample.requests + CONNECTIONS
    return sample


def _wrk(
    url: str,
    seconds: float,
    headers: Mapping[str, str],
    *arguments: str,
    connections: int = CONNECTIONS,
) -> Sample:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    return _run([*command, "-s", str(LUA), url, "--", *arguments])


def head(target: Target, seconds: float) -> Sample:
    url = target.url + ONE.path()
    command = [sys.executable, "-m", "benchmarks.heads", url, str(seconds), str(CONNECTIONS)]
    return _run(command)


def _run(command: list[str]) -> Sample:
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=LONGEST
    ).stdout
    return Sample(**json.loads(output.splitlines()[-1]))


def listing(repository: Repository, target: Target, seconds: float) -> Sample:
    """Ask for a directory, one request at a time."""
    url = target.url + repository.directory()
    return _one_by_one(partial(_receive, url), seconds)


def whole(clients: int, target: Target, seconds: float) -> Sample:
    """Have each client ask for the large file, one request at a time."""
    receive = partial(_receive, target.url + BIG.path())
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(_repeat, receive, seconds) for _ in range(clients)]
        received = [each for future in running for each in future.result()]
    return _sample(received, time.perf_counter() - began)


def cold(target: Target, seconds: float) -> Sample:
    """Have 8 clients ask for parts of the large file that are not in the page cache.

    Another client requests the small file at the same time; requests and milliseconds are its.
    """
    share = LARGE // 8
    with (target.data.tree / "pulp/content" / BIG.path()).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    url = target.url + BIG.path()
    began = time.perf_counter()
    small: list[_Received] = []
    with ThreadPoolExecutor(8) as pool:
        ranges = [f"bytes={number * share}-{(number + 1) * share - 1}" for number in range(8)]
        parts = [pool.submit(_receive, url, f"Range: {each}\r\n") for each in ranges]
        while not all(part.done() for part in parts):
            small.append(_receive(target.url + ONE.path()))
    sample = _sample(small, time.perf_counter() - began)
    sample.bytes += sum(part.result().bytes for part in parts)
    return sample


@dataclass
class _Received:
    first_byte: float
    total: float
    bytes: int


def _one_by_one(receive: Callable[[], _Received], seconds: float) -> Sample:
    began = time.perf_counter()
    return _sample(_repeat(receive, seconds), time.perf_counter() - began)


def _repeat(receive: Callable[[], _Received], seconds: float) -> list[_Received]:
    began = time.perf_counter()
    received: list[_Received] = []
    while not received or time.perf_counter() - began < seconds:
        received.append(receive())
    return received


def _sample(received: Sequence[_Received], seconds: float) -> Sample:
    totals = sorted(each.total * 1e3 for each in received)
    first_bytes = sorted(each.first_byte * 1e3 for each in received)
    percentiles = quantiles(totals, n=100, method="inclusive") if len(totals) > 1 else totals * 99
    return Sample(
        requests=len(received),
        seconds=seconds,
        bytes=sum(each.bytes for each in received),
        p50=percentiles[49],
        p99=percentiles[98],
        first_byte=first_bytes[len(first_bytes) // 2],
    )


def _receive(url: str, headers: str = "") -> _Received:
    """Receive an answer on a connection of its own; a client in C would not be faster."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}"
    request += "Connection: close\r\n\r\n"
    buffer = memoryview(bytearray(1 << 20))
    with socket.create_connection((parts.hostname, parts.port), timeout=120) as connection:
        began = time.perf_counter()
        connection.sendall(request.encode())
        count = connection.recv_into(buffer)
        first_byte = time.perf_counter() - began
        assert bytes(buffer[:12]).endswith((b" 200", b" 206")), bytes(buffer[:200])
        total = count
        while count := connection.recv_into(buffer):
            total += count
        return _Received(first_byte, time.perf_counter() - began, total)


CASES = (
    Case("warm small file", ONE, Can.SMALL, partial(same, ONE)),
    Case("warm small file, distinct heads", ONE, Can.SMALL, distinct_heads),
    Case("distinct files of 200", PACKAGES_200, Can.SMALL, partial(distinct, PACKAGES_200)),
    Case("distinct files of 20,000", PACKAGES_20K, Can.SMALL, partial(distinct, PACKAGES_20K)),
    Case(
        "distinct files of 200,000",
        PACKAGES_200K,
        Can.SMALL,
        partial(distinct, PACKAGES_200K),
        True,
    ),
    Case("304", ONE, Can.FILES, unchanged),
    Case("HEAD", ONE, Can.SMALL, head),
    Case("guarded file, Basic auth", GUARDED, Can.GUARDED, guarded),
    Case("range of 64 KiB", BIG, Can.FILES, part),
    Case("file of 10 MiB", MEDIUM, Can.FILES, partial(same, MEDIUM)),
    Case("file of 1 GiB", BIG, Can.FILES, partial(whole, 1)),
    Case("file of 1 GiB, 8 clients", BIG, Can.FILES, partial(whole, 8)),
    Case("small file beside 8 cold parts", BIG, Can.FILES, cold, True),
    Case("listing of 20,000", PACKAGES_20K, Can.LISTINGS, partial(listing, PACKAGES_20K)),
    Case("listing of 200,000", PACKAGES_200K, Can.LISTINGS, partial(listing, PACKAGES_200K), True),
)
