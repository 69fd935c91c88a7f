"""Limits of request headers that Django and REST framework parse in super-linear time.

Servers limit the size of all headers together, if at all: uvicorn with httptools does not.
"""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.responses.headers import too_long


class HeaderLimits:
    """ASGI middleware that responds 431 to over-long headers (RFC 6585 section 5)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (names := too_long(scope["headers"])):
            listed = ", ".join(sorted(name.decode("latin-1") for name in names))
            detail = f"431: The request header is too long: {listed}.\n"
            await PlainTextResponse(detail, 431)(scope, receive, send)
            return
        await self.app(scope, receive, send)
