"""Stream a response body of byte ranges and literal bytes as ASGI messages."""

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial

import anyio
from starlette.types import Message, Receive, Send

from pulpcore.content_star.responses.disconnect import until_disconnect
from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import Readable

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


async def stream(file: Readable, segments: Sequence[Segment], receive: Receive, send: Send) -> None:
    """Send the body in chunks of at most CHUNK_SIZE bytes; stop early on a client disconnect.

    Raises OSError if reading fails: the response has started, so the server has to close the
    connection for the client to see that the body is incomplete.
    """
    await until_disconnect(receive, partial(_send_segments, file, segments, send))


async def receive_never() -> Message:
    """Never return: the `receive` of a response whose caller watches for the client disconnect."""
    await anyio.sleep_forever()
    raise AssertionError


async def _send_segments(file: Readable, segments: Sequence[Segment], send: Send) -> None:
    for segment in segments:
        if isinstance(segment, bytes):
            await send({"type": "http.response.body", "body": segment, "more_body": True})
        else:
            await _send_range(file, segment, send)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


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
