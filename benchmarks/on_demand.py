"""On-demand content: many clients of one file, and a small file while large ones are fetched.

python -m benchmarks.on_demand [--rounds N] [--against CHECKOUT]
"""

import argparse
import hashlib
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aiohttp import web

from benchmarks.apps import SMALL
from benchmarks.probe import Latency, probing
from benchmarks.servers import OURS, THEIRS, Contestant, bare, other, pulp
from tests.support.instance import Instance, wait_until
from tests.support.pulp import Pulp, unique
from tests.support.remote_server import Upstream, serving_upstream
from tests.support.server import Server

CLIENTS = (1, 10, 100)
SHARED_SIZE = 5_000_000
LARGE_SIZE = 200_000_000
LARGE_COUNT = 10
SHARED = "shared.bin"
LARGE = [f"large-{number}.bin" for number in range(LARGE_COUNT)]

IDLE_SECONDS = 5

_FILLING = os.urandom(1_000_000)


@dataclass
class Transfer:
    """Times of one client, in seconds."""

    first_byte: float
    total: float


class Mirror:
    """A repository of files that are on demand, and a small file that is saved."""

    def __init__(self, instance: Instance, upstream: Upstream) -> None:
        self.upstream = upstream
        upstream.files[SHARED] = os.urandom(SHARED_SIZE)
        manifest = upstream.manifest(SHARED).decode()
        for path in LARGE:
            upstream.files[path] = path.encode()
            upstream.behaviours[path] = large
            manifest += f"\n{path},{large_digest(path.encode())},{LARGE_SIZE}"
        upstream.files["PULP_MANIFEST"] = manifest.encode()
        client = instance.pulp()
        url = f"{upstream.url}PULP_MANIFEST"
        remote = client.create(
            "remotes/file/file/", name=unique("remote"), url=url, policy="on_demand"
        )
        repository = client.repository(autopublish=True)
        sync = {"remote": remote["pulp_href"]}
        client.task(client.http.post(f"{repository}sync/", json=sync))
        self.base = client.distribute(repository=repository)
        self.small = f"{client.distribute(repository=_small(client))}/small.bin"

    def invalidate(self, *paths: str) -> None:
        """Have the files fetched again, once what has been fetched is saved."""
        from pulpcore.app.models import Artifact, ContentArtifact

        files = ContentArtifact.objects.filter(relative_path__in=paths)
        wait_until(lambda: not files.filter(artifact=None).exists(), 60)
        artifacts = Artifact.objects.filter(content_memberships__in=files)
        saved = list(artifacts.values_list("pk", flat=True))
        files.update(artifact=None)
        for artifact in Artifact.objects.filter(pk__in=saved):
            artifact.delete()


def _small(client: Pulp) -> str:
    return client.repository({"small.bin": os.urandom(SMALL)}, autopublish=True)


async def large(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send `data` and then what all large files have in common."""
    response = web.StreamResponse(headers={"Content-Length": str(LARGE_SIZE)})
    await response.prepare(request)
    for piece in _pieces(data):
        await response.write(piece)
    return response


def large_digest(data: bytes) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(data):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(data: bytes) -> Sequence[bytes]:
    count, rest = divmod(LARGE_SIZE - len(data), len(_FILLING))
    return [data, *[_FILLING] * count, _FILLING[:rest]]


def download(urls: Sequence[str], size: int) -> list[Transfer]:
    """Download all at once, each on a connection of its own."""
    written = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}\n"
    command = ["curl", "-s", "-Z", "--parallel-immediate", "--parallel-max", "300", "-w", written]
    for url in urls:
        command += ["-o", os.devnull, url]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    transfers = []
    for line in lines:
        status, received, first_byte, total = line.split()
        assert (status, int(received)) == ("200", size), line
        transfers.append(Transfer(float(first_byte), float(total)))
    return transfers


def share(mirror: Mirror, server: Server, clients: int) -> tuple[int, float, float]:
    """GETs that the remote got, seconds to the first byte for half of the clients, and until the
    last client had everything."""
    before = mirror.upstream.gets[SHARED]
    transfers = download([f"{server.content_url}{mirror.base}/{SHARED}"] * clients, SHARED_SIZE)
    gets = mirror.upstream.gets[SHARED] - before
    mirror.invalidate(SHARED)
    return gets, median(t.first_byte for t in transfers), max(t.total for t in transfers)


@dataclass
class Health:
    """Latency of small responses while nothing is fetched, or ten large files are."""

    rate: float
    """MB/s at which they were fetched, together."""

    small: Latency
    """Of a small file that is saved."""

    loop: Latency
    """Of what is answered without asking anybody."""

    machine: Latency
    """Of a bare server beside: what the machine's load does alone."""


def health(mirror: Mirror, contestant: Contestant, server: Server, beside: Server) -> list[Health]:
    """Return how it was while nothing was fetched, and then while large files were."""
    urls = [f"{server.content_url}{mirror.base}/{path}" for path in LARGE]
    found = []
    for fetch in (lambda: time.sleep(IDLE_SECONDS), lambda: download(urls, LARGE_SIZE)):
        with (
            probing(f"{server.content_url}{mirror.small}") as small,
            probing(f"{server.url}{contestant.loop_path}") as loop,
            probing(beside.url) as machine,
        ):
            began = time.perf_counter()
            fetch()
            seconds = time.perf_counter() - began
        found.append(Health(LARGE_COUNT * LARGE_SIZE / 1e6 / seconds, small, loop, machine))
    mirror.invalidate(*LARGE)
    return found


Servers = dict[Contestant, Server]


def compare(contestants: Sequence[Contestant], rounds: int) -> None:
    with pulp() as instance, serving_upstream() as upstream, ExitStack() as stack:
        mirror = Mirror(instance, upstream)
        servers = {each: stack.enter_context(each.start(instance)) for each in contestants}
        beside = stack.enter_context(bare(instance))
        for server in servers.values():  # connections to the database, modules imported late
            share(mirror, server, 1)
        print(f"On-demand content: {rounds} rounds, interleaved; medians of them.\n", flush=True)
        print_shared(mirror, servers, rounds)
        print_health(mirror, servers, beside, rounds)


def print_shared(mirror: Mirror, servers: Servers, rounds: int) -> None:
    print("| clients of one 5 MB file | server | GETs of the remote | first byte, ms | total, ms |")
    print("| --- | --- | --- | --- | --- |")
    for clients in CLIENTS:
        results: dict[Contestant, list[tuple[int, float, float]]] = {each: [] for each in servers}
        for _ in range(rounds):
            for contestant, server in servers.items():
                results[contestant].append(share(mirror, server, clients))
        for contestant, found in results.items():
            gets, first, total = (median(column) for column in zip(*found, strict=True))
            row = f"{clients} | {contestant.name} | {gets:.0f} | {first * 1e3:.0f}"
            print(f"| {row} | {total * 1e3:.0f} |")
    print(flush=True)


def print_health(mirror: Mirror, servers: Servers, beside: Server, rounds: int) -> None:
    results: dict[Contestant, list[list[Health]]] = {each: [] for each in servers}
    for _ in range(rounds):
        for contestant, server in servers.items():
            results[contestant].append(health(mirror, contestant, server, beside))
    print("| p50 / p99, ms | while | small file | event loop | bare server beside | MB/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for contestant, found in results.items():
        idle, busy = (list(each) for each in zip(*found, strict=True))
        print(f"| {contestant.name} | idle | {_latencies(idle)} | |")
        rate = median(each.rate for each in busy)
        print(f"| {contestant.name} | ten fetches | {_latencies(busy)} | {rate:.0f} |", flush=True)


def _latencies(found: Sequence[Health]) -> str:
    return " | ".join(
        " / ".join(
            f"{median(getattr(each, what).percentile(percent) for each in found):.1f}"
            for percent in (50, 99)
        )
        for what in ("small", "loop", "machine")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_demand", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    arguments = parser.parse_args()
    contestants = [OURS, THEIRS]
    if arguments.against:
        contestants.insert(1, other(arguments.against))
    compare(contestants, arguments.rounds)


if __name__ == "__main__":
    main()
