"""Requests to an ASGI application in the test process."""

import asyncio

import httpx
from starlette.types import ASGIApp


def get(
    app: ASGIApp,
    path: str,
    headers: dict[str, str] | None = None,
    root_path: str = "",
    method: str = "GET",
) -> httpx.Response:
    """Send GET, or another method, to `app`; what it raises is raised."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://pulp") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())
