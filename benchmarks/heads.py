"""Asks for the head of a URL on many connections at once, which wrk cannot: it waits for bodies.

    python -m benchmarks.heads URL SECONDS CONNECTIONS

prints what `asked.lua` prints.
"""

import asyncio
import json
import sys
import time
from statistics import quantiles
from urllib.parse import urlsplit

import uvloop

END = b"\r\n\r\n"


class Heads(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last is there."""

    def __init__(self, request: bytes, milliseconds: list[float]) -> None:
        self.request = request
        self.milliseconds = milliseconds
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(END):
            assert self.received.startswith(b"HTTP/1.1 200"), self.received
            self.received = b""
            self.milliseconds.append((time.perf_counter() - self.began) * 1e3)
            self.ask()


async def measure(url: str, seconds: float, connections: int) -> dict[str, float]:
    parts = urlsplit(url)
    request = f"HEAD {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    milliseconds: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(
            lambda: Heads(request, milliseconds), parts.hostname, parts.port
        )
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or len(milliseconds) < 2:
        await asyncio.sleep(0.1)
    percentiles = quantiles(milliseconds, n=100)
    counts = {"requests": len(milliseconds), "seconds": elapsed, "bytes": 0, "failed": 0}
    return {**counts, "p50": percentiles[49], "p99": percentiles[98]}


if __name__ == "__main__":
    url, seconds, connections = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(url, float(seconds), int(connections)))))
