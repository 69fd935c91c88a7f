"""ASGI middleware for what uvicorn lacks: requirements of RFC 9112, and zero copy."""

import logging
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.responses.headers import is_host
from pulpcore.content_star.responses.immediate import (
    HEAD_CACHE,
    ImmediateResponse,
    immediate_response,
)

logger = logging.getLogger(__name__)

try:
    from pulpcore.content_star.server import HttpProtocol, offer_zero_copy, uvicorn_cycle
except ImportError as error:  # an unsupported version of uvicorn
    logger.warning(
        "Responses to HTTP/1.0 clients may be chunked, and large files take more CPU time: %s",
        error,
    )
    HttpProtocol = None  # type: ignore[assignment, misc]

    def offer_zero_copy(scope: Scope, send: Send) -> Send:
        return send

    def uvicorn_cycle(send: Send) -> Any:  # type: ignore[misc]
        return None


OPTION = "--http pulpcore.content_star.server:HttpProtocol"

_CHECKED = "content_star.conforms"


class Conformance:
    """ASGI middleware that refuses requests with an invalid `Host`, version or transfer coding.

    To HTTP/1.0, a response without a length ends with the connection instead of being chunked.
    Under uvicorn, it offers to send files without copying them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        """Return the response if it is in memory, see `responses/immediate.py`."""
        cached = scope.get(HEAD_CACHE, {})
        if _CHECKED not in cached and _problem(scope["http_version"], scope["headers"]) is not None:
            return None
        cached[_CHECKED] = scope[_CHECKED] = True
        return immediate_response(self.app, scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            version = scope["http_version"]
            problem = None if _CHECKED in scope else _problem(version, scope["headers"])
            if problem is not None:
                status, text = problem
                headers = {"Connection": "close"}
                response = PlainTextResponse(f"{status}: {text}", status, headers)
                return await response(scope, receive, send)
            cycle = uvicorn_cycle(send) if version == "1.0" else None
            send = offer_zero_copy(scope, send)
            if cycle is not None:
                send = _until_close(cycle, send)
        elif scope["type"] == "lifespan":
            _warn_without_limits(send)
        await self.app(scope, receive, send)


def _problem(version: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """Return status and detail of the error response, None for a valid request."""
    if version in ("2", "3"):
        return None  # HTTP/2 and HTTP/3 servers check this
    if version not in ("1.1", "1.0"):
        return 505, f"HTTP/{version} is not supported."
    hosts = []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            if version == "1.0":
                return 400, "HTTP/1.0 requests cannot have Transfer-Encoding."
            if value.lower() != b"chunked":
                return 501, "The only supported transfer coding is chunked."
    if len(hosts) > 1 or not all(map(is_host, hosts)):
        return 400, "The request must have exactly one Host header with a valid host."
    if not hosts and version == "1.1":
        return 400, "An HTTP/1.1 request must have a Host header."
    return None


def _until_close(cycle: Any, send: Send) -> Send:
    """Return a `send` for which uvicorn does not chunk a response without a length.

    Not needed with h11, which does not chunk to HTTP/1.0.
    """
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


def _warn_without_limits(send: Send) -> None:
    """Log a warning at start if uvicorn runs without the limits of `HttpProtocol`."""
    config = getattr(getattr(send, "__self__", None), "config", None)
    protocol = getattr(config, "http_protocol_class", None)
    if protocol is None or (HttpProtocol is not None and issubclass(protocol, HttpProtocol)):
        return
    logger.warning(
        "uvicorn runs without connection limits: idle and half-open connections, large headers,"
        " stalled uploads and pipelining are not bounded. Start it with %s, or put a reverse proxy"
        " in front.",
        OPTION,
    )
