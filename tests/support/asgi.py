"""Requests to an ASGI application in the test process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulpcore.content_star.resources import STATE_KEY


def get_raw(app: ASGIApp, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Send GET for a path unchanged, which clients would normalize."""

    async def with_raw_path(scope: Scope, receive: Receive, send: Send) -> None:
        raw, _, query = path.encode("latin-1").partition(b"?")
        await app(
            {
                **scope,
                "raw_path": raw,
                "path": unquote(path.partition("?")[0]),
                "query_string": query,
            },
            receive,
            send,
        )

    return get(with_raw_path, "/", headers)


def get(
    app: ASGIApp,
    path: str,
    headers: dict[str, str] | None = None,
    root_path: str = "",
    method: str = "GET",
) -> httpx.Response:
    """Send GET, or another method, to `app`, and return the response; its exceptions are raised."""

    async def request() -> httpx.Response:
        async with client_of(app, root_path) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())


def client_of(app: ASGIApp, root_path: str = "") -> httpx.AsyncClient:
    """Return a client of `app` in the running event loop."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://pulp")


class Running:
    """A started application: its lifespan state is in the scope of each request, as by servers."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": self.state.copy()}, receive, send)


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[Running]:
    """Run the lifespan of `app` during the block."""
    state: dict[str, Any] = {}
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    lifespan = asyncio.create_task(app(scope, received.get, sent.put))
    try:
        await received.put({"type": "lifespan.startup"})
        started = await sent.get()
        assert started["type"] == "lifespan.startup.complete", started
        yield Running(app, state)
    finally:
        await received.put({"type": "lifespan.shutdown"})
        await lifespan


def state_of(**resources: object) -> dict[str, Any]:
    """Return a lifespan state with some resources of an application."""
    return {STATE_KEY: SimpleNamespace(**resources)}
