"""uvicorn's HTTP protocol (httptools) with deadlines and limits."""

import asyncio
import socket
from collections import deque
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pulpcore.content_star.server.connections import Connections
from pulpcore.content_star.server.cycle import Cycle, require
from pulpcore.content_star.server.header_case import header_prefix

HEAD_BYTES = 128 * 1024
"""Request line and headers: client certificates come in one. Anything else that is no body, too."""
TARGET_BYTES = 16 * 1024
"""The request target: twice what nginx takes by default, and four times gunicorn."""
HEADERS = 256
"""Headers of a request: gunicorn takes 100."""
PIPELINE = 16
"""Requests that wait behind the one that is answered: apt sends ten."""
PIECE = 256
"""Bytes that are parsed at once where requests are pipelined: no more than 14 fit in."""
OVERHEAD = 16
"""Bytes of chunked framing for each byte of a body: six make a chunk of one byte."""
PROBE_SECONDS = 10
"""Between questions whether a client that has closed its half is there. Linux answers for one that
has left with a reset, but only a minute later (`tcp_fin_timeout`)."""
LAST_REQUEST = 1.0
"""Seconds for a request that is on its way when the server stops."""
IDLE_TIMEOUT = 5.0
"""Seconds for a client to read why it is refused, while all that it sends is thrown away."""

require(
    HttpToolsProtocol,
    {
        "connection_made", "connection_lost", "eof_received", "handle_websocket_upgrade", "on_body",
        "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete",
        "send_400_response", "shutdown", "_should_upgrade", "_unset_keepalive_if_required",
    },
    {
        "app", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state",
        "transport",
    },
)  # fmt: skip


def _probe(connection: socket.socket) -> None:
    """Have TCP ask whether the client is there; other sockets know."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)


class Flow(FlowControl):
    """Flow control that reads nothing more while requests wait for their turn."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self._pipeline:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """One connection, which a client cannot hold, fill or confuse.

    It closes a connection without a complete head in time (408), refuses large heads (431, 414),
    broken ones (400), and a body that stalls while the application waits for it (408). No error is
    written into the middle of another response. A client that has closed its half gets its answer.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.open_connections = Connections.of(server_state, self.loop)
        self.url = b""
        self.serving: RequestResponseCycle | None = None  # uvicorn's `cycle` is the newest request
        self.unparsed = bytearray()
        self.overhead = 0  # bytes since the last head or body
        self.in_body = False
        self.half_closed = False
        self.stopping = False
        self.refusal: bytes | None = None

    # asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that is being answered for, not only that of the newest request."""
        self.open_connections.remove(self)
        self.pipeline.clear()
        self.unparsed.clear()
        self._disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has sent all its requests, and waits for answers.

        One that has left looks the same until its system is asked, which TCP's keep-alive does.
        """
        self.half_closed = self.serving is not None and not self.in_body and self.scheme == "http"
        if self.half_closed:
            _probe(self.transport.get_extra_info("socket"))
        return self.half_closed

    def data_received(self, data: bytes) -> None:
        """Parse what the client has sent, pipelined requests one after the other."""
        if self.refusal is not None:
            return
        if self.unparsed or data.count(b"\r\n\r\n") > 1:
            self.unparsed += data
            self._parse_pipelined()
        else:
            self._parse(data)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return int(self.transport.get_extra_info("socket").fileno())

    @property
    def is_unread(self) -> bool:
        """Whether the event loop would not notice that the client leaves."""
        return self.half_closed or self.flow.read_paused

    # Parsing

    def _parse_pipelined(self) -> None:
        """Parse until so many requests wait that the rest has to."""
        while self.unparsed and self.refusal is None and len(self.pipeline) < PIPELINE:
            end = self.unparsed.find(b"\r\n\r\n", PIECE) + 4
            if end < 4:
                end = len(self.unparsed)
            piece = bytes(self.unparsed[:end])
            del self.unparsed[:end]
            self._parse(piece)
        if self.unparsed:
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request.")
        if self.overhead:
            self._check_overhead()

    def _check_overhead(self) -> None:
        """Have half a head completed in time, and refuse what goes on without head or body."""
        if self.overhead > HEAD_BYTES:
            self._refuse_size()
        elif not self.in_body and self.serving is None:
            self.open_connections.deadlines.setdefault(
                self, self.loop.time() + self.open_connections.head_timeout
            )

    def _refuse_size(self) -> None:
        if self.in_body:
            self.refuse(400, "More chunk extensions or trailers than body.")
        elif len(self.url) > TARGET_BYTES:
            self.refuse(414, f"The request target has more than {TARGET_BYTES} bytes.")
        else:
            self.refuse(431, f"More than {HEAD_BYTES} bytes or {HEADERS} headers.")

    def _upgrade(self, rest: bytes) -> None:
        """Switch to a WebSocket, or parse the request again as if it asked for no upgrade.

        A client may ask for HTTP/2 with any request, one with a body too (RFC 9110 section 7.8),
        and the parser takes none. `rest` is what came after the head.
        """
        if self.refusal is not None:
            return
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(501, "CONNECT is for proxies.")
        elif self._should_upgrade() and self.serving is None:
            self.open_connections.remove(self)
            self.handle_websocket_upgrade()
        else:
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
            lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self._parse(b"\r\n".join([*lines, b"", rest]))

    # Callbacks of the parser

    def on_headers_complete(self) -> None:
        """Start or queue the request."""
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return  # the parser raises, see `_upgrade`
        if self.refusal is not None or self._is_too_large():
            return
        self.overhead = 0
        self.in_body = True
        if self.serving is None:
            self._begin()
        super().on_headers_complete()
        self.headers = []  # trailers are no headers (RFC 9110 section 6.5.1)
        cycle = self.cycle
        cycle.__class__ = Cycle
        if self.stopping or not self.parser.should_keep_alive():
            cycle.keep_alive = False
        if self.serving is None:
            self.serving = cycle

    def _begin(self) -> None:
        if self.open_connections.full:
            self.app = self.open_connections.probes_only(self.app)
        self.open_connections.set_busy(self)

    def _is_too_large(self) -> bool:
        large = len(self.url) > TARGET_BYTES or len(self.headers) > HEADERS
        if not large and self.overhead > HEAD_BYTES:  # with what came after the head
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            large = size > HEAD_BYTES
        if large:
            self._refuse_size()
        return large

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self.overhead = max(0, self.overhead - (OVERHEAD + 1) * len(body))
        if self.refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of the body."""
        if self.refusal is not None or self.parser.should_upgrade():
            return
        self.in_body = False
        super().on_message_complete()
        if self.serving is None:  # the response came first: uvicorn has no timer any more
            self.open_connections.set_deadline(self, self.open_connections.head_timeout)

    # The application

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one."""
        self.serving = self.pipeline[-1][0] if self.pipeline else None
        pipelined = self.serving is not None
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if pipelined:
            self._parse_pipelined()
            self.flow.resume_reading()
        else:
            self._wait()

    def _wait(self) -> None:
        """Wait for the next request; send what a broken one was refused with."""
        if self.refusal is not None:
            self._send_refusal()
        elif self.half_closed:
            self.transport.close()
        else:
            self.open_connections.set_idle(self)
            if self.in_body:  # of which nothing is used any more
                self.open_connections.set_deadline(self, self.open_connections.body_timeout)

    def body_awaited(self) -> None:
        """Start the deadline for the next part of the body."""
        self.open_connections.set_deadline(self, self.open_connections.body_timeout)

    def body_received(self) -> None:
        """End the deadline for it."""
        if self.refusal is None:
            self.open_connections.deadlines.pop(self, None)

    def _disconnect(self) -> None:
        """Send `http.disconnect` to the application."""
        if self.serving is not None:
            self.serving.disconnected = True
            self.serving.message_event.set()

    # Ends

    def shutdown(self) -> None:
        """Close after the requests that are answered, or that the client may just have sent.

        uvicorn closes a connection without a request at once: what its client has sent in that
        moment is answered with a reset.
        """
        self.stopping = True
        if self.serving is None:
            self.open_connections.set_deadline(self, LAST_REQUEST)
        else:
            super().shutdown()

    def expire(self) -> None:
        """Close what has sent nothing, or was refused already; answer 408 to half a request."""
        drained = self.serving is None and (self.in_body or not self.overhead)
        if self.refusal is not None or drained:
            self.transport.abort()
        else:
            self.refuse(408, "The request was not complete in time.")

    def evict(self) -> None:
        """Make room for another connection; the newest itself has to go where all are busy."""
        if self.open_connections.full:
            self.transport.write(self._error(503, "Too many connections."))
        self.open_connections.remove(self)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request, as uvicorn would."""
        self.refuse(400, msg)

    def refuse(self, status: int, text: str) -> None:
        """Answer an error, after all requests before, and close. Nothing more is parsed."""
        if self.refusal is not None:
            return
        self.logger.info("%s: %d %s", self.client or "A client", status, text)
        self.refusal = self._error(status, text)
        self.unparsed.clear()
        if self.in_body and self.pipeline:
            self.pipeline.popleft()  # the newest is the one with the broken body
        elif self.in_body:
            self._disconnect()
            if self.serving is not None and self.serving.response_started:
                self.transport.close()
            else:
                self._send_refusal()
            return
        if self.serving is None:
            self._send_refusal()
        else:
            self.flow.pause_reading()

    def _send_refusal(self) -> None:
        """Send it, and read on for a moment: a reset would take it away from the client."""
        assert self.refusal is not None
        self.transport.write(self.refusal)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self.open_connections.set_idle(self)
        self.open_connections.set_deadline(self, IDLE_TIMEOUT)

    def _error(self, status: int, text: str) -> bytes:
        """Return a whole response."""
        body = f"{status}: {text}".encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
        lines += [header_prefix(name) + value for name, value in headers]
        return b"\r\n".join([*lines, b"", body])
