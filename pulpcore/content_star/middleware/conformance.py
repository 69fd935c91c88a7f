"""ASGI middleware: what RFC 9112 asks of a server, and uvicorn leaves to nobody."""

import logging
import re
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

try:
    from pulpcore.content_star.server import HttpProtocol, uvicorn_cycle
except ImportError as error:  # a uvicorn that is too new
    logger.warning("Responses to HTTP/1.0 may be chunked: %s", error)
    HttpProtocol = None  # type: ignore[assignment, misc]

    def uvicorn_cycle(send: Send) -> Any:  # type: ignore[misc]
        return None


OPTION = "--http pulpcore.content_star.server:HttpProtocol"

# RFC 3986 section 3.2, for a host that is not empty (RFC 9110 section 4.2.1).
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_HOST_BYTES = 1024


class Conformance:
    """ASGI middleware that refuses requests without exactly one valid host, and more.

    A response without a length is sent to HTTP/1.0 until the connection closes, not in chunks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            version = scope["http_version"]
            problem = _problem(version, scope["headers"])
            if problem is not None:
                status, text = problem
                headers = {"Connection": "close"}
                response = PlainTextResponse(f"{status}: {text}", status, headers)
                return await response(scope, receive, send)
            if version == "1.0":
                send = _until_close(send)
        elif scope["type"] == "lifespan":
            _log_protection(send)
        await self.app(scope, receive, send)


def _problem(version: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """Return status and text for a request that has to be refused, None for others."""
    if version in ("2", "3"):
        return None  # there, servers see to it
    if version not in ("1.1", "1.0"):
        return 505, f"HTTP/{version} is not supported."
    hosts = []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            if version == "1.0":
                return 400, "HTTP/1.0 has no Transfer-Encoding."
            if value.lower() != b"chunked":
                return 501, "Only the transfer coding chunked is supported."
    if len(hosts) > 1 or not all(map(_is_host, hosts)):
        return 400, "A request has one Host header, and a valid one."
    if not hosts and version == "1.1":
        return 400, "HTTP/1.1 needs a Host header."
    return None


def _is_host(value: bytes) -> bool:
    return len(value) <= _HOST_BYTES and _HOST.fullmatch(value) is not None


def _until_close(send: Send) -> Send:
    """Return a `send` with which uvicorn does not chunk a response without a length.

    `send` itself for other servers, and for uvicorn's h11, which sees to it.
    """
    cycle = uvicorn_cycle(send)
    if cycle is None:
        return send
    has_length = True

    async def send_unchunked(message: Message) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(
                name.lower() == b"content-length" for name, _ in message.get("headers", ())
            )
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return send_unchunked


def _log_protection(send: Send) -> None:
    """Log once at the start which protections uvicorn lacks with another protocol class."""
    config = getattr(getattr(send, "__self__", None), "config", None)
    protocol = getattr(config, "http_protocol_class", None)
    if protocol is None or (HttpProtocol is not None and issubclass(protocol, HttpProtocol)):
        return
    logger.warning(
        "uvicorn runs without limits on connections: silent and half-open ones, large or endless"
        " headers, stalled uploads and pipelining are not bounded. Start it with %s, or keep a"
        " reverse proxy in front.",
        OPTION,
    )
