"""Stream a response body of byte ranges and literal bytes as ASGI messages."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import DescriptorReadable, Readable

# ASGI extension of servers that send ranges of a file without copying them.
ZERO_COPY = "http.response.zerocopysend"

# Bytes of the shortest range that is sent so.
ZERO_COPY_MIN = 128 * 1024

# Bytes that the server is given at a time. It begins each message with close probes of the page
# cache: messages of 4 MiB cost 6 to 9 % more CPU time.
ZERO_COPY_STEP = 64 * 1024 * 1024

# Literal bytes, or a range of the artifact.
Segment = bytes | ByteRange


def multipart(
    ranges: Sequence[ByteRange], size: int, content_type: str
) -> tuple[str, list[Segment]]:
    """Return content type and segments of a multipart/byteranges body (14.6).

    `size` is that of the whole file in bytes, `content_type` that of each part. The boundary is
    random, so that no file can be made to contain it.
    """
    boundary = secrets.token_hex(16)
    segments: list[Segment] = []
    lead = f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: "
    for part in ranges:
        segments.append(f"{lead}{part.content_range(size)}\r\n\r\n".encode("latin-1"))
        segments.append(part)
        segments.append(b"\r\n")
    segments.append(f"--{boundary}--\r\n".encode("latin-1"))
    return f"multipart/byteranges; boundary={boundary}", segments


async def read_whole(file: Readable, segments: Sequence[Segment]) -> bytes:
    """Return a body of at most CHUNK_SIZE bytes. Raises OSError if reading fails."""
    pieces = [await _read_segment(file, segment) for segment in segments]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def stream(
    file: Readable, segments: Sequence[Segment], scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the body in chunks of at most CHUNK_SIZE bytes, or without copying it if the server can.

    Stops early on a client disconnect. Raises OSError if reading fails: the response has started,
    so the server has to close the connection for the client to see that the body is incomplete.
    """
    descriptor = file if ZERO_COPY in (scope.get("extensions") or {}) else None
    if not isinstance(descriptor, DescriptorReadable):
        descriptor = None
    work = partial(_send_segments, file, descriptor, segments, send)
    with suppress(ClientDisconnect):
        await until_disconnect(receive, work)


async def receive_never() -> Message:
    """Never return: the `receive` of a response whose caller watches for the client disconnect."""
    await anyio.sleep_forever()
    raise AssertionError


async def _send_segments(
    file: Readable,
    descriptor: DescriptorReadable | None,
    segments: Sequence[Segment],
    send: Send,
) -> None:
    for segment in segments:
        if isinstance(segment, bytes):
            await send({"type": "http.response.body", "body": segment, "more_body": True})
        elif descriptor is not None and len(segment) >= ZERO_COPY_MIN:
            rest = await _send_descriptor(descriptor, segment, send)
            await _send_range(file, rest, send)
        else:
            await _send_range(file, segment, send)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_descriptor(file: DescriptorReadable, part: ByteRange, send: Send) -> ByteRange:
    """Have the server send the bytes from the file; return those that have to be read.

    Raises ClientDisconnect.
    """
    offset = part.start
    while length := part.stop - offset:
        count = await file.available(offset, min(length, ZERO_COPY_STEP))
        if not count:
            break
        message = {"type": ZERO_COPY, "file": file, "offset": offset, "count": count}
        try:
            await send({**message, "more_body": True})
        except ConnectionError as error:
            raise ClientDisconnect from error
        offset += count
    return ByteRange(offset, part.stop)


async def _send_range(file: Readable, part: ByteRange, send: Send) -> None:
    offset = part.start
    while offset < part.stop:
        body = await file.read(offset, part.stop - offset)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        offset += len(body)
        # Neither reading cached pages nor sending to a fast or disconnected client yields to the
        # event loop. anyio's `checkpoint` would, but takes a microsecond more.
        await asyncio.sleep(0)


async def _read_segment(file: Readable, segment: Segment) -> bytes:
    if isinstance(segment, bytes):
        return segment
    return await file.read(segment.start, len(segment))
