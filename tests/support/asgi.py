"""Requests to an ASGI application in the test process."""

import asyncio
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send


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
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())
