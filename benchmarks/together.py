"""API and content in one process: what a busy API takes from content, by values of a setting.

python -m benchmarks.together [--setting NAME=VALUE,VALUE] [--busy N] [--rounds N] [--seconds N]
"""

import argparse
import http.client
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from urllib.parse import urlsplit

from benchmarks.cases import Target, same, whole
from benchmarks.data import BIG, ONE, Data
from benchmarks.footprint import api
from benchmarks.servers import OURS_HTTP, QUIET, pulp, theirs
from tests.support.instance import Instance
from tests.support.pulp import API
from tests.support.server import Server, serving

SETTING = "CONTENT_STAR_API_NICE=0,3,5,10"
API_CLIENTS = 4
PACE = 1.25e9
"""Bytes a second of a client with 10 Gbit/s."""

TASKS = 100
LIST = f"{API}tasks/?limit={TASKS}"
BUSY = "while True: pass"


@dataclass
class Load:
    """Clients of the API, which list tasks with a password in each request."""

    url: str
    authorization: str
    lists: int = 0
    """Number of responses so far."""

    failed: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests until the block ends."""
        stop = threading.Event()
        clients = [threading.Thread(target=self._send, args=(stop,)) for _ in range(API_CLIENTS)]
        try:
            for client in clients:
                client.start()
            yield
        finally:
            stop.set()
            for client in clients:
                client.join()

    def _send(self, stop: threading.Event) -> None:
        parts = urlsplit(self.url)
        while not stop.is_set():
            # `pulpcore-api` closes each connection.
            connection = http.client.HTTPConnection(parts.netloc, timeout=120)
            connection.request("GET", LIST, headers={"Authorization": self.authorization})
            response = connection.getresponse()
            response.read()
            connection.close()
            if response.status == 200:
                self.lists += 1
            else:
                self.failed.append(f"{response.status} {response.reason}")


@dataclass
class Figures:
    """Figures of a server in one round."""

    alone: float
    """Bytes a second of a download without the API's clients, as fast as its client can."""

    beside: float
    """The same beside them."""

    paced: float
    """Bytes a second beside them of a download by a client that receives `PACE`."""

    requests: float
    """Requests a second for a small cached file beside them."""

    p99: float
    """Milliseconds of 99 of 100 of those."""

    lists: float
    """Lists a second while the small file was requested."""

    def cells(self) -> list[str]:
        lost, lost_paced = 1 - self.beside / self.alone, 1 - self.paced / PACE
        return [
            f"{self.alone / 1e6:,.0f}",
            f"{lost:.0%}",
            f"{lost_paced:.1%}",
            f"{self.requests:,.0f}",
            f"{self.p99:.1f}",
            f"{self.lists:.1f}",
        ]


@dataclass(frozen=True)
class Pair:
    """The servers of the API and of content, which may be one."""

    api: Server
    content: Server


def start(stack: ExitStack, instance: Instance, setting: str) -> dict[str, Pair]:
    """Start one process for each value of a setting, and upstream's two."""
    pairs = {}
    setting, _, values = setting.partition("=")
    for value in values.split(","):
        environ = {f"PULP_{setting}": value}
        server = stack.enter_context(serving(instance, *QUIET, *OURS_HTTP, **environ))
        pairs[f"one process, `{setting}` {value}"] = Pair(server, server)
    upstream: list[Callable[[Instance], AbstractContextManager[Server]]] = [api, theirs]
    pairs["pulpcore-api and pulpcore-content"] = Pair(
        *(stack.enter_context(each(instance)) for each in upstream)
    )
    return pairs


def paced_download(target: Target, seconds: float) -> float:
    """Return the bytes a second that a client receives which takes no more than `PACE`."""
    parts = urlsplit(target.url + BIG.path())
    assert parts.hostname and parts.port
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    buffer = memoryview(bytearray(1 << 20))
    total, elapsed, began = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        with socket.create_connection((parts.hostname, parts.port), timeout=120) as connection:
            connection.sendall(request.encode())
            while elapsed < seconds and (count := connection.recv_into(buffer)):
                total += count
                elapsed = time.perf_counter() - began
                time.sleep(max(0.0, total / PACE - elapsed))
    return total / elapsed


def measure(pair: Pair, data: Data, seconds: float) -> Figures:
    target = Target(pair.content.content_url, data)
    load = Load(pair.api.url, data.authorization)
    small = partial(same, ONE, connections=4)
    small(target, 1)  # cached
    alone = whole(1, target, seconds)
    with load.running():
        beside = whole(1, target, seconds)
        paced = paced_download(target, seconds)
        before = load.lists
        requests = small(target, 2 * seconds)
        lists = load.lists - before
    if load.failed or requests.failed:
        sys.exit(f"Requests failed: {load.failed}, {requests.failed} of the small file.")
    return Figures(
        alone=alone.bytes / alone.seconds,
        beside=beside.bytes / beside.seconds,
        paced=paced,
        requests=requests.requests / requests.seconds,
        p99=requests.p99,
        lists=lists / requests.seconds,
    )


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def make_tasks() -> None:
    from pulpcore.app.models import Task

    for _ in range(TASKS):
        Task.objects.create(name="pulpcore.benchmark", state="completed")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.together", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--setting", default=SETTING, metavar="NAME=VALUE,VALUE")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside it (0)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement (4)")
    arguments = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    found: dict[str, list[Figures]] = {}
    with pulp() as instance, ExitStack() as stack:
        data = Data(instance, [ONE, BIG])
        make_tasks()
        pairs = start(stack, instance, arguments.setting)
        stack.enter_context(busy(arguments.busy))
        for _ in range(arguments.rounds):
            for name, pair in pairs.items():
                figures = measure(pair, data, arguments.seconds)
                found.setdefault(name, []).append(figures)
                print(name, figures, file=sys.stderr, flush=True)
    print(f"Beside {arguments.busy} busy processes, medians of {arguments.rounds} rounds:\n")
    print(
        "| API and content | download alone, MB/s | beside the API it loses "
        "| one of 10 Gbit/s loses | small file, requests/s | p99, ms | lists/s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rounds in found.items():
        print(f"| {name} | {' | '.join(_median(rounds).cells())} |")


def _median(rounds: Sequence[Figures]) -> Figures:
    return Figures(
        *(median(getattr(each, name) for each in rounds) for name in Figures.__annotations__)
    )


if __name__ == "__main__":
    main()
