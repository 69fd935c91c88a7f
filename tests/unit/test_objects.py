"""Objects of an object store over HTTP, with a server that sends any response."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import (
    CHUNK_SIZE,
    ArtifactMissing,
    StoreReadError,
    StoreUnavailable,
)
from pulpcore.content_star.storage.objects import ObjectClient, ObjectSource, ObjectTarget

pytestmark = pytest.mark.anyio

SECRET = "/object?Signature=c%2Fd%20e"


def reply(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Store:
    """Answers requests with the replies given, in order."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.requests: list[str] = []
        self.connections: set[asyncio.StreamWriter] = set()
        self.idle = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(request.decode())
                answer = self.replies.pop(0)
                writer.write(answer)
                await writer.drain()
                if not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.remove(writer)
            writer.close()
            self.idle.set()

    def asked_for(self, name: str) -> list[str | None]:
        """Return the values of a header, request by request."""
        found = []
        for request in self.requests:
            headers = dict(line.split(": ", 1) for line in request.split("\r\n")[1:] if line)
            found.append(headers.get(name))
        return found


@asynccontextmanager
async def source(store: Store, size: int) -> AsyncIterator[ObjectSource]:
    server = await asyncio.start_server(store.serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    client = ObjectClient()
    async with server, client.session:
        target = ObjectTarget(f"http://127.0.0.1:{port}{SECRET}")
        yield ObjectSource(client, "artifact/ab/cd", target, size)


async def test_object_url_is_sent_as_signed():
    store = Store(reply("200 OK", b"abc"))
    async with source(store, 3) as object:
        with await object.open([ByteRange(0, 3)]) as file:
            assert (file.size, await file.read(0, 3)) == (3, b"abc")
    assert store.requests[0].startswith(f"GET {SECRET} HTTP/1.1\r\n")
    assert store.asked_for("Accept-Encoding") == ["identity"]
    assert store.asked_for("Range") == [None]


async def test_object_ranges_are_requested_in_turn_on_one_connection():
    store = Store(
        reply("206 Partial Content", b"bc", Content_Range="bytes 1-2/9"),
        reply("206 Partial Content", b"a", Content_Range="bytes 0-0/9"),
    )
    async with source(store, 9) as object:
        with await object.open([ByteRange(1, 3), ByteRange(0, 1)]) as file:
            assert await file.read(1, 2) == b"bc"
            assert await file.read(0, 1) == b"a"
        assert len(store.connections) == 1
    assert store.asked_for("Range") == ["bytes=1-2", "bytes=0-0"]


async def test_object_without_ranges_is_requested_for_one_byte():
    store = Store(reply("206 Partial Content", b"a", Content_Range="bytes 0-0/9"), reply("200 OK"))
    async with source(store, 9) as object:
        with await object.open([]) as file:
            assert file.size == 9
        object.size = 0
        with await object.open([]) as file:
            assert file.size == 0
    assert store.asked_for("Range") == ["bytes=0-0", None]


@pytest.mark.parametrize("refusal", [reply("503 Slow Down"), reply("500 Oops"), b""])
async def test_object_store_error_is_retried(refusal: bytes):
    store = Store(refusal, reply("200 OK", b"abc"))
    async with source(store, 3) as object:
        with await object.open([ByteRange(0, 3)]) as file:
            assert await file.read(0, 3) == b"abc"


async def test_object_store_error_is_raised_after_the_retries():
    store = Store(*[reply("503 Slow Down")] * 9)
    async with source(store, 3) as object:
        with pytest.raises(StoreUnavailable, match="status 503"):
            await object.open([])
    assert len(store.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply("404 Not Found"), ArtifactMissing),
        (reply("416 Range Not Satisfiable"), ArtifactMissing),
        (reply("403 Forbidden"), StoreUnavailable),
        (reply("301 Moved", Location="/elsewhere"), StoreUnavailable),
        (reply("200 OK", b"abcdefghi"), StoreUnavailable),
        (reply("206 Partial Content", b"cd", Content_Range="bytes 2-3/9"), StoreUnavailable),
        (reply("206 Partial Content", b"cd"), StoreUnavailable),
        (b"no HTTP at all\r\n\r\n", StoreUnavailable),
    ],
)
async def test_object_response_with_another_range_raises(answer: bytes, error: type[Exception]):
    store = Store(answer)
    async with source(store, 9) as object:
        with pytest.raises(error) as failure:
            await object.open([ByteRange(1, 3)])
        assert "Signature" not in str(failure.value)
        assert failure.value.__suppress_context__ or failure.value.__context__ is None
    assert len(store.requests) == 1


async def test_object_size_is_that_of_the_response():
    """Whoever opened the object compares it."""
    store = Store(
        reply("200 OK", b"abcd"),
        reply("206 Partial Content", b"a", Content_Range="bytes 0-0/7"),
    )
    async with source(store, 9) as object:
        for parts in ([ByteRange(0, 9)], []):
            with await object.open(parts) as file:
                assert file.size == (4 if parts else 7)


async def test_object_range_that_fails_later_raises_store_read_error():
    for second in (
        reply("404 Not Found"),
        reply("206 Partial Content", b"c", Content_Range="bytes 2-2/3"),
    ):
        store = Store(reply("206 Partial Content", b"a", Content_Range="bytes 0-0/9"), second)
        async with source(store, 9) as object:
            with await object.open([ByteRange(0, 1), ByteRange(2, 3)]) as file:
                assert await file.read(0, 1) == b"a"
                with pytest.raises(StoreReadError):
                    await file.read(2, 1)


async def test_object_that_is_closed_early_closes_the_connection():
    size = 400 * CHUNK_SIZE
    store = Store(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    async with source(store, size) as object:
        with await object.open([ByteRange(0, size)]) as file:
            assert await file.read(0, size) == bytes(CHUNK_SIZE)
            writer = next(iter(store.connections))
            assert writer.transport.get_write_buffer_size() > size // 2
        await asyncio.wait_for(store.idle.wait(), 30)


async def test_object_target_repr_hides_the_signature():
    assert "Signature" not in repr(ObjectTarget(SECRET))
