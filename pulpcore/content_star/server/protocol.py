"""uvicorn's HTTP protocol (httptools) with timeouts and limits."""

import asyncio
import socket
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pulpcore.content_star.server.closing import ClosingProtocol
from pulpcore.content_star.server.cycle import Cycle, start_request
from pulpcore.content_star.server.flow import EncryptedFlow, Flow
from pulpcore.content_star.server.handshake import Handshake, tls_context
from pulpcore.content_star.server.immediate import ImmediateResponses
from pulpcore.content_star.server.internals import require
from pulpcore.content_star.server.limits import (
    HEAD_BYTES,
    HEADERS,
    MAX_FRAMING_RATIO,
    MIN_PARSE_BYTES,
    PIPELINE,
    TARGET_BYTES,
    TLS_BUFFER_BYTES,
)
from pulpcore.content_star.server.sockets import set_nodelay

require(
    HttpToolsProtocol,
    {
        "connection_made", "connection_lost", "eof_received", "on_body", "on_headers_complete",
        "on_message_begin", "on_message_complete", "on_response_complete", "send_400_response",
        "timeout_keep_alive_handler", "_get_upgrade", "_unset_keepalive_if_required",
    },
    {
        "access_log", "app", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope",
        "server_state", "timeout_keep_alive", "transport",
    },
)  # fmt: skip


class HttpProtocol(ClosingProtocol):
    """Protocol of one connection, with limits and timeouts.

    Responds 408 to a head that is not complete in time and to a body that stalls while the
    application waits for it, 431 or 414 to a large head, and 400 to an invalid one.
    """

    starts_tls = True
    """The event loop is not to start TLS, see `handshake`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self.head = b""  # the data that is being parsed, if it begins with one
        self.connection: dict[str, Any] = {}
        self.immediate_responses = ImmediateResponses.of(config)

    # asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start TLS if the server has it, or the deadline for the first request."""
        context = tls_context(self.config)
        if context is not None and not transport.get_extra_info("sslcontext"):
            Handshake(self, transport, context)
            return
        super().connection_made(transport)
        if self.tcp is None:
            self.flow = Flow(transport, self.pipeline)
        else:
            self.flow = EncryptedFlow(self.tcp, self.pipeline)
            transport.set_write_buffer_limits(high=TLS_BUFFER_BYTES)
        self.socket = transport.get_extra_info("socket")
        if self.socket.family == socket.AF_UNIX:
            set_nodelay(self.socket)  # asyncio does that where the family is right
        self.connection = {"client": self.client, "server": self.server, "scheme": self.scheme}
        self.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Send `http.disconnect` for the request being served, not only for the newest one."""
        self.open_connections.remove(self)
        self.pipeline.clear()
        self.unparsed.clear()
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data; pipelined requests are parsed in turn."""
        if self.refusal is not None or self.ending:
            self.has_dropped = True
            return
        if self._respond_unparsed(data):
            return
        if self.unparsed or data.count(b"\r\n\r\n") > 1:
            self.unparsed += data
            self._parse_pipelined()
        else:
            self._parse(data)

    # Parsing

    def _parse_pipelined(self) -> None:
        """Parse until the queue is full, then pause reading."""
        while self.unparsed and self.refusal is None and len(self.pipeline) < PIPELINE:
            end = self.unparsed.find(b"\r\n\r\n", MIN_PARSE_BYTES) + 4
            if end < 4:
                end = len(self.unparsed)
            piece = bytes(self.unparsed[:end])
            del self.unparsed[:end]
            self._parse(piece)
        if self.unparsed:
            self.flow.pause_reading()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.head = b"" if self.overhead or self.in_message else data
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request.")
        self.head = b""
        if self.overhead:
            self._check_overhead()

    def _check_overhead(self) -> None:
        """Start the deadline of an incomplete head, and refuse excessive heads and framing."""
        if self.overhead > HEAD_BYTES:
            self._refuse_size()
        elif not self.in_body and self.serving is None:
            self.open_connections.deadlines.setdefault(
                self, self.loop.time() + self.open_connections.head_timeout
            )

    def _refuse_size(self) -> None:
        if self.in_body:
            self.refuse(400, "Too many chunk extensions or trailers for the size of the body.")
        elif len(self.url) > TARGET_BYTES:
            self.refuse(414, f"The request target is longer than {TARGET_BYTES} bytes.")
        else:
            self.refuse(
                431, f"The request head has more than {HEAD_BYTES} bytes or {HEADERS} headers."
            )

    def _upgrade(self, rest: bytes) -> None:
        """Refuse WebSocket, or parse the request again without its `Upgrade` header.

        Any request may offer an upgrade, to HTTP/2 for example, even one with a body (RFC 9110
        section 7.8), and the parser stops there. `rest` is the data after the head.

        uvicorn's WebSocket classes would have the connection without a limit or a timeout.
        """
        if self.refusal is not None:
            return
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(501, "The method CONNECT is not supported: this server is not a proxy.")
        elif self._get_upgrade() == b"websocket":
            self.refuse(501, "Pulp does not support WebSocket.")
        else:
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
            lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self._parse(b"\r\n".join([*lines, b"", rest]))

    # Parser callbacks

    def on_message_begin(self) -> None:
        """Begin a request, perhaps in data that has the end of another one."""
        self.in_message = True
        self.overhead = max(self.overhead, 1)  # behind another one, its size is not known yet
        if self.serving is None and not self.stopping:
            self.open_connections.deadlines.pop(self, None)  # of keep-alive, or of the first byte
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start or queue the request."""
        if self.parser.should_upgrade():
            return  # the parser raises an exception, see `_upgrade`
        if self.refusal is not None:
            return
        is_long = len(self.url) > TARGET_BYTES or self.overhead > HEAD_BYTES
        if (is_long or len(self.headers) > HEADERS) and self._is_too_large():
            return
        self.overhead = 0
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110 section 10.1.1
        if self.serving is None:
            if self._respond_parsed():
                return
            self._begin()
        start_request(self)  # raises an exception if the target is invalid
        self.in_body = True
        self.headers = []  # trailers are no headers (RFC 9110 section 6.5.1)
        cycle = cast(Cycle, self.cycle)
        cycle.tcp = self.tcp
        if self.stopping or not self.parser.should_keep_alive():
            cycle.keep_alive = False
        if self.serving is None:
            self.serving = cycle

    def _respond_unparsed(self, data: bytes) -> bool:
        """Respond immediately to a request whose head has been parsed before."""
        if self.in_message or self.serving is not None:
            return False
        scope = self.immediate_responses.heads.get(data, self.connection)
        if scope is None or not self._respond_immediately(scope):
            return False
        self.overhead = 0  # empty lines before the head
        self._unset_keepalive_if_required()
        self.open_connections.set_deadline(self, self.timeout_keep_alive)
        return True

    def _respond_parsed(self) -> bool:
        """Respond immediately to the request that has just been parsed."""
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        scope, heads = cast(Scope, self.scope), self.immediate_responses.heads
        if not heads.complete(scope, self.parser.get_method(), self.url):
            return False
        if not self._respond_immediately(scope):
            return False
        heads.add(self.head, scope)
        return True

    def _respond_immediately(self, scope: Scope) -> bool:
        """Send the response if it is in memory, and return whether it is.

        Not while a client does not read, nor to pipelined requests, of which one read may have
        thousands: a task lets others have their turn.
        """
        if self.flow.write_paused or self.unparsed or self.stopping or self.access_log:
            return False
        if self.open_connections.full:
            return False
        response = self.immediate_responses.bytes_for(scope, self.server_state.default_headers)
        if response is None:
            return False
        self.transport.write(response)
        self.server_state.total_requests += 1
        self.open_connections.set_busy(self)
        self.open_connections.set_idle(self)  # as the newest
        return True

    def _begin(self) -> None:
        self.app = self.config.loaded_app
        if self.open_connections.full:
            self.app = self.open_connections.probes_only(self.app)
        self.open_connections.set_busy(self)

    def _is_too_large(self) -> bool:
        large = len(self.url) > TARGET_BYTES or len(self.headers) > HEADERS
        if not large and self.overhead > HEAD_BYTES:  # includes data after the head
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            large = size > HEAD_BYTES
        if large:
            self._refuse_size()
        return large

    def on_body(self, body: bytes) -> None:
        """Add a part of the body."""
        self.overhead = max(0, self.overhead - (MAX_FRAMING_RATIO + 1) * len(body))
        if self.refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Complete the body."""
        self.in_message = False
        if self.refusal is not None or self.parser.should_upgrade():
            return
        self.overhead = 0  # the last chunk and the trailers
        self.in_body = False
        if self.serving is None:  # after the response, when uvicorn has no keep-alive timer
            self.open_connections.set_deadline(self, self.timeout_keep_alive)
        else:
            HttpToolsProtocol.on_message_complete(self)

    # The application

    def on_response_complete(self) -> None:
        """Serve the next pipelined request, or wait for one."""
        is_last = self.serving is not None and self.serving.is_last
        if is_last:
            self.pipeline.clear()
        self.serving = cast(Cycle, self.pipeline[-1][0]) if self.pipeline else None
        if is_last and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self._end()
            return
        pipelined = self.serving is not None
        HttpToolsProtocol.on_response_complete(self)
        if self.transport.is_closing():
            return
        if pipelined:
            self._parse_pipelined()
            self.flow.resume_reading()
        else:
            self._wait()

    def _wait(self) -> None:
        """Wait for the next request; send a pending error response; close if half-closed."""
        if self.refusal is not None:
            self._send_refusal()
        elif self.half_closed:
            self.transport.close()
        else:
            self.open_connections.set_idle(self)
            if self.in_body:  # the rest of a body that is dropped
                self.open_connections.set_deadline(self, self.open_connections.body_timeout)
            elif self.in_message:  # a head, of which a part has been received
                self._unset_keepalive_if_required()
                self.open_connections.set_deadline(self, self.open_connections.head_timeout)

    def body_awaited(self) -> float:
        """Start and return the deadline for the next part of the body."""
        self.open_connections.set_deadline(self, self.open_connections.body_timeout)
        return self.open_connections.deadlines[self]

    def body_received(self, deadline: float) -> None:
        """Remove the deadline for the body, unless another wait has begun."""
        if self.refusal is None and self.open_connections.deadlines.get(self) == deadline:
            del self.open_connections.deadlines[self]
