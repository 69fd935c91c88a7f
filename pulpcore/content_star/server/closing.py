"""Closing of connections: after the last response, an error, a timeout or the limit."""

import asyncio
import socket
from contextlib import suppress
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pulpcore.content_star.server.connections import TOO_MANY, Connections
from pulpcore.content_star.server.cycle import Cycle
from pulpcore.content_star.server.error_response import error_response
from pulpcore.content_star.server.file_range import disconnect
from pulpcore.content_star.server.flow import Flow
from pulpcore.content_star.server.limits import (
    HALF_CLOSED_TIMEOUT,
    LINGER_TIMEOUT,
    SHUTDOWN_GRACE,
)
from pulpcore.content_star.server.sockets import idle_seconds, probe, stalled_seconds


class ClosingProtocol(HttpToolsProtocol):
    """Protocol of a connection that ends without cutting off a response.

    An error response never interrupts another response. A half-closed connection gets its
    responses. What the client sends after the last response is dropped until it has read that
    (lingering close, RFC 9112 section 9.6).
    """

    flow: Flow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.open_connections = Connections.of(server_state, self.loop)
        self.tcp: asyncio.Transport | None = None  # below that of TLS
        self.socket: socket.socket = None  # type: ignore[assignment]
        self.serving: Cycle | None = None  # uvicorn's `cycle` is the newest request
        self.unparsed = bytearray()
        self.overhead = 0  # bytes of a head or of framing, since the last part of a body
        self.in_message = False  # of the parser
        self.in_body = False
        self.half_closed = False
        self.stopping = False
        self.ending = False  # after the last response
        self.ended = 0.0
        self.has_dropped = False
        self.refusal: bytes | None = None

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self.socket.fileno()

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

    def abort(self) -> None:
        """Abort the connection."""
        (self.tcp or self.transport).abort()

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

    def _disconnect(self) -> None:
        """Send `http.disconnect` to the application."""
        if self.serving is not None:
            disconnect(self.serving)

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
        elif self.serving is not None or (self.in_message and not self.in_body):
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
        """Close if all is sent; abort if it is closed, for not every client sends close_notify.

        The shutdown of TLS has a timeout, which would cut off what is not sent, and asyncio resets
        a connection that receives data behind close_notify.
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
        if self.ending or self.unsent or not self.open_connections.full:
            self.abort()
            return
        self.refusal = error_response(503, TOO_MANY, self.server_state.default_headers)
        self.transport.write(self.refusal)
        self.transport.close()
        if self.tcp is not None:
            self.tcp.close()  # without waiting for the client's close_notify
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
