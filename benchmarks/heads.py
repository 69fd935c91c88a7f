"""Asks for the head of a URL on many connections at once, which wrk cannot: it waits for bodies.

    python -m benchmarks.heads URL SECONDS CONNECTIONS

prints what `asked.lua` prints.
"""

import asyncio
import json
import sys
import time
from statistics import quantiles
from typing import cast
from urllib.parse import urlsplit

import uvloop

END = b"\r\n\r\n"


class Heads(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last is there."""

    def __init__(
        self, request: bytes, milliseconds: list[float], failure: asyncio.Future[None]
    ) -> None:
        self.request = request
        self.milliseconds = milliseconds
        self.failure = failure
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.received.startswith(b"HTTP/1.1 200"[: len(self.received)]):
            self.transport.close()
        elif self.received.endswith(END):
            self.received = b""
            self.milliseconds.append((time.perf_counter() - self.began) * 1e3)
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.failure.done():
            self.failure.set_exception(RuntimeError(f"{error or self.received!r}"))


async def measure(url: str, seconds: float, connections: int) -> dict[str, float]:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    host, port = parts.hostname, parts.port
    request = f"HEAD {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    milliseconds: list[float] = []
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Heads(request, milliseconds, failure), host, port)
    await asyncio.wait([failure], timeout=seconds)
    if failure.done():
        failure.result()
    elapsed = time.perf_counter() - began
    percentiles = quantiles(milliseconds, n=100)
    counts = {"requests": len(milliseconds), "seconds": elapsed, "bytes": 0, "failed": 0}
    return {**counts, "p50": percentiles[49], "p99": percentiles[98]}


if __name__ == "__main__":
    url, seconds, connections = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(url, float(seconds), int(connections)))))
