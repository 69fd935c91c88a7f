"""Request/response cycle of uvicorn with header names in title case and a body timeout."""

import logging
from collections.abc import Coroutine, Iterable
from types import FunctionType
from typing import Any

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from pulpcore.content_star.server.file_range import disconnect
from pulpcore.content_star.server.header_case import header_prefix, join_lines
from pulpcore.content_star.server.internals import require
from pulpcore.content_star.server.zero_copy import ZERO_COPY, send_file

_CONTENT_LENGTH, _TRANSFER_ENCODING, _CONNECTION = (
    header_prefix(name) for name in (b"content-length", b"transfer-encoding", b"connection")
)
_FRAMING = frozenset({_CONTENT_LENGTH, _TRANSFER_ENCODING, _CONNECTION})

_NEEDED = {
    "access_log", "access_logger", "body", "chunked_encoding", "default_headers", "disconnected",
    "expected_content_length", "flow", "keep_alive", "message_event", "more_body",
    "response_complete", "response_started", "scope", "transport", "waiting_for_100_continue",
}  # fmt: skip


require(RequestResponseCycle, {"send", "receive", "run_asgi"}, _NEEDED)


def uvicorn_cycle(send: Send) -> RequestResponseCycle | None:
    """Return the cycle that the method `send` is bound to, None for other servers.

    Also None with uvicorn's h11, and if a middleware has wrapped `send`.
    """
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, RequestResponseCycle) else None


class Cycle(RequestResponseCycle):
    """Cycle that writes header names in title case, and sets a deadline while the body is awaited.

    `HttpProtocol` has uvicorn make instances of it.
    """

    sends_files = True
    """Whether `send` implements the extension of `zero_copy`."""

    is_last = False
    """Whether the connection ends with the response. uvicorn, which would close it before the
    client has read the response, knows `keep_alive` only."""

    tcp: Any = None
    """With TLS, the transport below."""

    def end_connection(self) -> None:
        """End the connection with the response, which says so if it has not begun."""
        if self.response_started:
            self.is_last = True
        else:
            self.keep_alive = False

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """Send an ASGI message."""
        if self.tcp is not None and self.tcp.is_closing():
            disconnect(self)
        if message["type"] == ZERO_COPY:
            return send_file(self, message)
        if self.response_started or message["type"] != "http.response.start":
            return RequestResponseCycle.send(self, message)
        return self._send_start(message)

    async def _send_start(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        status = message["status"]
        if self.access_log:
            self._log(status)
        self.transport.write(self._head(status, message.get("headers", ())))
        if not self.keep_alive:
            self.is_last = self.keep_alive = True

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return status line and headers, and set the framing of the body (RFC 9112 section 6).

        Raises RuntimeError for a header value with control characters (response splitting).
        """
        lines = [STATUS_LINE[status][:-2]]
        closes = False
        for name, value in (*self.default_headers, *headers):
            prefix = header_prefix(name)
            lines.append(prefix + value)
            if prefix not in _FRAMING:
                continue
            if prefix == _CONTENT_LENGTH and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif prefix == _TRANSFER_ENCODING and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif prefix == _CONNECTION and b"close" in value.lower():
                closes = True
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(_CONNECTION + b"close")
        if self.chunked_encoding is None and not self._has_no_body(status):
            self.chunked_encoding = True
            lines.append(_TRANSFER_ENCODING + b"chunked")
        lines.append(b"")
        return join_lines(lines)

    def _has_no_body(self, status: int) -> bool:
        return self.scope["method"] == "HEAD" or status in (204, 304)

    def _log(self, status: int) -> None:
        """Write a line of uvicorn's access log, with the arguments that its formatter expects."""
        self.access_logger.log(
            logging.INFO,
            '%s - "%s %s HTTP/%s" %d',
            get_client_addr(self.scope),
            self.scope["method"],
            get_path_with_query_string(self.scope),
            self.scope["http_version"],
            status,
        )

    async def receive(self) -> Any:
        """Receive an ASGI message, with a deadline for the next part of the body."""
        if self.disconnected:
            self.waiting_for_100_continue = False  # an error response may have been sent
        if not self.more_body or self.body or self.disconnected or self.response_complete:
            return await super().receive()
        protocol: Any = self.transport.get_protocol()
        deadline = protocol.body_awaited()
        try:
            return await super().receive()
        finally:
            protocol.body_received(deadline)


def _with_cycle(method: FunctionType) -> FunctionType:
    """Return a method of uvicorn that makes instances of our `Cycle` instead of its own class.

    To set the class of an instance afterwards takes 2 us: Python then looks attributes up slowly.
    Raises ImportError if the method does not name the class.
    """
    name = RequestResponseCycle.__name__
    if name not in method.__code__.co_names:
        raise ImportError(f"uvicorn's {method.__qualname__} does not make a {name}.")
    return FunctionType(method.__code__, {**method.__globals__, name: Cycle})


start_request: Any = _with_cycle(HttpToolsProtocol.on_headers_complete)  # type: ignore[arg-type]
"""Start the request whose head a protocol has parsed, as uvicorn does, with a `Cycle`."""
