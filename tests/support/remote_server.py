"""An HTTP server that remotes point at: it counts requests, and can misbehave for each path."""

import asyncio
import gzip
import hashlib
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

Behaviour = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Upstream:
    """The remote server's files by path, and how it answers; `serving_upstream` runs one."""

    files: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    """The behaviour of a path; `plain` where there is none."""

    gets: Counter[str] = field(default_factory=Counter)
    """The number of requests of each path, GET and HEAD."""

    seen: list[web.Request] = field(default_factory=list)
    open: int = 0
    """The number of responses that are being sent."""

    connected: Callable[[], int] = int
    """Return the number of open client connections, idle ones included."""

    url: str = ""

    def manifest(self, *paths: str) -> bytes:
        """Return a PULP_MANIFEST of files, from which pulp_file syncs them."""
        lines = [
            f"{path},{hashlib.sha256(self.files[path]).hexdigest()},{len(self.files[path])}"
            for path in paths
        ]
        return "\n".join(lines).encode()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.gets[path] += 1
        self.seen.append(request)
        if path not in self.files:
            raise web.HTTPNotFound
        self.open += 1
        try:
            behaviour = self.behaviours.get(path, plain)
            return await behaviour(request, self.files[path])
        finally:
            self.open -= 1


async def plain(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data)


async def ranges(request: web.Request, data: bytes) -> web.StreamResponse:
    """Answer a range request: the file from the first byte of the range to its end."""
    start = request.http_range.start or 0
    headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:], headers=headers)


async def chunked(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(data), 50_000):
        await response.write(data[start : start + 50_000])
    await response.write_eof()
    return response


async def wrong_bytes(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send a body of the right length whose last byte is wrong."""
    return web.Response(body=data[:-1] + bytes([data[-1] ^ 1]))


async def too_long(request: web.Request, data: bytes) -> web.StreamResponse:
    return await chunked(request, data + b"more")


async def gzip_encoded(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send the file with Content-Encoding gzip, whatever Accept-Encoding says."""
    return web.Response(body=gzip.compress(data), headers={"Content-Encoding": "gzip"})


async def mislabelled_as_gzip(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send the file as it is with Content-Encoding gzip: for files that are gzip themselves."""
    return web.Response(body=data, headers={"Content-Encoding": "gzip"})


def without_length(behaviour: Behaviour) -> Behaviour:
    """Return `behaviour` with chunked encoding, without Content-Length."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        response = await behaviour(request, data)
        response.enable_chunked_encoding()
        return response

    return respond


async def hanging(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send no response until the client disconnects."""
    while True:
        if request.transport is None or request.transport.is_closing():
            return web.Response()
        await asyncio.sleep(0.01)


def dripping(at: int) -> Behaviour:
    """Send `at` bytes at once, and then one every 50 ms."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:at])
        with suppress(ConnectionError):
            for start in range(at, len(data)):
                await asyncio.sleep(0.05)
                await response.write(data[start : start + 1])
        return response

    return respond


def status(code: int) -> Behaviour:
    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(status=code)

    return respond


def truncated(at: int) -> Behaviour:
    """Announce the whole file with Content-Length, and close the connection after `at` bytes."""

    async def respond(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:at])
        assert request.transport is not None
        await asyncio.sleep(0)
        request.transport.close()
        return response

    return respond


class PausedResponse:
    """Send the first `at` bytes, and the rest after `release()`."""

    def __init__(self, at: int, with_length: bool = True, **headers: str) -> None:
        self.at = at
        self.with_length = with_length
        self.headers = headers
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    async def __call__(self, request: web.Request, data: bytes) -> web.StreamResponse:
        length = {"Content-Length": str(len(data))} if self.with_length else {}
        response = web.StreamResponse(headers={**length, **self.headers})
        await response.prepare(request)
        await response.write(data[: self.at])
        while not self._released.is_set():
            assert request.transport is not None
            if request.transport.is_closing():
                return response
            await asyncio.sleep(0.01)
        await response.write(data[self.at :])
        await response.write_eof()
        return response


@contextmanager
def serving_upstream(tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """Run an `Upstream` in a thread on a random port, with HTTPS if there is a TLS context."""
    upstream = Upstream()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", upstream.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        assert runner.server is not None
        upstream.connected = lambda: len(runner.server.connections)
        scheme = "https" if tls else "http"
        upstream.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}/"
        return runner

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(300)

    runner = run(start())
    try:
        yield upstream
    finally:
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
