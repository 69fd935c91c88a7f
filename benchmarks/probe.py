"""Asks for a URL again and again, at a steady pace, until its standard input ends.

Then it prints how many milliseconds each answer took, as JSON. It is a process of its own: what
else a benchmark does must not delay it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from select import select
from statistics import quantiles
from urllib.parse import urlsplit

PAUSE = 0.01
"""Seconds from an answer to the next request."""


class Latency:
    """Latencies that a probe has measured, when its block has ended."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    def percentile(self, percent: int) -> float:
        return quantiles(self.milliseconds, n=100)[percent - 1]


@contextmanager
def probing(url: str) -> Iterator[Latency]:
    """Have the answers of `url` timed during the block."""
    command = [sys.executable, "-m", "benchmarks.probe", url]
    latency = Latency()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield latency
            latency.milliseconds = json.loads(process.communicate()[0])
        finally:
            process.kill()


def probe(url: str) -> list[float]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=60)
    found = []
    while not select([sys.stdin], [], [], PAUSE)[0]:
        began = time.perf_counter()
        connection.request("GET", parts.path or "/")
        connection.getresponse().read()
        found.append((time.perf_counter() - began) * 1000)
    return found


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
