"""Lengths of request headers whose parsers, Django's and REST framework's, are slow with long ones.

Servers limit all headers together, if at all: uvicorn with httptools does not.
"""

from collections.abc import Iterable

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Bytes. Django parses a `Content-Type` in quadratic time, on the event loop: 0.6 s for 100 kB, a
# minute for 1 MB. REST framework parses each member of `Accept` for each renderer. The longest that
# clients send are those of browsers, of 200, and multipart boundaries, of 70.
MAX_LENGTHS = {b"content-type": 1024, b"accept": 4096}

Headers = Iterable[tuple[bytes, bytes]]


def too_long(headers: Headers) -> set[bytes]:
    """Return the names of headers that are longer than `MAX_LENGTHS` says."""
    return {name for name, value in headers if len(value) > MAX_LENGTHS.get(name, len(value))}


class HeaderLimits:
    """ASGI middleware that answers requests with too long headers 431 (RFC 6585 section 5)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (names := too_long(scope["headers"])):
            listed = ", ".join(sorted(name.decode("latin-1") for name in names))
            detail = f"431: The request header is too long: {listed}.\n"
            await PlainTextResponse(detail, 431)(scope, receive, send)
            return
        await self.app(scope, receive, send)
