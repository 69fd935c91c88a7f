"""Pulp's application, which counts its calls: `GET /calls` returns how many there were."""

from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from pulpcore.content_star.responses.immediate import ImmediateResponse, immediate_response
from pulpcore.routing import application as pulp


class Called:
    calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/calls":
            return await PlainTextResponse(str(self.calls))(scope, receive, send)
        if scope["type"] == "http":
            self.calls += 1
        await pulp(scope, receive, send)

    def immediate_response(self, scope: Scope) -> ImmediateResponse | None:
        return immediate_response(pulp, scope)


app = Called()


async def closed(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond 403 to requests without the key, as middleware of an operator may."""
    if scope["type"] != "http" or (b"x-key", b"open") in scope["headers"]:
        return await pulp(scope, receive, send)
    await PlainTextResponse("closed", 403)(scope, receive, send)


async def always_called(scope: Scope, receive: Receive, send: Send) -> None:
    """Middleware of an operator, which changes nothing."""
    await pulp(scope, receive, send)


class Transparent:
    """Middleware of an operator, which passes on what else is asked of the application."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pulp, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await closed(scope, receive, send)


transparent = Transparent()
