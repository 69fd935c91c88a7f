"""The ASGI extension `http.response.zerocopysend` for uvicorn, which does not offer it itself.

The kernel sends a file from its page cache to the socket, with `os.sendfile`, past uvicorn's
transport (https://asgi.readthedocs.io/en/latest/extensions.html#zero-copy-send). The internals of
uvicorn that this needs are named here; if one is missing, the extension is not offered, and
applications read their files.

Over TLS, the file is read and written to the transport (`tls`).
"""

import logging
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import h11
from starlette.types import Message, Scope, Send

from pulpcore.content_star.server.file_range import FileRange, check_connected, flush
from pulpcore.content_star.server.internals import missing
from pulpcore.content_star.server.tls import EncryptedRange

logger = logging.getLogger(__name__)

ZERO_COPY = "http.response.zerocopysend"

_IS_LINUX = hasattr(os, "sendfile") and hasattr(os, "RWF_NOWAIT")

Frame = Callable[[Any, int], tuple[bytes, bytes]]


class _Placeholder:
    """Body of an event of h11, which needs its length only."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


def _frame_httptools(cycle: Any, count: int) -> tuple[bytes, bytes]:
    """Return the framing before and after `count` bytes of a body, and count them as sent.

    Raises RuntimeError if they exceed Content-Length, as uvicorn does.
    """
    if cycle.chunked_encoding:
        return b"%x\r\n" % count, b"\r\n"
    if count > cycle.expected_content_length:
        raise RuntimeError("Response content longer than Content-Length")
    cycle.expected_content_length -= count
    return b"", b""


def _frame_h11(cycle: Any, count: int) -> tuple[bytes, bytes]:
    """As `_frame_httptools`. Raises h11.LocalProtocolError."""
    data: Any = _Placeholder(count)
    parts: Any = cycle.conn.send_with_data_passthrough(h11.Data(data))
    return (b"", b"") if len(parts) == 1 else (parts[0], parts[2])


_NEEDED = {
    "disconnected", "flow", "message_event", "response_complete", "response_started", "scope",
    "transport",
}  # fmt: skip
_IMPLEMENTATIONS: dict[str, tuple[Frame, set[str]]] = {
    "httptools_impl": (_frame_httptools, {"chunked_encoding", "expected_content_length"}),
    "h11_impl": (_frame_h11, {"conn"}),
}


def _frames() -> dict[type, Frame]:
    """Return the framing for each class of uvicorn that handles a request and is as expected."""
    frames: dict[type, Frame] = {}
    for name, (frame, attributes) in _IMPLEMENTATIONS.items():
        try:
            cycle: type = import_module(f"uvicorn.protocols.http.{name}").RequestResponseCycle
            absent = missing(cycle, {"send"}, _NEEDED | attributes)
        except (ImportError, AttributeError) as error:
            absent = [str(error)]
        if not absent:
            frames[cycle] = frame
            continue
        logger.warning(
            "Large files are read and copied, at a multiple of the CPU time, with uvicorn's %s,"
            " which lacks %s. Install a version of uvicorn that pulp-content-star was tested with.",
            name,
            ", ".join(absent),
        )
    return frames


_FRAMES = _frames() if _IS_LINUX else {}


def _frame_of(cycle: Any) -> Frame | None:
    kind = type(cycle)
    return _FRAMES.get(kind) or _FRAMES.get(kind.__bases__[0])  # of our class


def offer_zero_copy(scope: Scope, send: Send) -> Send:
    """Offer the extension in `scope` if `send` is uvicorn's; return the `send` that implements it.

    Not offered if a middleware has wrapped `send`: it might change bodies.
    """
    cycle: Any = getattr(send, "__self__", None)
    if _frame_of(cycle) is None:
        return send
    scope.setdefault("extensions", {})[ZERO_COPY] = {}
    if getattr(cycle, "sends_files", False):
        return send

    def send_or_send_file(message: Message) -> Any:
        return send_file(cycle, message) if message["type"] == ZERO_COPY else send(message)

    return send_or_send_file


async def send_file(cycle: Any, message: Message) -> None:
    """Send a message of the type `http.response.zerocopysend`.

    Sets its `count` to the bytes that were sent, also if it fails or is cancelled.

    Raises ConnectionError if the client has disconnected, and OSError if the file cannot be read
    or ends early: the application has to pass that on, so that uvicorn closes the connection.
    """
    if cycle.disconnected:
        check_connected(cycle)  # also of the response's start, which has not been sent then
    if not cycle.response_started or cycle.response_complete:
        raise RuntimeError(f"Unexpected ASGI message {ZERO_COPY!r}.")
    if cycle.scope["method"] != "HEAD":
        file, offset, count = message["file"], message.get("offset"), message.get("count")
        if offset is None:
            offset = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        if count is None:
            count = os.fstat(file.fileno()).st_size - offset
        message["count"] = 0
        try:
            await _send_framed(cycle, message, offset, count)
        except OSError as error:
            error.filename = getattr(file, "name", None)
            raise
    if not message.get("more_body", False):
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_framed(cycle: Any, message: Message, offset: int, count: int) -> None:
    transport = cycle.transport
    check_connected(cycle)
    frame = _frame_of(cycle)
    assert frame is not None
    before, after = frame(cycle, count)
    if before:
        transport.write(before)
    is_encrypted = transport.get_extra_info("sslcontext") is not None
    if not is_encrypted:
        await flush(cycle)
    range_class = EncryptedRange if is_encrypted else FileRange
    # A duplicate, since event loops watch no descriptor that belongs to a transport.
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        await range_class(cycle, descriptor, message, offset, offset + count).send()
    finally:
        os.close(descriptor)
    if after:
        transport.write(after)
