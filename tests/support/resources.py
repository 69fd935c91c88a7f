"""Resources of an application, for parts of it that tests call themselves."""

import asyncio

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from pulpcore.content_star.application import Settings, open_resources
from pulpcore.content_star.database.executor import DatabaseExecutor
from pulpcore.content_star.resources import STATE_KEY
from tests.support.asgi import get


def with_resources(app: ASGIApp, executor: DatabaseExecutor, **settings: float) -> ASGIApp:
    """Return `app` with resources of its own for each request, closed when it has ended."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async with open_resources(executor, Settings(**settings)) as resources:
            await app({**scope, "state": {STATE_KEY: resources}}, receive, send)

    return served


def get_with_resources(app: ASGIApp, path: str) -> httpx.Response:
    """Send GET to an application that fetches from remotes."""
    executor = DatabaseExecutor(1)
    try:
        return get(with_resources(app, executor), path)
    finally:
        asyncio.run(executor.close())
