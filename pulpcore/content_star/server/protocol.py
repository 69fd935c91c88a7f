"""uvicorn's HTTP protocol (httptools) with timeouts and limits."""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pulpcore.content_star.server.connections import TOO_MANY, Connections
from pulpcore.content_star.server.cycle import Cycle, start_request
from pulpcore.content_star.server.error_response import error_response
from pulpcore.content_star.server.file_range import disconnect
from pulpcore.content_star.server.handshake import Handshake, tls_context
from pulpcore.content_star.server.immediate import ImmediateResponses
from pulpcore.content_star.server.internals import require
from pulpcore.content_star.server.limits import (
    HALF_CLOSED_TIMEOUT,
    HEAD_BYTES,
    HEADERS,
    LINGER_TIMEOUT,
    MAX_FRAMING_RATIO,
    MIN_PARSE_BYTES,
    PIPELINE,
    SHUTDOWN_GRACE,
    TARGET_BYTES,
    TLS_BUFFER_BYTES,
)
from pulpcore.content_star.server.sockets import (
    idle_seconds,
    probe,
    set_nodelay,
    stalled_seconds,
)

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


class Flow(FlowControl):
    """Flow control that keeps reading paused while pipelined requests are queued.

    With TLS, it has the transport below, since asyncio reads the end of TCP while only that of TLS
    is paused, and drops what is written from then on.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Resume reading, unless requests are queued."""
        if not self._pipeline:
            super().resume_reading()


class EncryptedFlow(Flow):
    """Flow control that reads nothing while TLS has data to send.

    TLS itself responds to what it reads, to an update of keys for example: from a client that does
    not read, that would fill the memory.
    """

    def pause_writing(self) -> None:
        """Pause writing and reading."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume writing, and reading unless it is paused itself."""
        super().resume_writing()
        if not self.read_paused:
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Resume reading, unless requests are queued or writing is paused."""
        super().resume_reading()
        if self.write_paused:
            self._transport.pause_reading()


class HttpProtocol(HttpToolsProtocol):
    """Protocol of one connection, with limits and timeouts.

    Responds 408 to a head that is not complete in time and to a body that stalls while the
    application waits for it, 431 or 414 to a large head, and 400 to an invalid one. An error
    response never interrupts another response. A half-closed connection gets its responses.
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
        self.open_connections = Connections.of(server_state, self.loop)
        self.url = b""
        self.tcp: asyncio.Transport | None = None  # below that of TLS
        self.socket: socket.socket = None  # type: ignore[assignment]
        self.serving: Cycle | None = None  # uvicorn's `cycle` is the newest request
        self.unparsed = bytearray()
        self.overhead = 0  # bytes since the last head or body
        self.in_body = False
        self.half_closed = False
        self.stopping = False
        self.ending = False  # after the last response
        self.ended = 0.0
        self.has_dropped = False
        self.refusal: bytes | None = None
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
        self.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Send `http.disconnect` for the request being served, not only for the newest one."""
        self.open_connections.remove(self)
        self.pipeline.clear()
        self.unparsed.clear()
        self._disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a half-closed connection open until its responses are sent.

        It is not distinguishable from a connection that the client has closed completely, until
        something is sent: a response, or a probe of TCP keep-alive. Over TLS, event loops drop
        what is written from now on.
        """
        if self.tcp is not None:
            self._disconnect()
        self.half_closed = self.serving is not None and not self.in_body and self.scheme == "http"
        if self.half_closed:
            probe(self.socket)
            self.open_connections.set_deadline(self, HALF_CLOSED_TIMEOUT)
        return self.half_closed

    def data_received(self, data: bytes) -> None:
        """Parse received data; pipelined requests are parsed in turn."""
        if self.refusal is not None or self.ending:
            self.has_dropped = True
            return
        if self.unparsed or data.count(b"\r\n\r\n") > 1:
            self.unparsed += data
            self._parse_pipelined()
        else:
            self._parse(data)

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self.socket.fileno()

    def abort(self) -> None:
        """Abort the connection."""
        (self.tcp or self.transport).abort()

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet.

        A transport of TLS is not asked if it is closed: asyncio's raises exceptions if that was
        done twice, as uvicorn does after an exception of the application.
        """
        if self.tcp is None:
            return self.transport.get_write_buffer_size()
        own = 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()
        return own + self.tcp.get_write_buffer_size()

    @property
    def is_lost(self) -> bool:
        """Whether the client has ended TCP before TLS: event loops then drop what is written."""
        tcp = self.tcp
        return self.serving is not None and tcp is not None and tcp.is_closing()

    @property
    def is_unread(self) -> bool:
        """Whether the event loop does not detect a disconnect, since it does not read."""
        is_paused = self.flow.read_paused or (self.tcp is not None and self.flow.write_paused)
        return self.half_closed or is_paused

    @property
    def stalled_seconds(self) -> float:
        """Seconds for which the client has not read what waits for it."""
        return stalled_seconds(self.socket)

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
        if self.serving is None and not (self.overhead or self.in_body or self.stopping):
            self.open_connections.deadlines.pop(self, None)  # of keep-alive: a head begins
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
            if self._respond_immediately():
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

    def _respond_immediately(self) -> bool:
        """Send the response if it is in memory, and return whether it is.

        Not while a client does not read, nor to pipelined requests, of which one read may have
        thousands: a task lets others have their turn.
        """
        if self.flow.write_paused or self.unparsed or self.stopping or self.access_log:
            return False
        if self.open_connections.full or not self.parser.should_keep_alive():
            return False
        if self.parser.get_http_version() != "1.1":
            return False
        response = self.immediate_responses.bytes_for(
            self.scope, self.parser.get_method(), self.url, self.server_state.default_headers
        )
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
        if self.refusal is not None or self.parser.should_upgrade():
            return
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

    def body_awaited(self) -> None:
        """Start the deadline for the next part of the body."""
        self.open_connections.set_deadline(self, self.open_connections.body_timeout)

    def body_received(self) -> None:
        """Remove the deadline for the body."""
        if self.refusal is None:
            self.open_connections.deadlines.pop(self, None)

    def _disconnect(self) -> None:
        """Send `http.disconnect` to the application."""
        if self.serving is not None:
            disconnect(self.serving)

    # Closing

    def shutdown(self) -> None:
        """Close after the current requests, and after one that the client may just have sent.

        uvicorn closes an idle connection at once, and a request sent in that moment gets a reset.
        """
        self.stopping = True
        if self.serving is None:
            self.open_connections.set_deadline(self, SHUTDOWN_GRACE)
        else:
            cast(Cycle, self.cycle).end_connection()

    def expire(self) -> None:
        """Close an idle or refused connection; respond 408 to an incomplete request."""
        if self.half_closed and self.serving is not None:
            self._expire_half_closed()
        elif self.refusal is not None and not self.ending:
            self.abort()
        elif self.ending or self.transport.is_closing():
            self._close()
        elif self.serving is not None or (self.overhead and not self.in_body):
            self.refuse(408, "The request was not received in time.")
        elif self.stopping and not self.unsent:
            self.abort()
        else:
            self._end()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection; called by uvicorn."""
        self._end()

    def _end(self) -> None:
        """Close once the client has read its responses, and drop what it sends until then.

        Closed with data that has not been read, the connection would be reset, and the responses
        with it (RFC 9112 section 9.6).
        """
        self.ending = True
        self.ended = self.loop.time()
        self.unparsed.clear()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.half_closed:
            self.transport.close()
            return
        self.flow.resume_reading()
        self.open_connections.set_busy(self)
        self.open_connections.set_idle(self)  # as the newest
        if self.transport.can_write_eof():
            with suppress(OSError):  # the client has just reset the connection
                self.transport.write_eof()
            self._linger()
        elif self.refusal is not None:
            self.open_connections.set_deadline(self, 0)
        else:
            self._close()

    def _close(self) -> None:
        """Close if all is sent, and abort if that has been done: not every client ends TLS.

        To end TLS has a timeout, which would cut off what is not sent, and asyncio resets a
        connection that receives more data than the end.
        """
        is_sending, self.has_dropped = self.has_dropped, False
        if self.unsent or (is_sending and self.loop.time() < self.ended + LINGER_TIMEOUT):
            self.open_connections.set_deadline(self, 0)
        elif self.transport.is_closing() or self.transport.can_write_eof():
            self.abort()
        else:
            self.transport.close()
            self._linger()

    def _linger(self) -> None:
        seconds = SHUTDOWN_GRACE if self.stopping else LINGER_TIMEOUT
        self.open_connections.set_deadline(self, seconds)

    def _expire_half_closed(self) -> None:
        idle = idle_seconds(self.socket)
        if idle >= HALF_CLOSED_TIMEOUT:
            self.abort()
        else:
            self.open_connections.set_deadline(self, HALF_CLOSED_TIMEOUT - idle)

    def evict(self) -> None:
        """Abort the connection because of the limit, after 503 if all others are busy.

        To close it would keep the file descriptor until the client has read its response.
        """
        self.open_connections.remove(self)
        if self.ending or not self.open_connections.full:
            self.abort()
            return
        self.refusal = error_response(503, TOO_MANY, self.server_state.default_headers)
        self.transport.write(self.refusal)
        self.transport.close()
        if self.tcp is not None:
            self.tcp.close()  # without the end of TLS by the client
        self.open_connections.set_deadline(self, LINGER_TIMEOUT)

    def send_400_response(self, msg: str) -> None:
        """Refuse an invalid request; called by uvicorn."""
        self.refuse(400, msg)

    def refuse(self, status: int, text: str) -> None:
        """Send an error response after those of earlier requests, and close. Parsing stops."""
        if self.refusal is not None:
            return
        self.logger.info("%s: %d %s", self.client or "A client", status, text)
        self.refusal = error_response(status, text, self.server_state.default_headers)
        self.unparsed.clear()
        if self.in_body and self.pipeline:
            self.pipeline.popleft()  # the newest request, whose body is invalid
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
        """Send the error response, which the client may read while its data is dropped."""
        assert self.refusal is not None
        self.transport.write(self.refusal)
        self._end()
