"""Bodies made of parts of an artifact and bytes between them, sent as ASGI messages."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from anyio import CancelScope
from starlette.types import Message, Receive, Send

from pulpcore.content_star.responses.ranges import ByteRange
from pulpcore.content_star.responses.source import Readable

# Bytes as they are, or a range of the artifact.
Segment = bytes | ByteRange


def multipart(
    ranges: Sequence[ByteRange], size: int, content_type: str
) -> tuple[str, list[Segment]]:
    """Several ranges of a `size` bytes file as multipart/byteranges (14.6): its type, its body.

    The boundary is random, so that no file can contain it on purpose.
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
    """A body of at most STEP bytes. Raises OSError as reading does."""
    pieces = [await _load(file, segment) for segment in segments]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def stream(file: Readable, segments: Sequence[Segment], receive: Receive, send: Send) -> None:
    """Send the body step by step; return early, with the body incomplete, if the client leaves.

    Raises OSError as reading does: the response has started by then, and a server
    can only cut the connection, which is how a client learns that it has not got everything.
    """
    await until_disconnect(receive, partial(_send_steps, file, segments, send))


async def until_disconnect(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work`, and cancel it if the client leaves."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
            await work()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def nothing() -> Message:
    """Receive in a response of which someone else sees that the client leaves."""
    await anyio.sleep_forever()
    raise AssertionError


async def _send_steps(file: Readable, segments: Sequence[Segment], send: Send) -> None:
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
        # To read from memory waits for nothing, and neither does sending to a client that keeps up
        # or, with uvicorn, to one that has left. Without this no other task would get its turn.
        # anyio's `checkpoint` does the same and takes a microsecond more.
        await asyncio.sleep(0)


async def _load(file: Readable, segment: Segment) -> bytes:
    if isinstance(segment, bytes):
        return segment
    return await file.read(segment.start, len(segment))


async def _cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel()
            return
