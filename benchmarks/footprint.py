"""Seconds until Pulp serves, and its memory, ours and upstream's in turns."""

import argparse
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from statistics import median

import httpx
import psutil

from benchmarks.data import ONE, Data
from benchmarks.servers import ours, pulp, theirs
from tests.support.instance import Instance
from tests.support.server import Server, free_port, running

STATUS = "/pulp/api/v3/status/"
FILE = f"/pulp/content/{ONE.path()}"
REQUESTS = 50


def api(instance: Instance) -> AbstractContextManager[Server]:
    """Upstream's `pulpcore-api`."""
    bind = f"127.0.0.1:{free_port()}"
    command = ["pulpcore-api", "--bind", bind, "--workers", "1"]
    return running(instance, command, f"http://{bind}")


@dataclass(frozen=True)
class Part:
    """One of the services that make up a Pulp."""

    start: Callable[[Instance], AbstractContextManager[Server]]
    paths: tuple[str, ...]


PULPS = {
    "pulp-content-star, one process": [Part(ours, (STATUS, FILE))],
    "pulpcore-api and pulpcore-content": [Part(api, (STATUS,)), Part(theirs, (FILE,))],
}


@dataclass(frozen=True)
class Footprint:
    """Seconds until the last service has answered, bytes of memory of all after some requests."""

    seconds: float
    rss: int
    pss: int
    """As `rss`, with pages that processes share divided among them."""


def measure(instance: Instance, parts: Iterable[Part]) -> Footprint:
    """Start the services one after the other, which gives each all of the machine."""
    with ExitStack() as stack:
        seconds, rss, pss = [], 0, 0
        for part in parts:
            began = time.perf_counter()
            server = stack.enter_context(part.start(instance))
            _ask(server, part.paths)
            seconds.append(time.perf_counter() - began)
            for _ in range(REQUESTS):
                _ask(server, part.paths)
            process = psutil.Process(server.process.pid)
            for each in [process, *process.children(recursive=True)]:
                memory = each.memory_full_info()
                rss, pss = rss + memory.rss, pss + memory.pss
        return Footprint(max(seconds), rss, pss)


def _ask(server: Server, paths: Iterable[str]) -> None:
    for path in paths:
        httpx.get(server.url + path, trust_env=False, timeout=60).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[str, list[Footprint]] = {name: [] for name in PULPS}
    with pulp() as instance:
        Data(instance, [ONE])
        for _ in range(rounds):
            for name, parts in PULPS.items():
                found[name].append(measure(instance, parts))
    print("| the API and content | seconds until it serves | RSS MB | PSS MB |")
    print("| --- | --- | --- | --- |")
    for name, each in found.items():
        seconds = median(one.seconds for one in each)
        rss, pss = (median(getattr(one, what) for one in each) / 1e6 for what in ("rss", "pss"))
        print(f"| {name} | {seconds:.1f} | {rss:.0f} | {pss:.0f} |")


if __name__ == "__main__":
    main()
