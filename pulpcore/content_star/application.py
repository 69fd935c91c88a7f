"""Builds the Starlette app that serves content."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.conf import settings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from pulpcore.content_star.content import Content
from pulpcore.content_star.correlation import CorrelationId
from pulpcore.content_star.db import Door
from pulpcore.content_star.errors import Errors
from pulpcore.content_star.heartbeat import AppType, Heartbeat


def create_application(*app_types: AppType) -> Starlette:
    """Build the content app.

    `app_types` is what the process that runs it is, and registers as in Pulp's status.
    """
    door = Door(settings.CONTENT_STAR_DATABASE_THREADS)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        heartbeat = Heartbeat(*app_types)
        await heartbeat.start()
        yield
        await heartbeat.stop()
        await door.close()

    return Starlette(
        routes=[Route("/{path:path}", Errors(Content(door, settings.CONTENT_PATH_PREFIX)))],
        middleware=[Middleware(CorrelationId)],
        lifespan=lifespan,
    )
